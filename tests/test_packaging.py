"""What ``pip install .`` puts into an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build leaves its own folders beside the sources.
    sources = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nectargan", sources / "nectargan", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, sources], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_nothing_lands_beside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        names = set(archive.namelist())
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nectargan"}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nectargan").rglob("*.py")}
    assert modules <= names
    assert "nectargan/py.typed" in names


def test_the_lower_bounds_and_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(info).decode())
        entry_points = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["Requires-Python"] == ">=3.11"
    requirements = [r for r in metadata.get_all("Requires-Dist", []) if "extra" not in r]
    assert "torch>=2.8" in requirements
    assert all(">=" in r for r in requirements)
    assert not any("torchvision" in r for r in requirements)
    assert "nectargan = nectargan.cli.main:main" in entry_points
    assert "nectargan-train = nectargan.cli.train:train" in entry_points


def test_the_commands_work_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    install = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install"]
    subprocess.run([*install, "--no-deps", wheel], check=True, capture_output=True)
    # The dependencies come from the environment of the tests: these run offline.
    import click

    (Path(target) / "dependencies.pth").write_text(str(Path(click.__file__).parents[1]))
    for command in ("nectargan-train", "nectargan"):
        done = subprocess.run(
            [python.parent / command, "--help"], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: {command} [OPTIONS]")
    where = subprocess.run(
        [python, "-c", "import nectargan; print(nectargan.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(target)
