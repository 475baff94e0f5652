"""Processes that share a sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from nectargan.errors import RunError
from nectargan.record.output_directory import list_runs
from nectargan.sweeps.workers import Worker, environments, supervise, without_options
from tests.processes import wait_until


def test_options_are_removed_in_each_form() -> None:
    arguments = ["-c", "a.json", "--sweep", "x=1,2", "--sweep=y=3", "--workers", "2", "--sweeping"]
    names = {"--sweep": 1, "--workers": 1}
    assert without_options(arguments, names) == ["-c", "a.json", "--sweeping"]
    assert without_options(["--dry-run", "-b", "4"], {"--dry-run": 0}) == ["-b", "4"]


def test_workers_share_the_cores_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("nectargan.sweeps.workers.usable_cores", lambda: 8)
    assert environments("3", "cpu") == [{"OMP_NUM_THREADS": "2"}] * 3
    assert environments("auto", "cpu") == [{"OMP_NUM_THREADS": "8"}]
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    assert environments("2", "cpu") == [{}, {}]


def test_each_worker_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environments("auto", "auto") == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7")
    names = [each["CUDA_VISIBLE_DEVICES"] for each in environments("2", "cuda")]
    assert names == ["3", "3", "GPU-7", "GPU-7"]
    with pytest.raises(RunError, match=r"common\.device is 'cuda:1'"):
        environments("auto", "cuda:1")


@pytest.mark.parametrize("wanted", ["0", "-1", "many", "65", "1.5", ""])
def test_a_number_of_workers_that_cannot_be(wanted: str) -> None:
    with pytest.raises(RunError, match="neither 'auto' nor a whole number from 1 to 64"):
        environments(wanted, "cpu")


def script(worker: Worker, code: str) -> Worker:
    """The worker with another program."""
    worker._command = [sys.executable, "-c", code]
    return worker


def test_a_dying_worker_is_restarted_a_few_times(tmp_path: Path) -> None:
    log, told = tmp_path / "log", list[str]()
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    refuses = "print('Error: no such thing.'); raise SystemExit(2)"
    workers = [
        script(Worker(1, [], {}, log), dies),
        script(Worker(2, [], {}, tmp_path / "other"), refuses),
        script(Worker(3, [], {}, tmp_path / "good"), "raise SystemExit(1)"),
    ]
    troubles = supervise(workers, lambda: None, told.append)
    assert told == ["Worker 1 died (SIGKILL) and is started again; its run is resumed."] * 3
    assert troubles == [
        f"Worker 1 died (SIGKILL) 4 times, see {log}.",
        "Worker 2: Error: no such thing.",
    ]


def test_an_interrupted_supervision_leaves_no_process(tmp_path: Path) -> None:
    worker = script(Worker(1, [], {}, tmp_path / "log"), "import time; time.sleep(600)")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise([worker], interrupt, print)
    assert worker._process is not None
    assert worker._process.returncode == -signal.SIGTERM


def test_a_look_that_fails_is_told_once_and_ends_no_worker(tmp_path: Path) -> None:
    worker = script(Worker(1, [], {}, tmp_path / "log"), "import time; time.sleep(4)")
    looks, told = list[int](), list[str]()

    def look() -> None:
        looks.append(len(looks))
        if len(looks) in (1, 2):
            raise RunError("The database does not answer.")

    assert supervise([worker], look, told.append) == []
    assert worker._process is None, "it ended by itself"
    assert told == ["The database does not answer."]
    assert len(looks) > 2


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "nectargan.cli.train" in child.cmdline()]


def output_when_a_worker_is_killed(command: list[str], output: Path) -> str:
    """What a sweep of "tiny" with workers prints if one of them is killed in the first run."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: list_runs(output, "tiny"), lambda: process.poll() is None)
        os.kill(workers_of(process)[0].pid, signal.SIGKILL)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "died (SIGKILL) and is started again" in out
    return out


@pytest.mark.slow
def test_two_workers_share_a_grid_and_a_killed_one_is_replaced(
    tiny: Callable[..., object], tmp_path: Path
) -> None:
    config = tiny()
    path = tmp_path / "tiny.json"
    path.write_text(config.model_dump_json())  # type: ignore[attr-defined]
    command = [sys.executable, "-m", "nectargan.cli.train", "-c", str(path), "--workers", "2"]
    command += ["--sweep", "train.loss.G_L1=1,2,3,4", "--epochs", "4"]
    output = Path(config.common.output_directory)  # type: ignore[attr-defined]
    out = output_when_a_worker_is_killed(command, output)
    assert "4 runs for 2 workers" in out
    runs = list_runs(output, "tiny")
    finished = [run for run in runs if run.status == "FINISHED"]
    assert len(finished) == 4
