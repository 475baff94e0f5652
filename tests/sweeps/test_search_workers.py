"""Several processes that share a search: dead ones, surplus trials, machines, the shown table."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nectargan.cli import sweep_output
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.output import make_console
from nectargan.record.output_directory import list_runs
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.resume import Resumption
from nectargan.sweeps import trial_owner
from nectargan.sweeps.axes import parse_axes
from nectargan.sweeps.grid import GridPoint, Resolve
from nectargan.sweeps.results import Result
from nectargan.sweeps.search import Search
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.processes import wait_until
from tests.sweeps.test_workers import output_when_a_worker_is_killed, workers_of

KEY = "train.loss.G_L1"


@pytest.fixture
def resolve(tiny: Callable[..., Config]) -> Resolve:
    options = {"epochs": 1, "epochs_decay": 0}
    base = tiny(train__generator__learning_rate=options).model_dump(mode="json")
    return lambda overrides: ConfigManager(base, overrides).data


@pytest.fixture
def search(resolve: Resolve) -> Search:
    found = Search(parse_axes([f"{KEY}=1..100"]), resolve, "val/ssim")
    found.open()
    return found


def start(config: Config, resumption: Resumption | None = None) -> RunDirectory:
    return Pix2pixTrainer(config, resumption).train()


def silent(number: int, point: GridPoint) -> None:
    pass


pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


def begun(search: Search, value: float, **owner: str) -> Any:
    """A trial that a process, which is not this one, has begun."""
    search._study.enqueue_trial({KEY: value})
    trial = search._study.ask()
    trial.set_user_attr("process", owner)
    trial.suggest_float(KEY, 1, 100)
    return trial


def dead(folder: Path) -> dict[str, str]:
    (folder / "process_1").mkdir(exist_ok=True)
    return {"machine": trial_owner.machine_id(), "host": "here", "lock": str(folder / "process_1")}


def test_the_trial_of_a_dead_process_is_repeated(search: Search, tmp_path: Path) -> None:
    begun(search, 42, **dead(tmp_path))
    (outcome,) = search.run(1, start, silent)
    first, second = search.trials()
    assert (first.state, first.reason) == ("FAIL", "")
    assert (second.state, second.values) == ("COMPLETE", first.values)
    assert outcome.point.values[KEY] == "42.0"
    assert not list((tmp_path / "runs" / ".sweep").glob("process_*"))


def test_a_trial_that_ends_its_processes_is_given_up(
    search: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(search, 42, **dead(tmp_path))
    for _ in range(3):
        assert search._has_room(1)
        trial = search._study.ask()
        assert trial.suggest_float(KEY, 1, 100) == 42
        trial.set_user_attr("process", dead(tmp_path))
    assert search._has_room(1)
    assert caplog.messages == ["Trial 3 is given up: its process died 4 times."]
    assert [trial.state for trial in search.trials()] == ["FAIL"] * 4


def test_a_living_process_keeps_its_trial(search: Search, tmp_path: Path) -> None:
    with trial_owner.owned(tmp_path) as owner:
        assert not trial_owner.has_died(owner)
        begun(search, 42, **owner)
        assert not search._has_room(1)
        assert search._has_room(2)
    assert not Path(owner["lock"]).exists()
    assert not trial_owner.has_died(owner), "it ended by itself"
    assert not trial_owner.has_died({**dead(tmp_path), "machine": "another"})
    assert not trial_owner.has_died(None)


def test_processes_that_begin_at_once_do_not_make_too_many_runs(
    search: Search, resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Search(parse_axes([f"{KEY}=1..100"]), resolve, "val/ssim")
    other.open()
    room = iter([True, False, True, False])  # as it was a moment ago
    monkeypatch.setattr(other, "_has_room", lambda trials: next(room))

    def announce(number: int, point: GridPoint) -> None:
        assert list(other.run(1, start, silent)) == []

    assert len(list(search.run(1, start, announce))) == 1
    assert [trial.state for trial in search.trials()] == ["COMPLETE", "FAIL"]
    assert [trial.reason for trial in search.trials()] == ["", ""]
    assert search._count() == 1

    # One that came from the queue goes back to it.
    search._study.enqueue_trial({KEY: 7.0})
    announce(0, search.corners[0])
    assert search.trials()[-1].state == "WAITING"
    (outcome,) = search.run(2, start, silent)
    assert outcome.point.values[KEY] == "7.0"


def test_the_same_values_are_not_trained_twice_at_once(resolve: Resolve) -> None:
    search, other = (
        Search(parse_axes(["train.gan_mode=lsgan"]), resolve, "val/ssim") for _ in range(2)
    )
    search.open()
    other.open()
    others = []

    def train(config: Config, resumption: Resumption | None) -> RunDirectory:
        others.extend(other.run(2, start, silent))
        return start(config, resumption)

    list(search.run(2, train, silent))
    assert [outcome.reason for outcome in others] == [
        "another process trains a run with the same values"
    ]
    assert [trial.state for trial in search.trials()] == ["COMPLETE", "SKIPPED"]


def test_interruptions_do_not_change_the_values(resolve: Resolve, tmp_path: Path) -> None:
    def values(name: str, stops: tuple[int, ...]) -> list[str]:
        left = list(stops)

        def train(config: Config, resumption: Resumption | None) -> RunDirectory:
            if left and left.pop(0):
                raise KeyboardInterrupt
            return start(config, resumption)

        storage = f"sqlite:///{tmp_path}/{name}.db"
        while True:
            search = Search(parse_axes([f"{KEY}=1..100"]), resolve, "val/ssim", storage)
            search.open()
            try:
                list(search.run(3, train, silent))
            except KeyboardInterrupt:
                continue
            return [t.values[KEY] for t in search.trials() if t.state == "COMPLETE"]

    assert values("a", ()) == values("b", (1, 0, 1, 1))


def test_an_sqlite_file_of_another_machine_is_refused(
    search: Search, resolve: Resolve, tmp_path: Path
) -> None:
    trial = begun(search, 42, machine="another", host="gpu-7", lock=str(tmp_path))
    again = Search(parse_axes([f"{KEY}=1..100"]), resolve, "val/ssim")
    sentence = r"optuna.db' is in use on host 'gpu-7'\. SQLite's locks do not hold between machines"
    with pytest.raises(RunError, match=sentence):
        again.open()
    with pytest.raises(RunError, match=sentence):
        list(search.run(2, start, silent))
    # The machine with the earlier trial goes on.
    search._check_machines(before=trial.number)
    search.storage = "postgresql://server/studies"
    search._check_machines()


def rows(*states: str) -> list[Result]:
    return [Result({KEY: str(i)}, state, "", None, None) for i, state in enumerate(states)]


def test_a_table_that_is_too_long_keeps_the_running_runs() -> None:
    states = ["FINISHED", "RUNNING", *["FINISHED"] * 8, "RUNNING", "NEW"]
    fitting = sweep_output._fitting(rows(*states), 8 + 5)
    assert [each.values[KEY] for each in fitting] == ["1", "8", "9", "10", "11"]
    assert len(sweep_output._fitting(rows(*states), 100)) == len(states)
    assert [each.state for each in sweep_output._fitting(rows(*states), 3)] == ["RUNNING"] * 2
    told = sweep_output._summary(rows(*states), 20)
    assert told == "9 FINISHED, 2 RUNNING, 20 runs in all"


def test_a_message_comes_above_the_live_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    console = make_console(file=screen, width=60)
    monkeypatch.setattr(type(console), "is_terminal", True)
    console.is_interactive = True
    monkeypatch.setattr(sweep_output, "make_console", lambda: console)
    with sweep_output.shown(lambda: rows("RUNNING", "NEW"), ["val/ssim"], 2) as look:
        look()
        print("Worker 1 died")
        look()
    before, _, after = screen.getvalue().partition("Worker 1 died\n")
    assert "RUNNING" in before
    assert before.endswith("\x1b[2K"), "the table was erased"
    assert "1 RUNNING, 2 runs in all" in after


def test_changes_are_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows("NEW", "RUNNING")
    with sweep_output.shown(lambda: found, ["val/ssim"], 4) as look:
        look()
        found[0] = found[0]._replace(state="FINISHED", directory=RunDirectory("runs/x_v1"))
        look()
        look()
    assert capsys.readouterr().out.splitlines() == [
        "Run 2 of 4: G_L1=1: RUNNING",
        "Run 1 of 4: G_L1=0: FINISHED runs/x_v1",
    ]


@pytest.fixture
def command(tiny: Callable[..., Config], tmp_path: Path) -> list[str]:
    config = tmp_path / "tiny.json"
    config.write_text(tiny().model_dump_json())
    words = ["-c", str(config), "--sweep", f"{KEY}=1..100", "--sweep-search", "optuna"]
    return [sys.executable, "-m", "nectargan.cli.train", *words, "--workers", "2"]


@pytest.mark.slow
def test_two_workers_search_and_a_killed_one_is_replaced(
    command: list[str], tmp_path: Path
) -> None:
    words = ["--trials", "4", "--epochs", "4"]
    out = output_when_a_worker_is_killed([*command, *words], tmp_path / "runs")
    assert "4 trials of study 'tiny_sweep_G_L1' for 2 workers" in out
    assert "the seed alone does not determine them" in out
    finished = [run for run in list_runs(tmp_path / "runs", "tiny") if run.status == "FINISHED"]
    assert len(finished) == 4
    assert "Best: " in out


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_with_a_checkpoint(command: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*command, "--epochs", "10000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def train() -> bool:
        runs = list_runs(tmp_path / "runs", "tiny")
        return len(runs) == 2 and all(run.losses.exists() for run in runs)

    try:
        wait_until(train, lambda: process.poll() is None)
        workers = workers_of(process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert err.splitlines() == [
        "Run the same command again to continue the sweep.",
        "Interrupted.",
    ]
    assert not any(worker.is_running() for worker in workers)
    for run in list_runs(tmp_path / "runs", "tiny"):
        assert run.status == "KILLED"
        assert run.list_checkpoints()
