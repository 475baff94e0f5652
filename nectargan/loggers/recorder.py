"""`LossRecorder`: the hook that brings losses from the device to the ledger without a stall."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nectargan.loggers.ledger import LossRow
from nectargan.losses.lm_data import LossEvent


class _Step(NamedTuple):
    """What the host knows of a recorded step while its values are on the device."""

    step: int
    epoch: int
    time: int
    names: tuple[str, ...]
    weights: tuple[float, ...]
    values: Tensor  # (2 * names,) float32 on the device: the raw losses, then the weighted ones


class _Window(NamedTuple):
    steps: list[_Step]
    values: Tensor  # those of all steps, on the host
    copied: Any  # torch.cuda.Event that tells when `values` has arrived; None on other devices


class LossRecorder:
    """Collects `LossEvent` and hands on `LossRow`, a window of steps at a time.

    The scalars of a step are stacked on their device as float32. A window ends after
    ``window_steps`` steps or ``window_seconds``; its values are then copied to the host at once. On
    CUDA that copy is asynchronous, into pinned memory, and its rows are written when the next
    window ends: nothing here waits for the device but `flush`.

    A loss that is computed several times in a step, as with accumulated gradients, has one row:
    the means of its values, with the last weight.

    Args:
        write: Takes the rows of a window, in order.
        window_steps: Most steps in a window.
        window_seconds: Longest time from a window's first step to its end.

    Attributes:
        last: The newest row written, by name of the loss.
    """

    def __init__(
        self,
        write: Callable[[list[LossRow]], object],
        window_steps: int = 50,
        window_seconds: float = 2.0,
    ) -> None:
        self.last: dict[str, LossRow] = {}
        self._write = write
        self._window_steps = window_steps
        self._window_seconds = window_seconds
        self._step = 0
        self._epoch = 0
        self._time = 0
        self._events: dict[str, list[LossEvent]] = {}
        self._steps: list[_Step] = []
        self._window_began = time.monotonic()
        self._in_flight: _Window | None = None

    def __call__(self, event: LossEvent) -> None:
        """Takes one event; the hook to register with a `LossManager`."""
        if event.step != self._step:
            self._end_step()
            self._step, self._epoch = event.step, event.epoch
            self._time = time.time_ns() // 1_000_000
        self._events.setdefault(event.name, []).append(event)

    def flush(self) -> None:
        """Writes everything that was recorded so far, waiting for the device if need be."""
        self._end_step()
        self._step = 0
        self._end_window()
        self._land()

    def _end_step(self) -> None:
        if not self._events:
            return
        if not self._steps:
            self._window_began = time.monotonic()
        events = self._events
        raws = [_mean([event.raw for event in each]) for each in events.values()]
        weighted = [_mean([event.weighted for event in each]) for each in events.values()]
        self._steps.append(
            _Step(
                self._step,
                self._epoch,
                self._time,
                tuple(events),
                tuple(each[-1].weight for each in events.values()),
                _stack(raws + weighted),
            )
        )
        self._events = {}
        full = len(self._steps) >= self._window_steps
        if full or time.monotonic() - self._window_began >= self._window_seconds:
            self._end_window()

    def _end_window(self) -> None:
        """Starts the copy of this window, and writes the one before."""
        self._land()
        if not self._steps:
            return
        values = torch.cat([step.values for step in self._steps])
        copied = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            stream = torch.cuda.current_stream(values.device)
            values = host.copy_(values, non_blocking=True)
            copied.record(stream)
        self._in_flight = _Window(self._steps, values, copied)
        self._steps = []
        if copied is None:
            self._land()

    def _land(self) -> None:
        """Writes the rows of the window in flight."""
        if self._in_flight is None:
            return
        window = self._in_flight
        if window.copied is not None:
            window.copied.synchronize()
        values = iter(window.values.cpu().numpy())
        rows = []
        for at in window.steps:
            raws, products = ([next(values) for _ in at.names] for _ in range(2))
            rows += [
                LossRow(at.step, at.epoch, at.time, *of_loss)
                for of_loss in zip(at.names, raws, at.weights, products, strict=True)
            ]
        self.last |= {row.loss: row for row in rows}
        self._write(rows)
        self._in_flight = None


def _mean(scalars: list[Tensor]) -> Tensor:
    return scalars[0] if len(scalars) == 1 else _stack(scalars).mean()


def _stack(scalars: list[Tensor]) -> Tensor:
    """``(n,)`` float32 on the device of the first, whatever the dtypes and devices."""
    device = scalars[0].device
    return torch.stack([s.to(device, torch.float32) for s in scalars])
