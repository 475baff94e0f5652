"""A disk that fills up in the middle of a run, played by a limit on the size of files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nectargan.loggers.run_directory import read_status
from nectargan.trainers.checkpoint import load_last

resource = pytest.importorskip("resource", reason="limits of POSIX")


def train(*arguments: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "nectargan.cli.train", *arguments],
        capture_output=True,
        text=True,
        preexec_fn=set_limit,
    )


def test_a_checkpoint_that_does_not_fit(config_file: Path) -> None:
    done = train("-c", str(config_file), limit=60_000)
    (run,) = (config_file.parent / "runs").iterdir()
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"Error: No checkpoint can be written to '{run / 'checkpoints'}': is the disk full?; make "
        f"room and go on with --resume '{run}'."
    ]
    assert list((run / "checkpoints").glob("*")) == []


def test_a_ledger_that_does_not_fit_leaves_all_whole(config_file: Path) -> None:
    long = ["--epochs", "400", "--set", "save.model_save_rate=1", "--set", "save.keep_last=2"]
    long += ["--set", "save.save_examples=false"]
    done = train("-c", str(config_file), *long, limit=130_000)
    (run,) = (config_file.parent / "runs").iterdir()
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"Error: '{run / 'losses.csv'}' cannot be written: File too large; make room and go on "
        f"with --resume '{run}'."
    ]
    assert read_status(run)[0] == "FAILED"
    losses = pd.read_csv(run / "losses.csv")
    checkpoint = load_last(run)
    assert losses.groupby("step").size().unique().tolist() == [4], "whole steps"
    assert checkpoint["step"] <= losses["step"].max()
    # There is room again.
    epochs = str(checkpoint["epoch"] + 2)
    done = train("--resume", str(run), "--epochs", epochs)
    assert done.returncode == 0, done.stderr
    assert read_status(run)[0] == "FINISHED"
    steps = pd.read_csv(run / "losses.csv")["step"].unique().tolist()
    assert steps == list(range(1, 3 * (checkpoint["epoch"] + 2) + 1))
