"""A disk that fills up in the middle of a run, played by a limit on the size of files."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest

from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.shell import quoted

resource = pytest.importorskip("resource", reason="limits of POSIX")


def train(
    *arguments: str, limit: int | None = None, what: int = resource.RLIMIT_FSIZE
) -> subprocess.CompletedProcess[str]:
    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(what, (limit, limit))

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
        f"Error: No checkpoint can be written to '{run / 'checkpoints'}': is the disk full?; free "
        "some space and start again."
    ]
    assert list((run / "checkpoints").glob("*")) == []


def test_a_ledger_that_does_not_fit_leaves_all_whole(config_file: Path) -> None:
    long = ["--epochs", "400", "--set", "save.model_save_rate=1", "--set", "save.keep_last=2"]
    long += ["--set", "save.save_examples=false"]
    done = train("-c", str(config_file), *long, limit=130_000)
    (run,) = (config_file.parent / "runs").iterdir()
    assert done.returncode == 2
    # Whichever of them is the longer one.
    (said,) = done.stderr.splitlines()
    ending = f"File too large; free some space and resume with --resume {quoted(run)}."
    ledgers = [run / "losses.csv", run / "metrics.csv"]
    assert said in [f"Error: '{path}' cannot be written: {ending}" for path in ledgers]
    assert RunDirectory(run).status == "FAILED"
    losses = pd.read_csv(run / "losses.csv")
    checkpoint = load_last(RunDirectory(run))
    assert losses.groupby("step").size().unique().tolist() == [4], "whole steps"
    assert checkpoint["step"] <= losses["step"].max()
    # There is room again.
    epochs = str(checkpoint["epoch"] + 2)
    done = train("--resume", str(run), "--epochs", epochs)
    assert done.returncode == 0, done.stderr
    assert RunDirectory(run).status == "FINISHED"
    steps = pd.read_csv(run / "losses.csv")["step"].unique().tolist()
    assert steps == list(range(1, 3 * (checkpoint["epoch"] + 2) + 1))


def test_event_files_that_do_not_fit(config_file: Path) -> None:
    """TensorBoard's own thread ends with an error, which is no traceback of ours."""
    flags = ["--set", "logging.tensorboard.enable=true", "--set", "logging.drain_seconds=1"]
    flags += ["--set", "save.save_examples=false", "--set", "save.save_model=false"]
    done = train("-c", str(config_file), *flags, "--epochs", "30", limit=11_000)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: '")


@pytest.fixture(scope="module")
def with_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database, which takes seconds to make and more room than a small disk has."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.mark.parametrize("limit", [9_000, 40_000, 100_000])
def test_on_a_full_disk_only_our_sentences_are_printed(
    config_file: Path, with_database: Path, limit: int
) -> None:
    """SQLite, MLflow and TensorBoard have tracebacks to tell; they are in the run directory."""
    shutil.copy(with_database, config_file.parent / "mlflow.db")
    flags = ["--set", "logging.tensorboard.enable=true", "--set", "logging.mlflow.enable=true"]
    flags += ["--mlflow-uri", f"sqlite:///{config_file.parent / 'mlflow.db'}"]
    done = train("-c", str(config_file), *flags, "--set", "logging.drain_seconds=3", limit=limit)
    *warnings, error = done.stderr.splitlines()
    assert done.returncode == 2
    assert error.startswith("Error: ")
    assert error.endswith("free some space and start again.")
    assert warnings
    ours = r"(MLflow|TensorBoard) (is behind: .*|is back|did not get everything; the CSV .*)"
    assert [line for line in warnings if not re.fullmatch(ours, line)] == []
    assert "SQL" not in "".join(warnings)
    (run,) = (config_file.parent / "runs").iterdir()
    assert RunDirectory(run).status == "FAILED"
    # The run may end before a sink has met the full disk.
    if any("is behind" in line for line in warnings):
        assert "Traceback" in (run / "sinks.log").read_text()


@pytest.mark.parametrize("limit", [7, 12, 18])
def test_too_few_open_files(config_file: Path, limit: int) -> None:
    flags = ["--set", "logging.tensorboard.enable=true", "--set", "logging.drain_seconds=1"]
    flags += ["--set", "dataloader.cache=off", "--set", "dataloader.num_workers=2"]
    done = train("-c", str(config_file), *flags, limit=limit, what=resource.RLIMIT_NOFILE)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert error.endswith(f"allow more than {limit} open files (ulimit -n) and start again.")
    (run,) = (config_file.parent / "runs").iterdir()
    assert RunDirectory(run).status == "FAILED"


def test_too_little_memory(config_file: Path) -> None:
    """For a step, in a process that may not have more.

    What cannot be had is one tensor of 400 MB, so that there is room for the small things that
    libraries ask for without looking at the answer.
    """
    flags = ["--set", "dataloader.batch_size=6", "--set", "dataloader.load.crop_size=1024"]
    flags += ["--set", "dataloader.load.load_size=1024", "--set", "train.generator.features=64"]
    done = train("-c", str(config_file), *flags, limit=3 << 30, what=resource.RLIMIT_AS)
    assert done.returncode == 2, done.stderr
    (error,) = done.stderr.splitlines()
    assert error.startswith("Error: Out of memory: ")
    assert "parameters, batches of 6 pairs of 1024 x 1024 pixels); lower dataloader." in error


def test_a_full_disk_leaves_the_true_status(config_file: Path) -> None:
    """Not even the status fits into a file of its own any more, but in the one that is there."""
    run = config_file.parent
    RunDirectory(run).write_status("RUNNING", "x" * 500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nectargan.record.run_directory.replacing", _full)
        RunDirectory(run).write_status("FAILED", "no room")
        with pytest.raises(OSError, match="No space left"):
            RunDirectory(run / "elsewhere").write_status("FAILED")
    assert RunDirectory(run).read_status() == ("FAILED", "no room")


def _full(path: Path) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))
