from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import nectargan
from nectargan.errors import LossError, RunError
from nectargan.interrupts import uninterrupted
from nectargan.loggers.tracking import Tracker
from nectargan.losses.loss_manager import LossManager
from nectargan.record import ledger, recorder, tracker
from nectargan.runs.run_list import summarize_runs
from nectargan.scheduling.data import Schedule
from nectargan.shell import quoted
from tests.processes import PATIENCE


def manager() -> LossManager:
    losses = LossManager()
    losses.register_loss_fn("L1", nn.L1Loss(), schedule=Schedule("linear", 1, 4, 90.0, 0.0))
    losses.register_loss_fn("L2", nn.MSELoss(reduction="none"), loss_weight=0.3)
    return losses


def plain_loop(losses: LossManager, epochs: int = 4, steps: int = 5) -> list[tuple[object, ...]]:
    """A training loop as anybody writes one; returns what the record should say."""
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows: list[tuple[object, ...]] = []
    step = 0
    for epoch in range(1, epochs + 1):
        for _ in range(steps):
            step += 1
            x, y = torch.randn(2, 8, 3)
            generated = model(x)
            l1 = losses.compute_loss_xy("L1", generated, y, epoch)
            l2 = losses.compute_loss_xy("L2", generated, y)
            optimizer.zero_grad()
            (l1 + l2.mean()).backward()
            optimizer.step()
            weight = 90.0 - 30.0 * (epoch - 1)
            raws = ((generated - y).abs().mean().item(), ((generated - y) ** 2).mean().item())
            rows.append((step, epoch, "L1", raws[0], weight))
            rows.append((step, epoch, "L2", raws[1], 0.3))
    return rows


