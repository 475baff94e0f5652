from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nectargan.errors import RunError
from nectargan.record import follower as base
from nectargan.record.follower import Follower, traces
from nectargan.record.ledger import GradientRow, Ledger, LossRow, MetricRow, read_blocks
from nectargan.record.points import Point
from nectargan.record.rollback import cut_ledger
from nectargan.record.run_directory import (
    GRADIENTS_FILE,
    LOSSES_FILE,
    METRICS_FILE,
    RunDirectory,
    RunStatus,
)
from nectargan.record.seeking import offset_of_step


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that a user sees."""
    return [each.getMessage() for each in caplog.records if each.name == "nectargan"]


class FakeSink:
    """Keeps what it gets, and fails as often as it is told to."""

    name = "Fake"
    takes_means = False

    def __init__(
        self, every: int = 1, failures: int = 0, open_failures: int = 0, close_failures: int = 0
    ) -> None:
        self.every_n_steps = every
        self.failures, self.open_failures = failures, open_failures
        self.close_failures = close_failures
        self.points: list[Point] = []
        self.files: list[tuple[str, str, int]] = []
        self.statuses: list[RunStatus] = []
        self.threads: set[str] = set()
        self.recovered = threading.Event()

    def open(self, first_step: int) -> None:
        self.threads.add(threading.current_thread().name)
        if self.open_failures:
            self.open_failures -= 1
            raise ConnectionError("nobody\nthere")

    def has_everything(self, status: RunStatus) -> bool:
        return True

    def write(self, points: Sequence[Point]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.points += points
        self.recovered.set()

    def add_file(self, kind: str, path: Path, step: int) -> None:
        self.files.append((kind, path.name, step))

    def close(self, status: RunStatus, reason: str) -> None:
        if self.close_failures:
            self.close_failures -= 1
            raise ConnectionError("gone")
        self.statuses.append(status)


def write_ledgers(directory: Path, steps: int) -> None:
    losses = Ledger(directory / LOSSES_FILE, LossRow)
    for step in range(1, steps + 1):
        losses.append([LossRow(step, 1, 1000 + step, "a", step / 8, 2.0, step / 4)])
    losses.close()
    metrics = Ledger(directory / METRICS_FILE, MetricRow)
    metrics.append([MetricRow(3, 1, 5000, "val/x", 0.25)])
    metrics.close()


def expected(steps: Sequence[int]) -> list[Point]:
    points = []
    for step in steps:
        points += [
            Point("loss/a/raw", step / 8, step, 1000 + step),
            Point("loss/a/weight", 2.0, step, 1000 + step),
            Point("loss/a/weighted", step / 4, step, 1000 + step),
        ]
    return [*points, Point("val/x", 0.25, 3, 5000)]


def follow(sink: FakeSink, directory: Path, status: RunStatus = "FINISHED") -> bool:
    follower = Follower(sink, RunDirectory(directory), poll_seconds=0.001)
    follower.start()
    follower.finish(status)
    return follower.wait(30)


@pytest.mark.parametrize(
    ("every", "steps"), [(1, range(1, 8)), (3, [1, 3, 6]), (7, [1, 7]), (50, [1])]
)
def test_the_first_step_and_every_nth_are_forwarded(
    tmp_path: Path, every: int, steps: Sequence[int]
) -> None:
    write_ledgers(tmp_path, 7)
    sink = FakeSink(every)
    assert follow(sink, tmp_path)
    assert sink.points == expected(steps)
    assert sink.statuses == ["FINISHED"]
    assert sink.threads == {"nectargan-Fake"}


@pytest.mark.parametrize(
    "failures",
    [
        {"failures": 3},
        {"open_failures": 2},
        {"close_failures": 5},
        {"failures": 2, "open_failures": 4, "close_failures": 1},
    ],
)
def test_a_sink_that_recovers_has_everything_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failures: dict[str, int]
) -> None:
    write_ledgers(tmp_path, 7)
    sink = FakeSink(**failures)
    with caplog.at_level(logging.WARNING, "nectargan"):
        assert follow(sink, tmp_path, "KILLED")
    assert sink.points == expected(range(1, 8))
    assert sink.statuses == ["KILLED"]
    messages = printed(caplog)
    (trace,) = [record for record in caplog.records if record.name == traces.name]
    assert trace.exc_info is not None, "the traceback is for sinks.log"
    assert len(messages) == 2, "one warning when it goes, one when it is back"
    assert messages[0].startswith("Fake is behind: ")
    assert "\n" not in messages[0]
    assert messages[1] == "Fake is back"


def test_a_sink_that_never_opens_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_ledgers(tmp_path, 3)
    sink = FakeSink(open_failures=10**9)
    follower = Follower(sink, RunDirectory(tmp_path), poll_seconds=0.001)
    follower.start()
    follower.finish("FINISHED")
    assert follower.wait(0.05) is False
    assert sink.points == sink.statuses == []
    assert printed(caplog) == ["Fake is behind: nobody there"]


def test_points_arrive_while_the_ledger_grows(tmp_path: Path) -> None:
    losses = Ledger(tmp_path / LOSSES_FILE, LossRow)
    sink = FakeSink()
    follower = Follower(sink, RunDirectory(tmp_path), poll_seconds=0.001)
    follower.start()
    for step in range(1, 6):
        sink.recovered.clear()
        losses.append([LossRow(step, 1, step, "a", 1.0, 1.0, 1.0)])
        assert sink.recovered.wait(30), "a point does not wait for the end of the run"
    follower.finish("FINISHED")
    assert follower.wait(30)
    assert [p.step for p in sink.points if p.series == "loss/a/weight"] == [1, 2, 3, 4, 5]


def test_files_of_epochs_are_sent_once_and_only_when_they_are_whole(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in (
        run.epoch_file("examples", 2, 80),
        run.epoch_file("examples", 1, 40),
        run.epoch_file("histograms", 1, 40),
        "examples/.epoch_0003_step_00000120.png.x.part",
        "examples/holiday.png",
        "examples/epoch_best.png",
        "elsewhere/epoch_0001_step_00000040.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    sink = FakeSink()
    assert follow(sink, tmp_path)
    assert sink.files == [
        ("examples", "epoch_0001_step_00000040.png", 40),
        ("examples", "epoch_0002_step_00000080.png", 80),
        ("histograms", "epoch_0001_step_00000040.npz", 40),
    ]


def test_rows_that_a_failing_sink_has_seen_are_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor moves block by block: a failure in the middle repeats its own block alone."""
    write_ledgers(tmp_path, 40)
    monkeypatch.setattr(base, "read_blocks", partial(read_blocks, block_bytes=100))

    class FailsOnce(FakeSink):
        calls = 0

        def write(self, points: Sequence[Point]) -> None:
            self.calls += 1
            if self.calls % 3 == 2:
                raise ConnectionError("away")
            super().write(points)

    sink = FailsOnce()
    assert follow(sink, tmp_path)
    assert sink.calls > 12
    assert sink.points == expected(range(1, 41))


