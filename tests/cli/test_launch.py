"""``nectargan-train --nproc``: options, exit codes, signals, two machines on one."""

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
import torch
from click.testing import CliRunner

from nectargan.cli.launch import LaunchOptions
from nectargan.cli.train import train
from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from tests.distributed.launching import environment, free_port
from tests.processes import PATIENCE, wait_until

Make = Callable[..., Config]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--nnodes 2", "--nnodes needs --nproc."),
        ("--max-restarts 1", "--max-restarts needs --nproc."),
        ("--nproc 0", "--nproc 0 is neither 'auto' nor a whole number above 0."),
        ("--nproc many", "--nproc many is neither 'auto' nor a whole number above 0."),
        ("--nproc 2 --nnodes two", "--nnodes two is neither a whole number nor MIN:MAX."),
        ("--nproc 2 --nnodes 3:2", "--nnodes 3:2 must go from the lower to the higher number."),
        ("--nproc 2 --nnodes 2", "--nnodes 2 needs --rdzv-endpoint HOST:PORT"),
        (
            "--nproc 2 --rdzv-endpoint http://x",
            "is not of the form HOST:PORT, with a port from 1 to",
        ),
        ("--nproc 2 --rdzv-endpoint ::1:29500", "::1:29500 is not of the form HOST:PORT"),
        ("--nproc 2 --rdzv-endpoint x:0", "x:0 is not of the form HOST:PORT, with a port from 1"),
        ("--nproc 2 --nnodes 2:1 --rdzv-endpoint [::1]:29500", "--nnodes 2:1 must go from"),
        ("--nproc 2 --rdzv-endpoint x:65536", "x:65536 is not of the form HOST:PORT, with a port"),
        (
            "--nproc 2 --nnodes 1:2 --rdzv-endpoint x",
            "--nnodes 1:2 needs --resume auto; without it",
        ),
        ("--nproc 2 --max-restarts 3", "--max-restarts needs --resume auto;"),
        ("--nproc 2 --sweep train.loss.G_L1=1,2", "--nproc and --sweep cannot be combined:"),
    ],
)
def test_options_that_cannot_be(words: str, complaint: str) -> None:
    told = CliRunner().invoke(train, ["-c", "facades", *words.split()])
    assert told.exit_code == 2
    assert complaint in told.output


def test_the_command_does_not_start_processes_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RunError, match="leave it out under torchrun"):
        LaunchOptions("2", None, None, None).check(False, None)


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def processes(nproc: str, device: str = "auto") -> int:
        return LaunchOptions(nproc, None, None, None).processes(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("nectargan.cli.launch.usable_cores", lambda: 4)
    assert (processes("auto"), processes("4")) == (1, 4)
    with pytest.raises(RunError, match="--nproc 5 is too many: this machine has 4 cores"):
        processes("5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (processes("auto"), processes("auto", "cuda"), processes("3", "cpu")) == (2, 2, 3)
    with pytest.raises(RunError, match="--nproc 3 is too many: this machine has 2 GPUs"):
        processes("3")
    with pytest.raises(RunError, match=r"common\.device is 'cuda:1', but --nproc gives"):
        processes("2", "cuda:1")


def test_a_store_that_does_not_answer_is_told_in_one_sentence(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny().model_dump(mode="json")))
    monkeypatch.setattr("nectargan.cli.launch.usable_cores", lambda: 2)
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")  # which it sets otherwise

    def fail(*_: object) -> None:
        raise torch.distributed.DistStoreError("wait timeout after 60000ms")

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: fail)
    told = CliRunner().invoke(train, ["-c", str(path), "--nproc", "2"])
    assert told.exit_code == 2
    assert told.output == (
        "Error: The processes of 1 machine cannot meet: wait timeout after 60000ms.\n"
    )


@pytest.fixture
def command(tiny: Make, tmp_path: Path) -> list[str]:
    path = tmp_path / "tiny.json"
    options = {"train__generator__learning_rate__epochs": 10_000, "logging__window_steps": 3}
    path.write_text(json.dumps(tiny(**options).model_dump(mode="json")))
    return [sys.executable, "-m", "nectargan.train", "-c", str(path)]


def started(command: list[str], said: Path, **variables: str) -> subprocess.Popen[bytes]:
    env = {**environment(), **variables}
    with said.open("wb") as file:
        return subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)


