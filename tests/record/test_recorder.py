from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nectargan.losses.lm_data import GradientEvent, LossEvent, MetricEvent, check_series_name
from nectargan.losses.loss_manager import LossManager
from nectargan.record.gradient_rows import Products, measure, pair_series, sums_over_images
from nectargan.record.ledger import GradientRow, LossRow
from nectargan.record.recorder import LossRecorder
from nectargan.record.running_means import StepValues


def event(name: str, step: int, raw: Any, weight: float = 2.0, epoch: int = 1) -> LossEvent:
    raw = raw if isinstance(raw, Tensor) else torch.tensor(float(raw))
    return LossEvent(name, (), raw, weight, raw * weight, epoch, step)


class Windows:
    """Takes rows as a ledger does, window by window."""

    def __init__(self) -> None:
        self.written: list[list[LossRow]] = []

    def __call__(self, rows: list[LossRow]) -> None:
        self.written.append(rows)

    @property
    def rows(self) -> list[LossRow]:
        return [row for rows in self.written for row in rows]


@given(
    steps=st.lists(
        st.lists(
            st.tuples(st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-1e6, 1e6)),
            min_size=1,
            max_size=4,
        ),
        max_size=12,
    ),
    window=st.integers(1, 5),
)
def test_every_loss_of_every_step_has_a_row(
    steps: list[list[tuple[float, float]]], window: int
) -> None:
    windows = Windows()
    recorder = LossRecorder(windows, window_steps=window, window_seconds=1e9)
    expected = []
    for step, losses in enumerate(steps, start=1):
        for index, (raw, weight) in enumerate(losses):
            recorder(event(f"l{index}", step, raw, weight, epoch=step // 3))
            product = (torch.tensor(raw) * weight).item()
            expected.append((step, step // 3, f"l{index}", raw, weight, product))
    recorder.flush()
    got = [
        (r.step, r.epoch, r.loss, float(r.raw), r.weight, float(r.weighted)) for r in windows.rows
    ]
    assert got == expected
    assert all(len({r.step for r in rows}) <= window for rows in windows.written)


def test_rows_are_written_at_the_end_of_a_window_of_steps() -> None:
    windows = Windows()
    recorder = LossRecorder(windows, window_steps=3, window_seconds=1e9)
    for step in range(1, 8):
        recorder(event("a", step, step))
    # The third step is known to be over when the fourth begins.
    assert [[row.step for row in rows] for rows in windows.written] == [[1, 2, 3], [4, 5, 6]]
    recorder.flush()
    assert [row.step for row in windows.rows] == list(range(1, 8))


def test_rows_are_written_when_a_window_lasts_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    windows = Windows()
    recorder = LossRecorder(windows, window_steps=1000, window_seconds=2.0)
    for step in range(1, 9):
        recorder(event("a", step, step))
        now[0] += 0.75
    # Steps begin at 0, 0.75, 1.5, 2.25 ...: the fourth finds a window that has lasted 2 seconds.
    assert [[row.step for row in rows] for rows in windows.written] == [[1, 2, 3], [4, 5, 6]]


def test_flushing_twice_writes_once() -> None:
    windows = Windows()
    recorder = LossRecorder(windows)
    recorder(event("a", 1, 5.0))
    recorder.flush()
    recorder.flush()
    assert [(row.step, row.raw) for row in windows.rows] == [(1, 5.0)]


def test_a_step_may_go_on_after_a_flush_only_as_rows_of_other_losses() -> None:
    windows = Windows()
    recorder = LossRecorder(windows)
    recorder(event("a", 1, 1.0))
    recorder.flush()
    recorder(event("b", 1, 2.0))
    recorder(event("a", 2, 3.0))
    recorder.flush()
    assert [(row.step, row.loss) for row in windows.rows] == [(1, "a"), (1, "b"), (2, "a")]


def test_a_loss_registered_in_mid_run_adds_rows_and_changes_nothing_else() -> None:
    def rows(late: bool) -> list[tuple[int, str, float]]:
        windows = Windows()
        recorder = LossRecorder(windows, window_steps=2)
        manager = LossManager()
        manager.register_hook(recorder)
        manager.register_loss_fn("a", torch.mean)
        for step in range(1, 7):
            manager.start_step(1, step)
            if late and step == 4:
                manager.register_loss_fn("late", torch.sum)
            for name in manager.get_registered_losses():
                manager.compute_loss(name, torch.full((2,), float(step)))
        recorder.flush()
        return [(row.step, row.loss, float(row.raw)) for row in windows.rows]

    with_late = rows(late=True)
    assert [r for r in with_late if r[1] != "late"] == rows(late=False)
    assert [r for r in with_late if r[1] == "late"] == [
        (4, "late", 8.0),
        (5, "late", 10.0),
        (6, "late", 12.0),
    ]


def test_a_loss_computed_several_times_in_a_step_is_recorded_by_its_mean() -> None:
    windows = Windows()
    recorder = LossRecorder(windows)
    for raw in (1.0, 2.0, 6.0):
        recorder(event("a", 1, raw, weight=10.0))
    recorder.flush()
    (row,) = windows.rows
    assert (row.raw, row.weight, row.weighted) == (3.0, 10.0, 30.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_all_float_types_are_recorded_as_float32(dtype: torch.dtype) -> None:
    windows = Windows()
    recorder = LossRecorder(windows)
    raw = torch.tensor(0.1, dtype=dtype)
    recorder(event("a", 1, raw))
    recorder(event("b", 1, torch.tensor(1.0)))
    recorder.flush()
    first = windows.rows[0]
    assert isinstance(first.raw, np.float32)
    assert first.raw == raw.float().item()
    assert first.weighted == np.float32(raw.float().item()) * np.float32(2)


def test_a_loss_that_is_changed_in_place_later_is_recorded_as_it_was() -> None:
    windows = Windows()
    manager = LossManager()
    manager.register_hook(LossRecorder(windows, window_steps=1))
    manager.register_loss_fn("a", torch.mean, loss_weight=10.0)
    manager.register_loss_fn("b", torch.sum, loss_weight=100.0)
    reused = torch.zeros(())
    manager.register_loss_fn("reused", lambda x: reused.copy_(x.max()))
    for step in (1, 2, 3):
        manager.start_step(1, step)
        x = torch.full((2,), float(step), requires_grad=True)
        total = manager.compute_loss("reused", x.detach())
        for name in "ab":
            total += manager.compute_loss(name, x)
        total /= 4
        total.backward()
        assert x.grad is not None
    assert [(row.loss, row.raw, row.weighted) for row in windows.rows] == [
        ("reused", 1.0, 1.0),
        ("a", 1.0, 10.0),
        ("b", 2.0, 200.0),
        ("reused", 2.0, 2.0),
        ("a", 2.0, 20.0),
        ("b", 4.0, 400.0),
    ]


def test_nan_and_infinity_are_recorded_as_they_are() -> None:
    windows = Windows()
    recorder = LossRecorder(windows)
    for name, raw in (("nan", float("nan")), ("inf", float("inf")), ("low", float("-inf"))):
        recorder(event(name, 1, raw))
    recorder.flush()
    assert [str(row.raw) for row in windows.rows] == ["nan", "inf", "-inf"]


def test_the_newest_rows_are_at_hand() -> None:
    recorder = LossRecorder(Windows(), window_steps=2)
    for step in range(1, 6):
        recorder(event("a", step, step))
    assert recorder.last["a"].step == 4
    assert recorder.last["a"].raw == 4.0


def test_time_is_in_milliseconds_since_1970() -> None:
    windows = Windows()
    recorder = LossRecorder(windows)
    before = time.time() * 1000
    recorder(event("a", 1, 1.0))
    recorder(event("b", 1, 1.0))
    recorder.flush()
    a, b = windows.rows
    assert before - 1 <= a.time == b.time <= time.time() * 1000


class _Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_between_the_ends_of_windows() -> None:
    recorder = LossRecorder(Windows(), window_steps=1000, window_seconds=1e9)
    events = [event(name, step, step) for step in range(1, 101) for name in "abcde"]
    with _Operations() as operations:
        for each in events:
            recorder(each)
        for step in range(1, 101):
            recorder.note_metric(MetricEvent("m", torch.empty(()), 1, step))
            recorder.note_gradients(GradientEvent(("a", "b"), torch.empty(1, 2, 2), 1, step))
    # Nothing at all until the window is over.
    assert [name for name in operations.names if "empty" not in name] == []


def test_gradients_and_metrics_are_written_with_the_losses_of_their_window() -> None:
    """Steps 1 and 2 are a window; step 3 has several backward passes and metrics, and a loss that
    is in one of them alone."""
    windows, rows, seen = Windows(), list[list[GradientRow]](), list[StepValues]()
    recorder = LossRecorder(
        windows, 2, 1e9, lambda: 77, write_gradients=rows.append, take_values=seen.extend
    )

    def gradients(step: int, losses: str, *vectors: list[float]) -> None:
        at = torch.tensor(vectors)
        products = (at @ at.T).expand(1, -1, -1)
        recorder.note_gradients(GradientEvent(tuple(losses), products, 1, step))

    for step in (1, 2):
        recorder(event("a", step, 0.5))
        gradients(step, "ab", [3.0, 0.0], [-4.0 * step, 0.0])
        recorder.note_metric(MetricEvent("m", torch.tensor(2.0 * step), 1, step))
    assert (windows.written, rows, seen) == ([], [], [])
    recorder(event("a", 3, 0.5))
    assert [[row.step for row in each] for each in windows.written] == [[1, 2]]
    assert rows == [
        [
            GradientRow(1, 1, 77, "a", *map(np.float32, (3, 3 / 7, -1))),
            GradientRow(1, 1, 77, "b", *map(np.float32, (4, 4 / 7, -1))),
            GradientRow(2, 1, 77, "a", *map(np.float32, (3, 3 / 11, -1))),
            GradientRow(2, 1, 77, "b", *map(np.float32, (8, 8 / 11, -1))),
        ]
    ]
    assert seen == [
        StepValues(1, 1, 77, {"m": 2.0}, {"gradient/cosine/a vs b": -1.0}),
        StepValues(2, 1, 77, {"m": 4.0}, {"gradient/cosine/a vs b": -1.0}),
    ]

    gradients(3, "ab", [1.0, 0.0], [0.0, 1.0])
    gradients(3, "ab", [3.0, 0.0], [3.0, 0.0])
    recorder.note_metric(MetricEvent("m", torch.tensor(1.0), 1, 3))
    recorder.note_metric(MetricEvent("m", torch.tensor(3.0, dtype=torch.float16), 1, 3))
    recorder.flush()
    assert [(r.loss, r.norm, r.share, r.cosine) for r in rows[1]] == [
        ("a", 2.0, 0.5, 0.5),
        ("b", 2.0, 0.5, 0.5),
    ]
    assert seen[2] == StepValues(3, 1, 77, {"m": 2.0}, {"gradient/cosine/a vs b": 0.5})
    recorder.flush()
    assert len(rows) == 2


def test_a_row_of_gradients_is_its_text() -> None:
    row = GradientRow(3, 1, 77, "a", np.float32(0.1), np.float32(1), np.float32("nan"))
    assert row.line == "3,1,77,a,0.1,1.0,nan"
    back = GradientRow.parse(row.line)
    assert back[:6] == (3, 1, 77, "a", 0.1, 1.0)
    assert math.isnan(back.cosine)
    with pytest.raises(ValueError, match="not enough values"):
        GradientRow.parse("3,1,77,a,0.1")


def test_pairs_with_long_names_are_left_out() -> None:
    names = ("x" * 95, "y" * 95, "z")
    steps = [Products(1, 1, 0, names, torch.eye(3)[None], 1)]
    ((rows, cosines),) = measure(steps, sums_over_images(steps))
    assert [row.loss for row in rows] == list(names)
    assert list(cosines) == [pair_series(names[0], "z"), pair_series(names[1], "z")]
    assert all(check_series_name(name) is None for name in cosines)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_recording_on_a_gpu_never_waits_for_it() -> None:
    windows = Windows()
    # The 100 steps are one window; it ends, and its copy begins, with the last event.
    recorder = LossRecorder(windows, window_steps=100, window_seconds=1e9)
    raws = [torch.rand((), device="cuda") for _ in range(501)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index, raw in enumerate(raws):
            recorder(event(f"l{index % 5}", index // 5 + 1, raw))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert windows.rows == [], "its rows are written later"
    recorder.flush()
    assert [row.raw for row in windows.rows] == [raw.item() for raw in raws]
