"""``torchrun -m nectargan.cli.train``, as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from nectargan.config.schema import Config
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from tests.distributed.launching import environment, free_port
from tests.processes import PATIENCE, wait_until

pytest.importorskip("resource", reason="signals of POSIX")

Make = Callable[..., Config]


@pytest.fixture
def config_file(tiny: Make, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    options = {"train__generator__learning_rate__epochs": 10_000, "logging__window_steps": 3}
    path.write_text(json.dumps(tiny(**options).model_dump(mode="json")))
    return path


def torchrun(*arguments: str, said: Path) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-port", str(free_port())]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "nectargan.cli.train", *arguments],
        env=environment(),
        stdout=said.open("wb"),
        stderr=subprocess.STDOUT,
    )


def rows(run: Path) -> int:
    return sum(1 for _ in (run / "losses.csv").open()) if (run / "losses.csv").exists() else 0


@pytest.mark.slow
def test_a_signal_to_torchrun_ends_all_with_a_checkpoint(config_file: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "runs" / "tiny_v1", tmp_path / "said"
    process = torchrun("-c", str(config_file), said=said)
    wait_until(lambda: rows(run) > 60, alive=lambda: process.poll() is None)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    psutil.wait_procs(workers, PATIENCE)
    assert RunDirectory(run).status == "KILLED"
    record = pd.read_csv(run / "losses.csv")
    assert record["step"].max() == load_last(RunDirectory(run))["step"]
    assert not record.duplicated(["step", "loss"]).any()
    lines = said.read_text().splitlines()
    assert sum(line.startswith("Training in") for line in lines) == 1
    assert "on cpu, 2 processes, in fp32" in lines[0]

    # A process that dies has the run fail, and the other one ends.
    process = torchrun("--resume", str(run), said=said)
    before = rows(run)
    wait_until(lambda: rows(run) > before + 60, alive=lambda: process.poll() is None)
    workers = psutil.Process(process.pid).children()
    (second,) = (each for each in workers if each.environ()["RANK"] == "1")
    second.kill()
    process.wait(PATIENCE)
    psutil.wait_procs(workers, PATIENCE)
    status, reason = RunDirectory(run).read_status()
    assert status == "FAILED"
    assert reason.startswith("Another process of the run ended, or cannot be reached")


def test_an_error_of_all_is_said_once(config_file: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    process = torchrun("-c", str(config_file), "--batch-size", "3", said=said)
    assert process.wait(PATIENCE) != 0
    lines = [line for line in said.read_text().splitlines() if "dataloader.batch_size is 3" in line]
    assert len(lines) == 1
    assert lines[0].startswith("Error: dataloader.batch_size is 3, the pairs of all processes")
    assert not (tmp_path / "runs").exists()