@given(cuts=st.lists(st.integers(0, 600), max_size=8))
def test_a_file_torn_anywhere_is_followed_whole(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("torn")
    write_ledgers(directory, 20)
    whole = (directory / LOSSES_FILE).read_bytes()
    sink = FakeSink()
    follower = Follower(sink, RunDirectory(directory))
    for cut in sorted(cuts):
        (directory / LOSSES_FILE).write_bytes(whole[:cut])
        follower._catch_up()
    (directory / LOSSES_FILE).write_bytes(whole)
    follower._catch_up()
    assert sorted(sink.points) == sorted(expected(range(1, 21)))


@pytest.mark.parametrize("every", [0, -5])
def test_a_stride_below_one_is_refused(tmp_path: Path, every: int) -> None:
    with pytest.raises(RunError, match=rf"every_n_steps of Fake is {every}; it must be 1 or more"):
        Follower(FakeSink(every), RunDirectory(tmp_path))


def test_nothing_to_follow(tmp_path: Path) -> None:
    sink = FakeSink()
    assert follow(sink, tmp_path, "FAILED")
    assert (sink.points, sink.statuses) == ([], ["FAILED"])


def test_a_sink_of_four_methods_is_enough(tmp_path: Path) -> None:
    """As it was before points could be means, and before a sink could be asked what it has."""

    class Plain:
        name, every_n_steps = "plain", 2

        def __init__(self) -> None:
            self.steps: list[int] = []
            self.ended = ""

        def open(self, first_step: int) -> None: ...

        def write(self, points: Sequence[Point]) -> None:
            self.steps += [point.step for point in points if point.series == "loss/a/raw"]

        def add_file(self, kind: str, path: Path, step: int) -> None: ...

        def close(self, status: str, reason: str) -> None:
            self.ended = status

    rows = "".join(f"{step},1,{step},a,0.5,1,0.5\n" for step in range(1, 6))
    (tmp_path / "losses.csv").write_text("step,epoch,time,loss,raw,weight,weighted\n" + rows)
    sink: Any = Plain()
    follower = Follower(sink, RunDirectory(tmp_path))
    assert follower.lacks_something("FINISHED")
    follower.catch_up("FINISHED")
    assert (sink.steps, sink.ended) == ([1, 2, 4], "FINISHED")
    assert not Follower(sink, RunDirectory(tmp_path)).lacks_something("FINISHED")


def test_tags_reach_the_sink_in_the_thread_until_it_takes_them(tmp_path: Path) -> None:
    class Tagged(FakeSink):
        tag_failures = 2

        def tag(self, key: str, value: str) -> None:
            self.threads.add(threading.current_thread().name)
            if self.tag_failures:
                self.tag_failures -= 1
                raise ConnectionError("away")
            tags.append((key, value))

    tags: list[tuple[str, str]] = []
    sink = Tagged()
    follower = Follower(sink, RunDirectory(tmp_path), poll_seconds=0.001)
    follower.tag("graph", "off")
    follower.start()
    follower.tag("graph", "on")
    follower.finish("FINISHED")
    assert follower.wait(30)
    assert tags == [("graph", "off"), ("graph", "on")]
    assert sink.threads == {"nectargan-Fake"}


def test_a_sink_need_not_take_tags(tmp_path: Path) -> None:
    follower = Follower(FakeSink(), RunDirectory(tmp_path))
    follower.tag("graph", "off")
    follower.catch_up("FINISHED")


def write_run(directory: Path, first: int, last: int, epoch_steps: int, stride: int) -> None:
    """Appends the steps of a run to its ledgers: two losses, and their gradients in each
    ``stride``-th step."""
    exists = (directory / LOSSES_FILE).exists()
    losses = Ledger(directory / LOSSES_FILE, LossRow, exists)
    gradients = Ledger(directory / GRADIENTS_FILE, GradientRow, exists)
    metrics = Ledger(directory / METRICS_FILE, MetricRow, exists)
    for step in range(first, last + 1):
        epoch, value = 1 + (step - 1) // epoch_steps, step / 8
        losses.append(LossRow(step, epoch, step, name, value, 2.0, 2 * value) for name in "ab")
        if step % stride == 0:
            shares = {"a": 0.25, "b": 0.75}
            gradients.append(
                GradientRow(step, epoch, step, name, value, share, -value)
                for name, share in shares.items()
            )
        if step % epoch_steps == 0:
            metrics.append([MetricRow(step, epoch, step, "val/x", value)])
    for ledger in (losses, gradients, metrics):
        ledger.close()


class PurgingSink(FakeSink):
    """Drops what it has from the first step on that will be sent again, as a sink should."""

    def open(self, first_step: int) -> None:
        self.points = [point for point in self.points if point.step < first_step]


@settings(max_examples=60)
@given(
    means=st.booleans(),
    every=st.integers(1, 7),
    epoch_steps=st.integers(1, 12),
    stride=st.integers(1, 5),
    stops=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=3),
    lost=st.booleans(),
    late=st.booleans(),
)
def test_a_resumed_run_has_each_point_once(
    means: bool,
    every: int,
    epoch_steps: int,
    stride: int,
    stops: list[tuple[int, int]],
    lost: bool,
    late: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Killed after any step and resumed from any earlier one, with gradients at any stride, while
    the sink is followed or left to a later `sync`."""
    whole, resumed = PurgingSink(every), PurgingSink(every)
    whole.takes_means = resumed.takes_means = means
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    at = 0
    for end, back in stops:
        write_run(run.path, at + 1, max(at, end), epoch_steps, stride)
        Follower(resumed, run, resume=at > 0).catch_up("KILLED")
        at = min(max(at, end), back)
        for file in (LOSSES_FILE, GRADIENTS_FILE, METRICS_FILE):
            cut_ledger(run / file, offset_of_step(run / file, at + 1), run / "orphans.csv")
        if lost and run.cursor("Fake").exists():
            run.cursor("Fake").write_text("damaged")
            resumed.points = []
    follower = Follower(resumed, run, resume=at > 0)
    write_run(run.path, at + 1, 30, epoch_steps, stride)
    if late:
        follower = Follower(resumed, run, resume=at > 0)
    follower.catch_up("FINISHED")

    run = RunDirectory(tmp_path_factory.mktemp("whole"))
    write_run(run.path, 1, 30, epoch_steps, stride)
    Follower(whole, run).catch_up("FINISHED")
    assert sorted(resumed.points) == sorted(whole.points)
    assert ("gradient/a/share" in {point.series for point in whole.points}) == (
        means or any(step % stride == 0 for step in (1, *range(every, 31, every)))
    )
    assert not Follower(resumed, run).lacks_something("FINISHED")


def test_a_run_of_an_earlier_version_is_not_sent_again(tmp_path: Path) -> None:
    """Its cursor and its directory know nothing of gradients."""
    write_ledgers(tmp_path, 7)
    run = RunDirectory(tmp_path)
    sizes = {file: (run / file).stat().st_size for file in (LOSSES_FILE, METRICS_FILE)}
    run.cursors.mkdir()
    text = {"offsets": sizes, "files": [], "status": "FINISHED"}
    run.cursor("Fake").write_text(json.dumps(text))
    assert not Follower(FakeSink(), run).lacks_something("FINISHED")
    sink = PurgingSink()
    first = Follower(sink, run, resume=True)._first_step
    assert first == 4, "the step after the last metric, as before"
    gradients = Ledger(run.gradients, GradientRow)
    gradients.append([GradientRow(9, 1, 9, "a", 2.0, 1.0, 0.5)])
    Follower(sink, run, resume=True).catch_up("FINISHED")
    assert {point.step for point in sink.points} == {4, 5, 6, 7, 9}
