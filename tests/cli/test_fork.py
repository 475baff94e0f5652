"""``nectargan-train --fork``: what one types, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nectargan.record.lineage import read_ancestors
from nectargan.record.run_directory import RunDirectory

from .conftest import Run


@pytest.fixture
def parent(run: Run, config_file: Path, tmp_path: Path) -> RunDirectory:
    """A finished run of two epochs, with a checkpoint of each."""
    result = run("train", "-c", config_file, "--set", "save.model_save_rate=1", "-n", "parent")
    assert result.exit_code == 0, result.output
    return RunDirectory(tmp_path / "runs" / "parent_v1")


def test_a_fork_with_another_weight(run: Run, parent: RunDirectory) -> None:
    result = run("train", "--fork", f"{parent}@1", "--set", "train.loss.G_GAN=0.5", "-n", "half")
    assert result.exit_code == 0, result.output
    fork = RunDirectory(parent.parent / "half_v1")
    assert pd.read_csv(fork.losses)["step"].unique().tolist() == [4, 5, 6]
    assert [str(each) for each in read_ancestors(fork)] == ["parent_v1, epoch 1"]


def test_one_option_says_whether_the_rows_of_the_parent_are_shown(
    run: Run, parent: RunDirectory, tmp_path: Path
) -> None:
    result = run("train", "--fork", f"{parent}@1", "--set", "train.loss.G_GAN=0.5", "-n", "half")
    assert result.exit_code == 0, result.output
    fork, out = parent.parent / "half_v1", tmp_path / "out"
    export = ["export-csv", fork, "-o", f"{out}.csv"]
    for options, first in (([], 4), (["--lineage"], 1), (["--no-lineage"], 4)):
        for gradients in ([], ["--gradients"]):
            assert run(*export, *options, *gradients).exit_code == 0
            assert pd.read_csv(f"{out}.csv")["step"].min() == first
    for command in (
        ["plot", fork, "-o", f"{out}.png"],
        ["plot", fork, "--gradients", "-o", f"{out}.png"],
        ["compare", parent, fork, "--plot", f"{out}.png"],
        ["report", parent, fork, "-o", f"{out}.html"],
        ["watch", fork],
    ):
        for option in ("--lineage", "--no-lineage"):
            result = run(*command, option)
            assert result.exit_code == 0, result.output
    result = run("export-csv", "mlflow:0123", "-o", f"{out}.csv", "--lineage")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_a_finished_run_needs_more_epochs(run: Run, parent: RunDirectory) -> None:
    result = run("train", "--fork", parent)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "has nothing to train: 2 are done. Add --epochs N" in result.stderr
    result = run("train", "--fork", parent, "--epochs", 3)
    assert result.exit_code == 0, result.output
    fork = RunDirectory(parent.parent / "parent_v2")
    assert pd.read_csv(fork.losses)["epoch"].unique().tolist() == [3]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fork", "a_v1", "--resume", "a_v1"], "--fork and --resume contradict each other"),
        (["--fork", "a_v1"], "'a_v1' is not a run directory: it does not exist."),
        (["--fork", "PARENT@9"], "has no checkpoint of epoch 9: there are those of epoch 1, epoch"),
        (["--fork", "PARENT@1", "--set", "train.generator.features=8"], "the checkpoint would not"),
        (["--trust"], "--trust needs --resume or --fork."),
    ],
)
def test_invalid_values_are_refused(
    run: Run, parent: RunDirectory, arguments: list[str], told: str
) -> None:
    before = sorted(parent.parent.iterdir())
    result = run("train", *(each.replace("PARENT", str(parent)) for each in arguments))
    assert result.exit_code == 2
    assert told in result.stderr
    assert sorted(parent.parent.iterdir()) == before


def test_nothing_is_written_by_a_dry_run(run: Run, parent: RunDirectory) -> None:
    before = sorted(parent.parent.iterdir())
    result = run("train", "--fork", f"{parent}@1", "--dry-run")
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
    assert config["train"]["fork_from"] == str(parent.checkpoint(1).resolve())
    assert sorted(parent.parent.iterdir()) == before


def test_a_sweep_of_forks_asks_what_if_several_times(run: Run, parent: RunDirectory) -> None:
    sweep = ["--fork", f"{parent}@1", "-n", "what", "--sweep", "train.loss.G_GAN=0.5,2"]
    result = run("train", *sweep)
    assert result.exit_code == 0, result.output
    forks = [RunDirectory(parent.parent / f"what_v{number}") for number in (1, 2)]
    weights = [pd.read_csv(fork.losses).query("loss == 'G_GAN'")["weight"] for fork in forks]
    assert [each.unique().tolist() for each in weights] == [[0.5], [2.0]]
    assert all(pd.read_csv(fork.losses)["step"].min() == 4 for fork in forks)
    # Finished ones are skipped.
    assert run("train", *sweep).exit_code == 0
    assert not (parent.parent / "what_v3").exists()