def rows(run: Path) -> int:
    return sum(1 for _ in (run / "losses.csv").open()) if (run / "losses.csv").exists() else 0


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_with_one_checkpoint(command: list[str], tmp_path: Path) -> None:
    run, said = tmp_path / "runs" / "tiny_v1", tmp_path / "said"
    process = started([*command, "--nproc", "2"], said)
    wait_until(lambda: rows(run) > 60, alive=lambda: process.poll() is None)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    psutil.wait_procs(workers, PATIENCE)
    directory = RunDirectory(run)
    assert directory.status == "KILLED"
    record = pd.read_csv(run / "losses.csv")
    assert record["step"].max() == load_last(directory)["step"]
    lines = said.read_text().splitlines()
    assert lines.count("Interrupted.") == 1
    assert not [line for line in lines if "Traceback" in line or "torch.distributed" in line]
    assert sum(line.startswith("Resume: ") for line in lines) == 1

    # A process that is killed is told of; the exit code is that of a shell.
    process = started([*command, "--nproc", "2", "--resume", "auto"], said)
    before = rows(run)
    wait_until(lambda: rows(run) > before + 60, alive=lambda: process.poll() is None)
    workers = psutil.Process(process.pid).children()
    next(each for each in workers if each.environ().get("RANK") == "1").kill()
    assert process.wait(PATIENCE) == 137
    psutil.wait_procs(workers, PATIENCE)
    lines = said.read_text().splitlines()
    assert lines[-1] == "Error: The process of rank 1 was ended by SIGKILL."
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.slow
def test_the_processes_end_with_a_checkpoint_if_the_launcher_is_killed(
    command: list[str], tmp_path: Path
) -> None:
    run, said = tmp_path / "runs" / "tiny_v1", tmp_path / "said"
    process = started([*command, "--nproc", "2"], said)
    wait_until(lambda: rows(run) > 60, alive=lambda: process.poll() is None)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(workers, PATIENCE)
    assert not left
    directory = RunDirectory(run)
    assert directory.read_status() == ("KILLED", "")
    assert pd.read_csv(run / "losses.csv")["step"].max() == load_last(directory)["step"]
    assert "Traceback" not in said.read_text()


@pytest.mark.slow
def test_an_error_is_said_once_with_its_exit_code(command: list[str], tmp_path: Path) -> None:
    said, scratch = tmp_path / "said", tmp_path / "scratch"
    scratch.mkdir()
    process = started([*command, "--nproc", "2", "--batch-size", "3"], said, TMPDIR=str(scratch))
    assert process.wait(PATIENCE) == 2
    assert not list(scratch.iterdir())
    (line,) = said.read_text().splitlines()
    assert line.startswith("Error: dataloader.batch_size is 3, the pairs of all processes")


@pytest.mark.slow
def test_two_machines_that_meet_at_an_endpoint(command: list[str], tmp_path: Path) -> None:
    """Two launchers on this machine, each with one process."""
    words = ["--nproc", "1", "--nnodes", "2", "--rdzv-endpoint", f"localhost:{free_port()}"]
    words += ["--epochs", "2"]
    processes = [started([*command, *words], tmp_path / f"said_{n}") for n in range(2)]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    said = [(tmp_path / f"said_{n}").read_text() for n in range(2)]
    assert sorted("on cpu, 2 processes" in text for text in said) == [False, True]
    directory = RunDirectory(tmp_path / "runs" / "tiny_v1")
    assert directory.status == "FINISHED"
    record = pd.read_csv(directory.losses)
    assert not record.duplicated(["step", "loss"]).any()
    assert set(record["step"]) == set(range(1, 7))


@pytest.mark.slow
def test_a_process_that_dies_on_one_of_two_machines(command: list[str], tmp_path: Path) -> None:
    """Both machines start their processes again, though only one of them counts a restart."""
    run = tmp_path / "runs" / "tiny_v1"
    words = ["--nproc", "1", "--nnodes", "2", "--rdzv-endpoint", f"localhost:{free_port()}"]
    words += ["--resume", "auto", "--max-restarts", "5", "--set", "save.model_save_rate=1"]
    processes = [started([*command, *words], tmp_path / f"said_{n}") for n in range(2)]

    def are_alive() -> bool:
        return not any(process.poll() for process in processes)

    for rank in ("1", "0", "1"):
        before = rows(run)
        wait_until(lambda before=before: rows(run) > before + 60, alive=are_alive)
        workers = [each for p in processes for each in psutil.Process(p.pid).children()]
        next(each for each in workers if each.environ().get("RANK") == rank).kill()
    before = rows(run)
    wait_until(lambda: rows(run) > before + 60, alive=are_alive)
    for process in processes:
        process.send_signal(signal.SIGINT)
    assert {process.wait(PATIENCE) for process in processes} <= {130, 2}
    assert [each.name for each in run.parent.glob("tiny_*")] == ["tiny_v1"]
    record = pd.read_csv(run / "losses.csv")
    assert not record.duplicated(["step", "loss"]).any()
    assert set(record["step"]) == set(range(1, record["step"].max() + 1))


@pytest.mark.slow
def test_a_machine_that_comes_later_joins_the_run(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny_v1"
    words = ["--nproc", "1", "--nnodes", "1:2", "--rdzv-endpoint", f"localhost:{free_port()}"]
    words += ["--resume", "auto", "--set", "save.model_save_rate=1"]
    said = [tmp_path / f"said_{n}" for n in range(2)]
    processes = [started([*command, *words], said[0])]

    def are_alive() -> bool:
        return not any(process.poll() for process in processes)

    wait_until(lambda: rows(run) > 60, alive=are_alive)
    processes.append(started([*command, *words], said[1]))
    wait_until(lambda: any("2 processes" in each.read_text() for each in said), alive=are_alive)
    before = rows(run)
    wait_until(lambda: rows(run) > before + 60, alive=are_alive)
    for process in processes:
        process.send_signal(signal.SIGINT)
    assert {process.wait(PATIENCE) for process in processes} <= {130, 2}
    assert [each.name for each in run.parent.glob("tiny_*")] == ["tiny_v1"]
    (line,) = (run / "resumptions.jsonl").read_text().splitlines()
    assert json.loads(line)["processes"] == [1, 2]
    record = pd.read_csv(run / "losses.csv")
    assert not record.duplicated(["step", "loss"]).any()
    assert set(record["step"]) == set(range(1, record["step"].max() + 1))
