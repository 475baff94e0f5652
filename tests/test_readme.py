"""Every code block of the README is run as it stands, in one folder, from top to bottom."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nectargan.config.config_manager import ConfigManager
from tests.documents import ROOT, blocks_of, run_blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_commands_and_the_python_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    ran, _ = run_blocks("README.md")
    assert ran >= 9
    assert {p.name for p in Path("runs").iterdir()} >= {"fronts_v1", "mlflow.db"}
    assert Path("my_runs/first/tensorboard").is_dir()
    printed = capsys.readouterr().out
    assert left_by_git(tmp_path) == {".gitignore", "configs"}, "what commands make is ignored"
    assert "L1 at epoch 1: 100.0 x 1.000" in printed
    assert "FINISHED" in printed


def left_by_git(folder: Path) -> set[str]:
    """What git would add of a folder, if the project's rules held there."""
    shutil.copy(ROOT / ".gitignore", folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    command = ["git", "status", "--porcelain"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return {line[3:].rstrip("/") for line in done.stdout.splitlines()}


def test_the_yaml_example_is_a_config(tmp_path: Path) -> None:
    (code,) = (code for language, code in blocks_of("README.md") if language == "yaml")
    (tmp_path / "c.yaml").write_text(code)
    config = ConfigManager(tmp_path / "c.yaml").data
    assert set(config.train.loss) == {"G_GAN", "G_L1", "D_real", "D_fake", "G_HUBER"}


def test_the_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)$", README, flags=re.MULTILINE)
    assert targets == ["demo", "test", "check"]
    for target in targets:
        subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, text=True
        )


def test_links_and_pictures_are_there_and_small() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target.partition("#")[0]).stat().st_size < 300_000


def test_the_table_of_options_is_that_of_the_command() -> None:
    from nectargan.cli.train import train

    table = README[README.index("| `nectargan-train` |") : README.index("A flag goes before")]
    told = set(re.findall(r"--[a-z][a-z-]*", table))
    real = {name for option in train.params for name in option.opts if name.startswith("--")}
    assert told == real - {"--version"}


def test_the_list_of_schedules_is_complete() -> None:
    from nectargan.scheduling.schedules import schedule_map

    paragraph = README[README.index("Schedules: `constant`") :].split("Epochs count")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) - {
        "power",
        "steps",
        "points",
        "cycles",
        "ramp",
    } == set(schedule_map)
