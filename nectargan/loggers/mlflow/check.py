"""Compares an MLflow run with the ledger, point by point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nectargan.record.ledger import GradientRow, LossRow, MetricRow, read_rows
from nectargan.record.points import (
    GRADIENT_SERIES,
    NONFINITE,
    EpochMeans,
    Point,
    SingleSteps,
    WindowMeans,
)
from nectargan.record.run_directory import RunDirectory, step_of

INFINITE = "infinite/"
"""Prefix of the series with the infinite values of another series, as 1 or -1. MLflow would store
infinity as 1.8e308, which makes a chart useless."""

SYSTEM = "system/"
IMAGES = "images"
PICTURES = ("examples", "loss_maps")
_END = 2**62


class Check(NamedTuple):
    """The result of comparing an MLflow run with the ledger.

    Attributes:
        differs: Describes a point that is not in the ledger; empty if there is none.
        lacks: Whether a point of the ledger is missing.
        is_old: Whether an earlier version wrote the run: single steps instead of means.
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
        """Whether it has a point. Points that were never asked for are surplus."""
        place = int(np.searchsorted(self.steps, point.step))
        while place < len(self.steps) and self.steps[place] == point.step:
            same_time = self._any_time or self._times[place] == point.time
            if same_time and _same(float(self._values[place]), point.value):
                self._found[place] = True
                return True
            place += 1
        return False

    def surplus(self) -> int | None:
        """The first step with a point that was never asked for; ``None`` if there is none."""
        steps = self.steps[~self._found]
        return int(steps[0]) if len(steps) else None


def stored(points: Iterable[Point]) -> Iterator[Point]:
    """Converts points to the form in which MLflow gets them; see `INFINITE`."""
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
    """Compares the points of an MLflow run, and the steps of its images, with a run directory.

    Args:
        client: The client that `connect` returned.
        run: The MLflow run.
        directory: The run directory.
        every_n_steps: Steps between two points of a loss; see `WindowMeans`.
        first_step: Points from this step on may be missing; by default, no point may be missing.
    """
    is_old = any(key.startswith("weight/") for key in run.data.metrics)
    # An earlier version wrote the counts of non-finite values at other steps.
    apart = (SYSTEM, NONFINITE) if is_old else (SYSTEM,)
    keys = [key for key in run.data.metrics if not key.startswith(apart)]
    histories = {
        key: _History(client.get_metric_history(run.info.run_id, key), any_time=is_old)
        for key in keys
    }
    end = _END if first_step is None else first_step
    lacks = False
    # MLflow rejects some names. If it has one loss of a step, it has all that it accepts.
    steps: dict[str, set[int]] = {"loss": set(), "gradient": set()}
    for key, each in histories.items():
        steps.setdefault(_kind_of(key), set()).update(each.steps.tolist())
    for point in stored(_points(directory, every_n_steps, steps, is_old)):
        history = histories.get(point.series)
        is_stored = history is not None and history.has(point)
        if not is_stored and point.step < end:
            kind = _kind_of(point.series)
            lacks |= kind not in ("loss", "gradient") or point.step not in steps[kind]
    differs = _surplus(histories)
    pictures, files = _steps_of_pictures(client, run), _steps_of_files(directory)
    if not differs and pictures - files:
        differs = f"an image of step {min(pictures - files)}"
    lacks |= any(step < end for step in files - pictures)
    return Check(differs, lacks, is_old)


def _points(
    directory: RunDirectory, every_n_steps: int, also: Mapping[str, set[int]], is_old: bool
) -> Iterator[Point]:
    """The points that MLflow must have, according to the ledgers.

    Args:
        directory: The run directory.
        every_n_steps: See `WindowMeans`.
        also: Steps of losses and of gradients in the MLflow run, by kind.
        is_old: Whether an earlier version sent the losses.
    """
    losses: SingleSteps[LossRow] | WindowMeans = WindowMeans(every_n_steps, also=also["loss"])
    if is_old:
        losses = SingleSteps(every_n_steps)
    if directory.losses.exists():
        for row in read_rows(directory.losses, LossRow):
            yield from map(_old_name, losses.take(row)) if is_old else losses.take(row)
        yield from losses.close()
    if directory.gradients.exists():
        gradients = EpochMeans(also["gradient"])
        for gradient in read_rows(directory.gradients, GradientRow):
            yield from gradients.take(gradient)
        yield from gradients.close()
    if directory.metrics.exists():
        for metric in read_rows(directory.metrics, MetricRow):
            yield Point(metric.metric, metric.value, metric.step, metric.time)


def _old_name(point: Point) -> Point:
    name, _, value = point.series.removeprefix("loss/").rpartition("/")
    return point._replace(series=f"weight/{name}") if value == "weight" else point


def _kind_of(series: str) -> str:
    """ "loss" or "gradient" for a series of these ledgers; another text for any other series."""
    series = series.removeprefix(INFINITE)
    if series.startswith(("loss/", "weight/", NONFINITE)):
        return "loss"
    return "gradient" if GRADIENT_SERIES.fullmatch(series) else "metric"


def _surplus(histories: Mapping[str, _History]) -> str:
    for key, history in histories.items():
        step = history.surplus()
        if step is not None:
            return f"{key} in step {step}"
    return ""


def _steps_of_pictures(client: Any, run: Any) -> set[int]:
    """The steps of the images in MLflow's image grid, read from their file names."""
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
    # Some databases and servers store one digit less than a float has.
    return math.isclose(one, other, rel_tol=1e-12)
