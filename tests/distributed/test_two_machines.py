"""Processes of machines that only know each other by an address, over a network of their own."""

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
from tests.distributed.launching import environment
from tests.network import Machine, two_machines
from tests.processes import PATIENCE, wait_until

Make = Callable[..., Config]


@pytest.fixture
def config_file(tiny: Make, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny(logging__window_steps=3).model_dump(mode="json")))
    return path


def start(
    machine: Machine, first: Machine, config_file: Path, *words: str
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nectargan.train", "-c", config_file, "--nproc", "1"]
    endpoint = ["--rdzv-endpoint", f"{first.address}:29500"]
    said = config_file.with_name(f"said_{machine.number}")
    return machine.start([*command, *endpoint, *words], said, environment())


def steps_of(run: Path) -> list[int]:
    """The steps in the ledger, once each; none is missing."""
    if not (run / "losses.csv").exists():
        return []
    record = pd.read_csv(run / "losses.csv")
    assert not record.duplicated(["step", "loss"]).any()
    steps = sorted(set(record["step"]))
    assert steps == list(range(1, len(steps) + 1))
    return steps


def test_machines_that_know_each_other_by_an_address_only(
    config_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "tiny_v1"
    with two_machines() as machines:
        started = [start(each, machines[0], config_file, "--nnodes", "2") for each in machines]
        try:
            assert [process.wait(PATIENCE) for process in started] == [0, 0]
        finally:
            end(started)
    assert RunDirectory(run).status == "FINISHED"
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    assert "2 processes" in config_file.with_name("said_1").read_text()
    assert config_file.with_name("said_2").read_text() == ""


@pytest.mark.slow
def test_a_machine_that_is_lost_and_comes_back(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny_v1"
    words = ["--nnodes", "1:2", "--max-restarts", "3", "--resume", "auto", "--epochs", "100000"]
    words += ["--set", "save.every_minutes=0.05"]

    def rescaled() -> list[list[int]]:
        log = run / "resumptions.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [json.loads(line).get("processes") for line in lines]

    with two_machines() as (first, second):
        started = [start(each, first, config_file, *words) for each in (first, second)]
        try:
            wait_until(lambda: len(steps_of(run)) > 60, lambda: started[0].poll() is None)
            launcher = psutil.Process(started[1].pid)
            for process in [*launcher.children(recursive=True), launcher]:
                process.kill()
            wait_until(lambda: rescaled() == [[2, 1]], lambda: started[0].poll() is None)
            before = len(steps_of(run))
            wait_until(lambda: len(steps_of(run)) > before, lambda: started[0].poll() is None)
            started.append(start(second, first, config_file, *words))
            wait_until(lambda: rescaled()[1:] == [[1, 2]], lambda: started[0].poll() is None)
            before = len(steps_of(run))
            wait_until(lambda: len(steps_of(run)) > before, lambda: started[0].poll() is None)
            started[0].send_signal(signal.SIGINT)
            assert started[0].wait(PATIENCE) == 130
            assert started[2].wait(PATIENCE) in (2, 130)
        finally:
            end(started)
    assert RunDirectory(run).status == "KILLED"
    assert steps_of(run)


def end(started: list[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.kill()
        process.wait()