def test_one_line_records_a_plain_loop_everywhere(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    losses = manager()
    with nectargan.track(
        losses, tmp_path / "run", mlflow=store, tensorboard=True, mlflow_every_n_steps=7
    ):
        rows = plain_loop(losses)

    frame = pd.read_csv(tmp_path / "run" / "losses.csv")
    expected = pd.DataFrame(rows, columns=["step", "epoch", "loss", "raw", "weight"])
    pd.testing.assert_frame_equal(frame[list(expected.columns)], expected, rtol=1e-6)
    assert np.array_equal(
        frame["weighted"].astype(np.float32),
        frame["raw"].astype(np.float32) * frame["weight"].astype(np.float32),
    )

    by_step = {(f"loss/{r.loss}/raw", r.step): r.raw for r in frame.itertuples()}
    by_step |= {(f"loss/{r.loss}/weighted", r.step): r.weighted for r in frame.itertuples()}
    by_step |= {(f"loss/{r.loss}/weight", r.step): r.weight for r in frame.itertuples()}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    shown = {(t, e.step): e.value for t in events.Tags()["scalars"] for e in events.Scalars(t)}
    assert {step for _, step in shown} == {1, 10, 20}
    assert all(np.float32(by_step[key]) == np.float32(value) for key, value in shown.items())
    assert len(shown) == 6 * 3

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("run")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == {series for series, _ in by_step}
    for key in run.data.metrics:
        points = client.get_metric_history(run.info.run_id, key)
        # Means: of five steps an epoch, and the window of 7 steps that ends in it as well.
        windows = {5: [1, 2, 3, 4, 5], 7: [6, 7], 10: [8, 9, 10], 14: [11, 12, 13, 14], 15: [15]}
        windows |= {20: [16, 17, 18, 19, 20]}
        means = {end: np.mean([by_step[key, s] for s in steps]) for end, steps in windows.items()}
        assert {p.step: p.value for p in points} == pytest.approx(means, rel=1e-12)
        assert len(points) == len(means)
    assert os.listdir(tmp_path / "cwd") == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (RuntimeError("broken"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_the_status_is_how_the_block_ended(
    tmp_path: Path, store: str, error: BaseException | None, status: str
) -> None:
    losses = manager()

    def run() -> None:
        with nectargan.track(losses, tmp_path / "run", mlflow=store):
            losses.compute_loss_xy("L1", torch.ones(3), torch.zeros(3), epoch=1)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            run()
    else:
        run()
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("run")
    (mlrun,) = client.search_runs([experiment.experiment_id])
    assert mlrun.info.status == status
    frame = pd.read_csv(tmp_path / "run" / "losses.csv")
    assert frame["raw"].tolist() == [1.0], "what was computed before is on record"


def test_ctrl_c_at_any_line_of_the_record_leaves_it_exact(tmp_path: Path) -> None:
    """A real SIGINT before each line that the recorder and the ledger run, one after another."""
    modules = (recorder.__file__, ledger.__file__)

    def interrupted_at(line: int) -> bool:
        seen = 0
        done: list[tuple[int, str]] = []

        def tracer(frame: FrameType, kind: str, _: object) -> Any:
            nonlocal seen
            if frame.f_code.co_filename not in modules:
                return None
            if kind == "line":
                seen += 1
                if seen == line:
                    signal.raise_signal(signal.SIGINT)
            return tracer

        losses = LossManager()
        losses.register_loss_fn("a", torch.mean)
        losses.register_loss_fn("b", torch.sum)
        before = sys.gettrace()
        try:
            with Tracker(losses, tmp_path / str(line), window_steps=2, window_seconds=1e9):
                sys.settrace(tracer)
                try:
                    for step in range(1, 6):
                        losses.start_step(1, step)
                        for name in "ab":
                            losses.compute_loss(name, torch.ones(2))
                            done.append((step, name))
                finally:
                    sys.settrace(before)
        except KeyboardInterrupt:
            pass
        frame = pd.read_csv(tmp_path / str(line) / "losses.csv")
        rows = list(zip(frame["step"], frame["loss"], strict=True))
        # The loss in whose hook the interrupt came may be on record or not; no other.
        assert rows[: len(done)] == done
        assert len(rows) <= len(done) + 1
        return len(done) < 10

    line = 1
    while interrupted_at(line):
        line += 1
    assert line > 100


def test_without_sinks_there_are_ledgers_and_tags(tmp_path: Path) -> None:
    losses = manager()
    with nectargan.track(losses, tmp_path / "a" / "run"):
        plain_loop(losses, 1, 2)
    assert sorted(os.listdir(tmp_path / "a" / "run")) == [
        ".lock",
        "losses.csv",
        "losses.json",
        "metrics.csv",
        "status.json",
    ]


def test_nothing_is_recorded_after_the_block(tmp_path: Path) -> None:
    losses = manager()
    with nectargan.track(losses, tmp_path / "run"):
        plain_loop(losses, 1, 2)
    before = (tmp_path / "run" / "losses.csv").read_bytes()
    plain_loop(losses, 1, 2)
    assert (tmp_path / "run" / "losses.csv").read_bytes() == before


def test_a_directory_with_a_record_is_refused(tmp_path: Path) -> None:
    losses = manager()
    with nectargan.track(losses, tmp_path):
        plain_loop(losses, 1, 1)
    before = (tmp_path / "losses.csv").read_bytes()
    with pytest.raises(RunError, match=r"losses\.csv' exists already"):
        nectargan.track(losses, tmp_path).__enter__()
    assert (tmp_path / "losses.csv").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be created"):
        nectargan.track(losses, tmp_path / "file" / "run").__enter__()


@pytest.mark.parametrize("sink", ["mlflow", "tensorboard"])
def test_a_stride_below_one_is_refused_before_anything_is_made(tmp_path: Path, sink: str) -> None:
    options: dict[str, Any] = {sink: True, f"{sink}_every_n_steps": 0}
    with pytest.raises(RunError, match="is 0; it must be 1 or more"):
        nectargan.track(manager(), tmp_path / "run", **options)
    assert os.listdir(tmp_path) == []


def test_metrics_of_the_users_own(tmp_path: Path) -> None:
    with nectargan.track(manager(), tmp_path) as tracker:
        tracker.log_metrics(step=7, epoch=2, values={"val/f1": 0.1, "lr/net": 2e-4})
        with pytest.raises(LossError, match="'a,b' cannot name a series"):
            tracker.log_metrics(8, 2, {"ok": 1.0, "a,b": 2.0})
    frame = pd.read_csv(tmp_path / "metrics.csv")
    assert frame[["step", "epoch", "metric", "value"]].to_numpy().tolist() == [
        [7, 2, "val/f1", 0.1],
        [7, 2, "lr/net", 2e-4],
    ]


def gradient_loop(losses: LossManager, epochs: int = 2, steps: int = 3) -> None:
    """The same loop with `gradients_at`, and a metric of each step."""
    model = nn.Linear(3, 3)
    for step in range(1, epochs * steps + 1):
        losses.start_step((step - 1) // steps + 1, step)
        x, y = torch.randn(2, 8, 3)
        with losses.gradients_at(model(x)) as generated:
            losses.compute_loss_xy("L1", generated, y)
            losses.compute_loss_xy("L2", generated, y)
        losses.log_metric("my/step", torch.tensor(float(step)))


def test_gradients_and_metrics_of_each_step_are_recorded(tmp_path: Path) -> None:
    losses = manager()
    with nectargan.track(losses, tmp_path / "run") as run:
        gradient_loop(losses)
        assert not run.directory.gradients.exists(), "the window is not over"
    gradients = pd.read_csv(tmp_path / "run" / "gradients.csv")
    assert list(gradients) == ["step", "epoch", "time", "loss", "norm", "share", "cosine"]
    assert gradients["loss"].tolist() == ["L1", "L2"] * 6
    assert gradients["step"].tolist() == [step for step in range(1, 7) for _ in "ab"]
    times = pd.read_csv(tmp_path / "run" / "losses.csv")["time"]
    assert gradients["time"].equals(times)
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    # The loop ends no epoch: the window of the first one ends with the second, and the rest, with
    # the cosines of the second one, is written at the end.
    rows = list(metrics[["step", "epoch", "metric", "value"]].itertuples(index=False, name=None))
    assert rows[:2] == [(3, 1, "my/step", 2.0), (6, 2, "my/step", 5.0)]
    assert rows[2][:3] == (6, 2, "gradient/cosine/L1 vs L2")
    second = gradients[gradients["epoch"] == 2]
    assert rows[2][3] == pytest.approx(second["cosine"].mean(), abs=1e-6)


def test_an_epoch_may_be_ended(tmp_path: Path) -> None:
    losses = manager()
    with nectargan.track(losses, tmp_path / "run") as run:
        gradient_loop(losses, epochs=1)
        run.end_epoch(3, 1, {"val/own": 0.5})
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv").set_index("metric")
    assert metrics["step"].tolist() == [3, 3, 3]
    assert metrics["value"]["val/own"] == 0.5
    assert metrics["value"]["my/step"] == 2.0
    assert -1 <= metrics["value"]["gradient/cosine/L1 vs L2"] <= 1


@pytest.mark.parametrize(("every", "steps"), [(None, []), (4, [1, 4])])
def test_gradients_may_be_recorded_at_some_steps_or_not_at_all(
    tmp_path: Path, every: int | None, steps: list[int]
) -> None:
    losses = manager()
    with nectargan.track(losses, tmp_path / "run", gradients_every_n_steps=every):
        gradient_loop(losses)
        assert losses.measures_gradients == (every is not None)
    assert not losses.measures_gradients
    path = tmp_path / "run" / "gradients.csv"
    assert path.exists() == bool(steps)
    if steps:
        assert pd.read_csv(path)["step"].unique().tolist() == steps


def test_flush_brings_everything_to_the_file(tmp_path: Path) -> None:
    losses = manager()
    with nectargan.track(losses, tmp_path) as tracker:
        losses.compute_loss_xy("L1", torch.ones(3), torch.zeros(3), epoch=2)
        assert len(pd.read_csv(tmp_path / "losses.csv")) == 0
        tracker.flush()
        assert pd.read_csv(tmp_path / "losses.csv")["weighted"].tolist() == [60.0]
        assert tracker.last["L1"].weight == 60.0


def test_a_sink_that_is_away_does_not_stop_the_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Away:
        name = "Away"
        every_n_steps = 1

        def open(self, first_step: int) -> None:
            raise ConnectionError("no route")

        write = add_file = close = lambda self, *_: None

    losses = manager()
    with Tracker(losses, tmp_path, [Away()], drain_seconds=0.05):
        rows = plain_loop(losses, 1, 3)
    assert len(pd.read_csv(tmp_path / "losses.csv")) == len(rows)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "Away is behind: no route"
    assert messages[-1].endswith(f"to send the rest: nectargan sync {quoted(tmp_path)}")


class SilentSink:
    """Never answers."""

    name = "Silent"
    takes_means = False
    every_n_steps = 1

    def __init__(self) -> None:
        self.called = threading.Event()

    def open(self, first_step: int) -> None:
        self.called.set()
        threading.Event().wait()


def interrupt_twice_in_a_step() -> None:
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def interrupt_now_and_soon() -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    raise KeyboardInterrupt


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("interrupt", [interrupt_twice_in_a_step, interrupt_now_and_soon])
def test_a_second_interrupt_waits_for_no_sink(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    interrupt: Callable[[], None],
) -> None:
    # Whoever waited for the sink would wait for longer than a test may take.
    monkeypatch.setattr(tracker, "_PATIENCE", 3600.0)
    losses, sink = manager(), SilentSink()
    with (
        pytest.raises(KeyboardInterrupt),
        Tracker(losses, tmp_path, [sink], drain_seconds=3600),  # type: ignore[list-item]
    ):
        plain_loop(losses, epochs=1)
        assert sink.called.wait(PATIENCE)
        interrupt()
    assert len(pd.read_csv(tmp_path / "losses.csv")) == 10, "the record is whole"
    assert [r.getMessage().split(";")[0] for r in caplog.records] == [
        "Silent did not get everything"
    ]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "FINISHED", ""),
        (ValueError("boom"), "FAILED", "ValueError: boom"),
        (KeyboardInterrupt(), "KILLED", ""),
    ],
)
def test_a_plain_loop_is_in_the_list_of_runs(
    tmp_path: Path, error: BaseException | None, status: str, reason: str
) -> None:
    losses = manager()
    run = tmp_path / "my_runs" / "first"
    with suppress(ValueError, KeyboardInterrupt), nectargan.track(losses, run):
        assert [each.status for each in summarize_runs(run.parent)] == ["RUNNING"]
        plain_loop(losses, 2, 3)
        if error is not None:
            raise error
    (summary,) = summarize_runs(run.parent)
    assert (summary.directory, summary.status, summary.reason) == (run, status, reason)
    assert (summary.epoch, summary.behind) == (2, [])
    # Another loop is kept out, and what is on record stays.
    with pytest.raises(RunError, match="exists already"), nectargan.track(losses, run):
        pass
    assert summarize_runs(run.parent) == [summary]


def test_a_plain_loop_that_died_without_a_word_is_marked(tmp_path: Path) -> None:
    code = (
        "import os, torch, nectargan\n"
        "from nectargan.losses.loss_manager import LossManager\n"
        "losses = LossManager()\n"
        "losses.register_loss_fn('a', lambda x: x)\n"
        f"with nectargan.track(losses, {str(tmp_path / 'first')!r}):\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (summary,) = summarize_runs(tmp_path)
    assert (summary.status, summary.reason) == ("KILLED", "the process ended unexpectedly")
