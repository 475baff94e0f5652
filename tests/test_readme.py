"""README.md and the guides that go on from it: every block is run as it stands, in one folder."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nectargan.config.config_manager import ConfigManager
from nectargan.config.shipped import shipped_configs
from tests.documents import ROOT, blocks_of, run_blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")
# In the order of its table; these have a folder of their own, in test_docs and test_networks.
APART = (
    "docs/analysis.md",
    "docs/extending.md",
    "docs/images.md",
    "docs/networks.md",
    "docs/using.md",
)
GUIDES = [page for page in re.findall(r"\]\((docs/\w+\.md)\)", README) if page not in APART]
PAGES = ["README.md", *dict.fromkeys(GUIDES)]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_commands_and_the_python_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = {page: run_blocks(page)[0] for page in PAGES}
    runnable = [
        [page for language, _ in blocks_of(page) if language in ("bash", "python")]
        for page in [*PAGES, *APART]
    ]
    assert sum(ran.values()) == sum(map(len, runnable[: len(PAGES)]))
    assert sum(map(len, runnable)) >= 40
    assert {p.name for p in Path("runs").iterdir()} >= {"fronts_v1", "fronts_v2", "mlflow.db"}
    assert Path("my_runs/first/tensorboard").is_dir()
    printed = capsys.readouterr().out
    assert left_by_git(tmp_path) == {".gitignore"}, "what commands make is ignored"
    assert "L1 at epoch 1: 100.0 x 1.000" in printed


def left_by_git(folder: Path) -> set[str]:
    """What git would add of a folder, if the project's rules held there."""
    shutil.copy(ROOT / ".gitignore", folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    command = ["git", "status", "--porcelain"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return {line[3:].rstrip("/") for line in done.stdout.splitlines()}


def test_the_readme_is_one_page() -> None:
    assert len(README.splitlines()) <= 150


def test_every_guide_is_in_the_readme() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert {*PAGES, *APART} - {"README.md"} == pages


def test_the_examples_in_yaml_and_json_are_configs(tmp_path: Path) -> None:
    found = {}
    for page in [*PAGES, *APART]:
        for index, (language, code) in enumerate(blocks_of(page)):
            if language in ("yaml", "json"):
                file = tmp_path / f"{index}.{language}"
                file.write_text(code)
                found[page, language] = ConfigManager(file).data
    loss = found["docs/losses.md", "yaml"].train.loss
    assert set(loss) == {"G_GAN", "G_L1", "D_real", "D_fake", "G_HUBER"}
    assert found["docs/training.md", "yaml"] == found["docs/training.md", "json"]


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

    guide = text_of("docs/training.md")
    table = guide[guide.index("| `nectargan-train` |") : guide.index("An option overrides `--set`")]
    told = set(re.findall(r"--[a-z][a-z-]*", table))
    real = {name for option in train.params for name in option.opts if name.startswith("--")}
    assert told == real - {"--version"}


def test_the_table_of_configs_is_complete() -> None:
    guide = text_of("docs/training.md")
    table = guide[guide.index("| config | |") : guide.index("nectargan config list")]
    told = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(told) == list(shipped_configs())


def test_the_list_of_schedules_is_complete() -> None:
    from nectargan.scheduling.schedules import schedule_map

    guide = text_of("docs/losses.md")
    paragraph = guide[guide.index("The built-in schedules, with") :].split("Epochs count")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) - {
        "power",
        "steps",
        "points",
        "cycles",
        "ramp",
    } == set(schedule_map)
