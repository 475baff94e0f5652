"""Paths with ``~`` and ``$NAME``, and patterns, in every command that takes a path."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from .conftest import Run


@pytest.fixture(scope="module")
def trained(pairs_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run in it."""
    from nectargan.config.config_manager import ConfigManager
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
    from tests.conftest import TINY

    output = tmp_path_factory.mktemp("trained")
    overrides = [
        ("dataloader.dataroot", str(pairs_root)),
        ("common.output_directory", str(output / "runs")),
    ]
    config = ConfigManager(TINY, overrides).data
    Pix2pixTrainer(config).train()
    return output


@pytest.fixture
def home(trained: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two runs in ``runs``, which are the same, and something that is no run."""
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    shutil.copytree(home / "runs" / "tiny_v1", home / "runs" / "tiny_v2")
    (home / "runs" / "notes.txt").write_text("")
    (home / "runs" / "mlartifacts").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RUNS", str(home / "runs"))
    return home


@pytest.mark.parametrize("runs", ["~/runs", "$RUNS", "${RUNS}"])
@pytest.mark.parametrize(
    "command",
    [
        ["watch", "{}/tiny_v1"],
        ["export-csv", "{}/tiny_v1", "-o", "{}/out.csv"],
        ["plot", "{}/tiny_v1", "-o", "{}/out.png"],
        ["compare", "{}/tiny_v1", "{}/tiny_v2", "--plot", "{}/out.png"],
        ["runs", "{}"],
        ["sync", "{}/tiny_v1"],
        ["schedule", "{}/tiny_v1/config.json", "-o", "{}/out.png"],
        ["data", "synth", "{}/out", "--train", "1", "--val", "0", "--size", "32"],
    ],
    ids=lambda command: command[0],
)
def test_what_a_shell_would_have_expanded(
    run: Run, home: Path, command: list[str], runs: str
) -> None:
    result = run(*(argument.format(runs) for argument in command))
    assert result.exit_code == 0, result.stderr
    assert list(Path().iterdir()) == []
    made = [argument for argument in command if "out" in argument]
    assert bool(list((home / "runs").glob("out*"))) == bool(made)


@pytest.mark.parametrize("runs", ["~/runs", "$RUNS"])
def test_paths_of_the_public_functions(home: Path, runs: str) -> None:
    import nectargan

    assert nectargan.load_generator(f"{runs}/tiny_v1").training is False
    assert len(nectargan.load_losses(f"{runs}/tiny_v1")) == 24
    assert nectargan.load_config(f"{runs}/tiny_v1/config.json").dataloader.batch_size == 2
    with nectargan.track(nectargan.LossManager(), f"{runs}/mine"):
        pass
    assert (home / "runs" / "mine" / "losses.csv").is_file()


def test_a_run_whose_paths_are_in_a_config(
    run: Run, config_file: Path, home: Path, pairs_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETS", str(pairs_root.parent))
    config = json.loads(config_file.read_text())
    config["common"]["output_directory"] = "~/out"
    config["dataloader"]["dataroot"] = f"$SETS/{pairs_root.name}"
    config_file.write_text(json.dumps(config))
    monkeypatch.setenv("CONFIGS", str(config_file.parent))
    result = run("train", "-c", f"$CONFIGS/{config_file.name}", "--csv", "~/copy.csv")
    assert result.exit_code == 0, result.stderr
    assert (home / "out" / "tiny_v1" / "losses.csv").is_file()
    assert (home / "copy.csv").is_file()
    assert list(Path().iterdir()) == []
    assert run("train", "--output=~/more", "-c", config_file).exit_code == 0
    assert (home / "more" / "tiny_v1").is_dir()


@pytest.mark.parametrize(
    "command",
    [
        ["runs", "$NOT_SET/runs"],
        ["plot", "$NOT_SET/x"],
        ["plot", "x", "-o", "$NOT_SET/x.png"],
        ["export-csv", "x", "-o", "${NOT_SET}/x.csv"],
        ["data", "check", "$NOT_SET"],
        ["data", "synth", "$NOT_SET"],
        ["watch", "$NOT_SET"],
        ["ui", "$NOT_SET"],
        ["schedule", "$NOT_SET"],
    ],
    ids=" ".join,
)
def test_a_variable_that_is_not_set_makes_nothing(run: Run, command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert "NOT_SET" in result.stderr
    assert "is not set." in result.stderr
    assert list(Path().iterdir()) == []


# --- patterns ------------------------------------------------------------------------------------


def test_plot_draws_each_run_in_its_directory(run: Run, home: Path) -> None:
    result = run("plot", "~/runs/*")
    assert result.exit_code == 0, result.stderr
    drawn = [home / "runs" / name / "losses.png" for name in ("tiny_v1", "tiny_v2")]
    assert result.stdout.splitlines() == [f"Drew {path}." for path in drawn]
    assert all(path.is_file() for path in drawn)
    result = run("plot", "~/runs/*", "-o", "one.png")
    assert result.exit_code == 2
    assert "--output one.png is one file, but there are 2 runs" in result.stderr


def test_sync_sends_what_each_run_lacks(run: Run, home: Path) -> None:
    result = run("sync", "~/runs/tiny_v[12]")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{home / 'runs' / name}: {sink}: the run does not log to it."
        for name in ("tiny_v1", "tiny_v2")
        for sink in ("TensorBoard", "MLflow")
    ]


def test_runs_lists_what_a_pattern_matches(run: Run, home: Path) -> None:
    (home / "more").mkdir()
    (home / "runs" / "tiny_v2").rename(home / "more" / "tiny_v2")
    for pattern in ("~/*", "~/*/tiny*"):
        result = run("runs", pattern)
        assert result.exit_code == 0, result.stderr
        assert "more/tiny_v2" in result.stdout
        assert "runs/tiny_v1" in result.stdout
    assert "tiny_v1" in run("runs", "~/runs/tiny_v1").stdout
    result = run("runs", "~/no*")
    assert result.exit_code == 2
    assert "is not a directory" in result.stderr


@pytest.mark.parametrize("command", ["export-csv", "compare"])
def test_patterns_of_commands_for_several_runs(run: Run, home: Path, command: str) -> None:
    options = ["-o", "out.csv"] if command == "export-csv" else []
    result = run(command, "~/runs/*", *options)
    assert result.exit_code == 0, result.stderr


def test_a_command_for_one_thing_takes_a_pattern_of_one(run: Run, home: Path) -> None:
    assert run("watch", "~/runs/*1").stdout.startswith("FINISHED")
    assert run("schedule", "~/runs/*1/config.json", "-o", "x.png").exit_code == 0
    for command, told in (
        (["watch", "~/runs/*"], "matches 2 runs: "),
        (["train", "--resume", "~/runs/*"], "matches 2 runs: "),
        (["data", "check", "~/runs/*"], "matches 4: "),
        (["ui", "~/runs/*"], "matches 4: "),
        (["schedule", "~/runs/*/config.json"], "matches 2: "),
        (["train", "-c", "~/runs/*/config.json"], "matches 2: "),
        (["watch", "~/runs/no*"], "matches no run directory"),
        (["schedule", "no*"], "matches nothing"),
    ):
        result = run(*command)
        assert result.exit_code == 2, command
        assert told in result.stderr, command
        assert result.stderr.count("give one of them.") == (
            "matches 2" in told or "matches 4" in told
        )


# --- names that are not UTF-8 --------------------------------------------------------------------

LATIN_1 = os.fsdecode(b"r\xe9")


@pytest.mark.skipif(os.name == "nt", reason="names there are UTF-16")
def test_a_run_directory_whose_name_is_not_utf_8(run: Run, home: Path) -> None:
    (home / "runs" / "tiny_v2").rename(home / "runs" / LATIN_1)
    for command in (
        ["runs", "~/runs"],
        ["compare", "~/runs/*", "--format", "csv"],
        ["compare", "~/runs/*", "--format", "json", "--plot", "~/x.png"],
        ["compare", "~/runs/*"],
        ["export-csv", "~/runs/*", "-o", "-"],
        ["plot", f"~/runs/{LATIN_1}"],
    ):
        result = run(*command)
        assert result.exit_code == 0, (command, result.stderr, result.exception)
        assert r"r\xe9" in result.stdout.replace(r"\\xe9", r"\xe9"), command
    assert run("export-csv", "~/runs/*", "-o", "~/x.parquet").exit_code == 0
    assert set(pd.read_parquet(home / "x.parquet")["run"]) == {"tiny_v1", r"r\xe9"}
    assert run("watch", f"~/runs/{LATIN_1}").stdout.startswith("FINISHED")
    assert run("export-csv", f"~/runs/{LATIN_1}", "-o", f"~/{LATIN_1}.csv").exit_code == 0
    assert (home / f"{LATIN_1}.csv").is_file()


@pytest.mark.skipif(os.name == "nt", reason="names there are UTF-16")
def test_images_and_places_whose_names_are_not_utf_8(
    run: Run, config_file: Path, pairs_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / LATIN_1
    shutil.copytree(pairs_root, here / "data")
    monkeypatch.chdir(here)
    first = Path("data") / "train" / "0.png"
    first.rename(first.with_name(f"{LATIN_1}.png"))
    options = ["-c", config_file, "-d", "data", "-o", "out"]
    result = run("train", *options)
    assert result.exit_code == 0, (result.stderr, result.exception)
    metadata = json.loads((here / "out" / "tiny_v1" / "metadata.json").read_text())
    assert metadata["tags"]["run_directory"].endswith(r"r\xe9/out/tiny_v1")
    assert metadata["datasets"][0]["path"].endswith(r"r\xe9/data")

    result = run("train", *options, "--set", "logging.mlflow.enable=true")
    assert result.exit_code == 2
    assert r"MLflow cannot write to" in result.stderr
    assert r"r\xe9/out', whose name is not UTF-8" in result.stderr
    assert [path.name for path in (here / "out").iterdir()] == ["tiny_v1"]
    for option in ("-o", "-d"):
        result = run("train", *options, option, tmp_path / LATIN_1)
        assert result.exit_code == 2
        assert "it is not UTF-8." in result.stderr
    first.with_name(f"{LATIN_1}.png").write_text("no image")
    result = run("data", "check", "data")
    assert result.exit_code == 2
    assert r"r\xe9.png: not an image" in result.stderr
