"""Whether an MLflow run has what the ledger has, point by point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nectargan.record.ledger import LossRow, MetricRow, read_rows
from nectargan.record.points import (
    NONFINITE,
    Point,
    SingleSteps,
    WindowMeans,
)
from nectargan.record.run_directory import RunDirectory, step_of

INFINITE = "infinite/"
"""Before the name of a series: where it is infinite, as 1 or -1. MLflow would store infinity itself
as 1.8e308, which no chart survives."""

SYSTEM = "system/"
IMAGES = "images"
PICTURES = ("examples", "loss_maps")
_END = 2**62


class Check(NamedTuple):
    """What came of comparing an MLflow run with the ledger.

    Attributes:
        differs: A point that the ledger does not have like this, in words; empty if there is none.
        lacks: Whether a point is missing.
        is_old: Whether an earlier version sent it: single steps in place of means.
    """

    differs: str
    lacks: bool
    is_old: bool


class _History:
    """All points of one series of an MLflow run."""

    def __init__(self, metrics: Iterable[Any], any_time: bool) -> None:
        rows = sorted((metric.step, metric.timestamp, metric.value) for metric in metrics)
        self.steps = np.array([row[0] for row in rows], np.int64)
        self._times = np.array([row[1] for row in rows], np.int64)
        self._values = np.array([row[2] for row in rows], np.float64)
        self._found = np.zeros(len(rows), bool)
        self._any_time = any_time

    def has(self, point: Point) -> bool:
        """Whether it has a point; those that nobody asks for are surplus."""
        place = int(np.searchsorted(self.steps, point.step))
        while place < len(self.steps) and self.steps[place] == point.step:
            same_time = self._any_time or self._times[place] == point.time
            if same_time and _same(float(self._values[place]), point.value):
                self._found[place] = True
                return True
            place += 1
        return False

    def surplus(self) -> int | None:
        """The first step with a point that nobody asked for."""
        steps = self.steps[~self._found]
        return int(steps[0]) if len(steps) else None


def stored(points: Iterable[Point]) -> Iterator[Point]:
    """Points as MLflow is sent them."""
    for point in points:
        if math.isinf(point.value):
            sign = math.copysign(1.0, point.value)
            yield point._replace(series=INFINITE + point.series, value=sign)
        else:
            yield point


def check_run(
    client: Any,
    run: Any,
    directory: RunDirectory,
    every_n_steps: int,
    first_step: int | None = None,
) -> Check:
    """Compares the points of an MLflow run, and the steps of its pictures, with a run directory.

    Args:
        client: From `connect`.
        run: The MLflow run.
        directory: The run directory.
        every_n_steps: Of the points; see `WindowMeans`.
        first_step: Nothing is missing from this step on; by default, nothing may be missing at all.
    """
    is_old = any(key.startswith("weight/") for key in run.data.metrics)
    # Counts of an earlier version were at steps of their own.
    apart = (SYSTEM, NONFINITE) if is_old else (SYSTEM,)
    keys = [key for key in run.data.metrics if not key.startswith(apart)]
    histories = {
        key: _History(client.get_metric_history(run.info.run_id, key), any_time=is_old)
        for key in keys
    }
    end = _END if first_step is None else first_step
    lacks = False
    # At a step that MLflow has of one loss it has all that it takes: it refuses some names.
    steps = {step for key, each in histories.items() if _is_loss(key) for step in each.steps}
    for point in stored(_points(directory, every_n_steps, steps, is_old)):
        history = histories.get(point.series)
        is_stored = history is not None and history.has(point)
        if not is_stored and point.step < end:
            lacks |= not _is_loss(point.series) or point.step not in steps
    differs = _surplus(histories)
    pictures, files = _steps_of_pictures(client, run), _steps_of_files(directory)
    if not differs and pictures - files:
        differs = f"a picture of step {min(pictures - files)}"
    lacks |= any(step < end for step in files - pictures)
    return Check(differs, lacks, is_old)


def _points(
    directory: RunDirectory, every_n_steps: int, also: set[int], is_old: bool
) -> Iterator[Point]:
    """What the ledgers say that MLflow has."""
    losses: SingleSteps | WindowMeans = WindowMeans(every_n_steps, also=also)
    if is_old:
        losses = SingleSteps(every_n_steps)
    if directory.losses.exists():
        for row in read_rows(directory.losses, LossRow):
            yield from map(_old_name, losses.take(row)) if is_old else losses.take(row)
        yield from losses.close()
    if directory.metrics.exists():
        for metric in read_rows(directory.metrics, MetricRow):
            yield Point(metric.metric, metric.value, metric.step, metric.time)


def _old_name(point: Point) -> Point:
    name, _, value = point.series.removeprefix("loss/").rpartition("/")
    return point._replace(series=f"weight/{name}") if value == "weight" else point


def _is_loss(series: str) -> bool:
    return series.removeprefix(INFINITE).startswith(("loss/", "weight/", NONFINITE))


def _surplus(histories: Mapping[str, _History]) -> str:
    for key, history in histories.items():
        step = history.surplus()
        if step is not None:
            return f"{key} in step {step}"
    return ""


def _steps_of_pictures(client: Any, run: Any) -> set[int]:
    """The steps of the pictures in MLflow's image grid; their names say them."""
    names = [
        each.path.rpartition("/")[2] for each in client.list_artifacts(run.info.run_id, IMAGES)
    ]
    parts = [name.split("+") for name in names]
    return {int(p[2]) for p in parts if p[0] in PICTURES and p[1] == "step" and p[2].isdecimal()}


def _steps_of_files(directory: RunDirectory) -> set[int]:
    files = directory.epoch_files()
    return {step_of(name) or 0 for name in files if name.partition("/")[0] in PICTURES}


def _same(one: float, other: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    # Some databases and servers keep a digit less than a float has.
    return math.isclose(one, other, rel_tol=1e-12)
