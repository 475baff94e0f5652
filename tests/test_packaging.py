"""What ``pip install .`` puts into an environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: a build leaves its own folders beside the sources."""
    sources = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("nectargan", "configs"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    return sources


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, sources], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_nothing_lands_beside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        names = set(archive.namelist())
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nectargan"}
    kinds = ("py", "html", "css", "js")
    files = {p for kind in kinds for p in (ROOT / "nectargan").rglob(f"*.{kind}")}
    assert {p.suffix for p in files} == {f".{kind}" for kind in kinds}
    assert {p.relative_to(ROOT).as_posix() for p in files} <= names
    assert "nectargan/py.typed" in names
    configs = {f"nectargan/configs/{file.name}" for file in (ROOT / "configs").iterdir()}
    assert configs == {name for name in names if name.startswith("nectargan/configs/")}


def test_the_source_distribution_can_be_built_from(sources: Path, tmp_path: Path) -> None:
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=sources, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert {f"configs/{file.name}" for file in (ROOT / "configs").iterdir()} <= names


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


def new_environment(folder: Path) -> tuple[Path, str]:
    """Python in an environment of its own with our dependencies, and where packages are in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # From the environment of the tests: these run offline.
    import click

    (Path(target) / "dependencies.pth").write_text(str(Path(click.__file__).parents[1]))
    return python, target


def install(python: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps"]
    subprocess.run([*command, *arguments], check=True, capture_output=True)


def output_of(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_commands_work_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    python, target = new_environment(tmp_path / "env")
    install(python, wheel)
    for command in ("nectargan-train", "nectargan"):
        told = output_of(python.parent / command, "--help", cwd=tmp_path)
        assert told.startswith(f"Usage: {command} [OPTIONS]")
    code = "import nectargan; print(nectargan.__file__)"
    assert output_of(python, "-c", code, cwd=tmp_path).startswith(target)
    told = output_of(python.parent / "nectargan", "config", "show", "facades", cwd=tmp_path)
    assert json.loads(told) == json.loads((ROOT / "configs" / "facades.json").read_text())
    code = "import nectargan.config.shipped as s; print(*s.shipped_configs().values(), sep='\\n')"
    found = [Path(line) for line in output_of(python, "-c", code, cwd=tmp_path).splitlines()]
    assert {path.name for path in found} == {path.name for path in (ROOT / "configs").iterdir()}
    assert {path.parent for path in found} == {Path(target) / "nectargan" / "configs"}
    # Nor does training need anything but the name: what it lacks here is a data set.
    train = [python.parent / "nectargan-train", "-c", "facades", "--dry-run"]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "datasets/facades" in done.stderr


def test_an_editable_installation_has_the_configs_of_the_sources(
    sources: Path, tmp_path: Path
) -> None:
    python, _ = new_environment(tmp_path / "env")
    install(python, "--no-build-isolation", "--editable", sources)
    code = "import nectargan.config.shipped as s; print(*s.shipped_configs().values(), sep='\\n')"
    found = output_of(python, "-c", code, cwd=tmp_path).splitlines()
    assert found == [str(file) for file in sorted((sources / "configs").iterdir())]
