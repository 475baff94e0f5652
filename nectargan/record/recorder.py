"""`LossRecorder`: the hook that copies losses from the device to the ledger asynchronously."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nectargan.defaults import WINDOW_SECONDS, WINDOW_STEPS
from nectargan.interrupts import uninterrupted
from nectargan.losses.lm_data import LossEvent
from nectargan.record.ledger import LossRow


class Clock:
    """Unix time that never decreases, even if the system clock is set back.

    With decreasing times a resumed run would be plotted before its own start, and TensorBoard
    would drop the points that seem older.
    """

    def __init__(self) -> None:
        self._last = 0
        self._at = time.monotonic_ns()

    def __call__(self) -> int:
        """The time in milliseconds."""
        at = time.monotonic_ns()
        self._last = max(time.time_ns(), self._last + at - self._at)
        self._at = at
        return self._last // 1_000_000

    def go_on_from(self, milliseconds: int) -> None:
        """Makes all further times at least ``milliseconds``."""
        self._last = max(self._last, milliseconds * 1_000_000)


class _Value(NamedTuple):
    weight: float
    raw: Tensor  # scalars on the device
    weighted: Tensor


class _Step(NamedTuple):
    step: int
    epoch: int
    time: int
    values: dict[str, list[_Value]]


class _Window(NamedTuple):
    losses: list[tuple[_Step, str, float]]  # step, name and weight, in the order of `pairs`
    pairs: Tensor  # float32 (len(losses), 2) on the CPU: raw and weighted of each loss
    copied: Any  # torch.cuda.Event, set when `pairs` is complete; None on other devices


class LossRecorder:
    """Collects each `LossEvent` and writes the `LossRow` of each, one window of steps at a time.

    The scalars of an event stay on their device until the window ends, after ``window_steps`` steps
    or ``window_seconds``. All values of the window are then copied to the CPU together. On CUDA the
    copy is asynchronous, into pinned memory, and the rows are written when the next window ends,
    so that only `flush` waits for the device.

    A loss that is computed several times in a step, for example with gradient accumulation, gets
    one row with the means of its values and the last weight.

    Args:
        write: Called with the rows of each window, in order.
        window_steps: Maximum number of steps in a window.
        window_seconds: Maximum duration of a window in seconds.
        clock: Returns the time of a step as Unix time in milliseconds; by default a `Clock`.

    Attributes:
        last: The last row that was written, by name of the loss.
        tags: The tags of each loss at the time when it was first recorded.
    """

    def __init__(
        self,
        write: Callable[[list[LossRow]], object],
        window_steps: int = WINDOW_STEPS,
        window_seconds: float = WINDOW_SECONDS,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self.last: dict[str, LossRow] = {}
        self.tags: dict[str, tuple[str, ...]] = {}
        self._write = write
        self._window_steps = window_steps
        self._window_seconds = window_seconds
        self._step = 0
        self._values: dict[str, list[_Value]] = {}
        self._steps: list[_Step] = []
        self._window_began = time.monotonic()
        self._in_flight: _Window | None = None

    def __call__(self, event: LossEvent) -> None:
        """Records one event. The recorder itself is the hook to register with a `LossManager`."""
        if event.step != self._step:
            self._begin_step(event)
        value = _Value(event.weight, event.raw, event.weighted)
        self._values.setdefault(event.name, []).append(value)
        if event.name not in self.tags:
            self.tags[event.name] = event.tags

    def flush(self) -> None:
        """Writes everything that was recorded so far; waits for the device if necessary."""
        self._step = 0
        self._end_window()
        self._land()

    def _begin_step(self, event: LossEvent) -> None:
        now = time.monotonic()
        full = len(self._steps) >= self._window_steps
        if full or (self._steps and now - self._window_began >= self._window_seconds):
            # An interrupt here could cause rows to be written twice. Elsewhere no such protection
            # is needed, because a step is added to the window by a single append.
            with uninterrupted():
                self._end_window()
        if not self._steps:
            self._window_began = now
        values: dict[str, list[_Value]] = {}
        self._steps.append(_Step(event.step, event.epoch, self._clock(), values))
        self._values = values
        self._step = event.step

    def _end_window(self) -> None:
        """Writes the rows of the previous window and starts to copy this one."""
        self._land()
        if not self._steps:
            return
        losses = [
            (step, name, _mean(values))
            for step in self._steps
            for name, values in step.values.items()
        ]
        if not losses:
            return
        pairs = _stack([scalar for *_, value in losses for scalar in value[1:]]).view(-1, 2)
        copied = None
        if pairs.is_cuda:
            host = torch.empty(pairs.shape, dtype=pairs.dtype, pin_memory=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            stream = torch.cuda.current_stream(pairs.device)
            pairs = host.copy_(pairs, non_blocking=True)
            copied.record(stream)
        weights = [(step, name, value.weight) for step, name, value in losses]
        self._in_flight = _Window(weights, pairs, copied)
        self._steps = []
        if copied is None:
            self._land()

    def _land(self) -> None:
        """Writes the rows of the window that is being copied, if there is one."""
        if self._in_flight is None:
            return
        window = self._in_flight
        if window.copied is not None:
            window.copied.synchronize()
        rows = [
            LossRow(at.step, at.epoch, at.time, name, raw, weight, weighted)
            for (at, name, weight), (raw, weighted) in zip(
                window.losses, window.pairs.cpu().numpy(), strict=True
            )
        ]
        self.last |= {row.loss: row for row in rows}
        self._write(rows)
        self._in_flight = None


def _mean(values: list[_Value]) -> _Value:
    if len(values) == 1:
        return values[0]
    raw = _stack([value.raw for value in values]).mean()
    weighted = _stack([value.weighted for value in values]).mean()
    return _Value(values[-1].weight, raw, weighted)


def _stack(scalars: list[Tensor]) -> Tensor:
    """Stacks scalars of any dtype and device to ``(n,)`` float32 on the device of the first."""
    first = scalars[0].device
    return torch.stack([scalar.to(first, torch.float32) for scalar in scalars])
