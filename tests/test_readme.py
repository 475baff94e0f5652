"""README.md and the guides that go on from it: every block is run as it stands, in one folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock

from nectargan.cli.main import main
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
GUIDES = [
    page for page in dict.fromkeys(re.findall(r"\]\((docs/\w+\.md)\)", README)) if page not in APART
]
PAGES = ["README.md", *GUIDES]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README leaves it, for the guides that go on from it; with small networks.

    All test workers share it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        if (folder / "runs/fronts_v2").exists():
            return folder
        folder.mkdir()
        patch.chdir(folder)
        train = (
            "train -c demo -d fronts -n fronts --epochs 2 "
            "--set train.generator.features=8 --set train.discriminator.base_channels=8"
        )
        for command in ("data synth fronts --train 16 --val 4 --size 128", train, train):
            result = CliRunner().invoke(main, command.split())
            assert result.exit_code == 0, result.output
    return folder


def runnable(page: str) -> int:
    return sum(language in ("bash", "python") for language, _ in blocks_of(page))


def test_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks("README.md")[0] == runnable("README.md") >= 6
    assert {p.name for p in Path("runs").iterdir()} >= {"fronts_v1", "fronts_v2", "mlflow.db"}
    assert Path("my_runs/first/tensorboard").is_dir()
    assert left_by_git(tmp_path) == {".gitignore"}, "what commands make is ignored"


# A group each, so that test workers share them.
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.xdist_group(page)) for page in GUIDES if runnable(page)],
)
def test_a_guide_runs(
    page: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert run_blocks(page)[0] == runnable(page)
    assert left_by_git(tmp_path) == {".gitignore"}, "what commands make is ignored"
    if page == "docs/record.md":
        assert "L1 at epoch 1: 100.0 x 1.000" in capsys.readouterr().out


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
