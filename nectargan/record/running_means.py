"""`RunningMeans`: the means of series that have a value at many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Sums = dict[str, tuple[float, int]]


class StepValues(NamedTuple):
    """The measurements of one step.

    Attributes:
        step: Step, from 1.
        epoch: Epoch, from 1.
        time: Unix time in milliseconds.
        metrics: Values of series of which each window of steps gets the mean.
        cosines: Values of series of which each epoch gets the mean; NaN where undefined.
    """

    step: int
    epoch: int
    time: int
    metrics: Mapping[str, float]
    cosines: Mapping[str, float]


class RunningMeans:
    """Means over windows of steps, and over epochs.

    A window ends at each multiple of ``window_steps`` and at the end of an epoch, wherever the run
    was interrupted: a checkpoint holds the sums.

    Args:
        window_steps: Steps in a window.

    Attributes:
        last: Step, epoch and time of the last values; zeros at first.
    """

    def __init__(self, window_steps: int) -> None:
        self._window_steps = window_steps
        self._window: Sums = {}
        self._epoch: Sums = {}
        self.last = (0, 0, 0)

    def add(self, values: StepValues) -> list[StepValues]:
        """Adds the measurements of a step.

        Returns:
            The means of each window that has ended, at its last step.
        """
        done: list[StepValues] = []
        step, epoch, _ = self.last
        if epoch != values.epoch:
            self._epoch = {}
        if (epoch, self._number(step)) != (values.epoch, self._number(values.step)):
            done += self._end_window()
        self.last = values[:3]
        _add(self._window, values.metrics)
        defined = {name: value for name, value in values.cosines.items() if value == value}
        _add(self._epoch, defined)
        if values.step % self._window_steps == 0:
            done += self._end_window()
        return done

    def end_epoch(self) -> dict[str, float]:
        """Returns the means of the unfinished window and of the epoch, and forgets both."""
        means = _means(self._window) | _means(self._epoch)
        self._window, self._epoch = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """All sums, for a checkpoint."""
        return {"last": self.last, "window": dict(self._window), "epoch": dict(self._epoch)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from the sums in a checkpoint."""
        step, epoch, time = state["last"]
        self.last = int(step), int(epoch), int(time)
        for sums, saved in ((self._window, state["window"]), (self._epoch, state["epoch"])):
            sums.clear()
            sums |= {name: (float(total), int(count)) for name, (total, count) in saved.items()}

    def _number(self, step: int) -> int:
        return (step - 1) // self._window_steps

    def _end_window(self) -> list[StepValues]:
        means = _means(self._window)
        self._window = {}
        return [StepValues(*self.last, means, {})] if means else []


def _add(sums: Sums, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        total, count = sums.get(name, (0.0, 0))
        sums[name] = total + value, count + 1


def _means(sums: Sums) -> dict[str, float]:
    return {name: total / count for name, (total, count) in sums.items()}
