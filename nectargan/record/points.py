"""The points that a sink receives from the rows of the ledgers.

Each row becomes a point (`EveryRow`), or only those of every n-th step do (`SingleSteps`), or there
is a point for the mean of a window of steps (`WindowMeans`) or of an epoch (`EpochMeans`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from nectargan.record.ledger import GradientRow, LossRow, MetricRow, read_blocks, rows_in

NONFINITE = "nonfinite/"
"""Prefix of series that count how often a loss has been NaN or infinite; see `WindowMeans`."""

GRADIENT_SERIES = re.compile(r"gradient/(?P<name>.+)/(?P<value>norm|share|cosine)")
"""The names of the series of ``gradients.csv``."""

_NEVER = 2**62  # steps


PREFIXES: dict[type, str] = {LossRow: "loss", GradientRow: "gradient"}
"""First part of the names of the series of a row."""

R = TypeVar("R", LossRow, GradientRow)


class Point(NamedTuple):
    """One value of one series.

    Attributes:
        series: ``loss/<name>/raw``, ``loss/<name>/weight``, ``loss/<name>/weighted``,
            ``gradient/<name>/norm``, ``gradient/<name>/share``, ``gradient/<name>/cosine``,
            ``lr/<network>``, ``val/<metric>`` or ``time/<what>``.
        value: The value in the CSV file, or the mean of a window.
        step: Step, from 1.
        time: Unix time in milliseconds.
    """

    series: str
    value: float
    step: int
    time: int


class EveryRow:
    """Takes every row of ``metrics.csv``."""

    def take(self, row: MetricRow, offset: int = 0) -> list[Point]:
        """The point of a row."""
        return [Point(row.metric, row.value, row.step, row.time)]

    def close(self) -> list[Point]:
        """Returns an empty list, because no rows are kept back."""
        return []

    def begin(self, end: int) -> int:
        """The byte to continue from when everything before the byte ``end`` was taken: ``end``."""
        return end


class SingleSteps(Generic[R]):
    """Takes the first step, every n-th step and every step whose loss, or whose norm, is NaN or
    infinite.

    Args:
        every_n_steps: Steps from one point to the next.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every = every_n_steps

    def take(self, row: R, offset: int = 0) -> list[Point]:
        """The points of a row; none if its step is skipped."""
        is_due = row.step == 1 or row.step % self._every == 0
        if not is_due and math.isfinite(row[4]):
            return []
        return _points(row, row.step, row.time, row[4:])

    def close(self) -> list[Point]:
        """Returns an empty list, because no rows are kept back."""
        return []

    def begin(self, end: int) -> int:
        """As `EveryRow.begin`."""
        return end


class _Means(Generic[R]):
    """Takes the mean of each value over windows of steps, which end with an epoch at the latest.

    The points of a window are at its last step. They depend only on the rows of the window, not on
    where reading started, so that rows may be read again. A window that is cut short has its points
    at the last step that it has.

    Args:
        every_n_steps: Steps in a window.
        also: Steps in the middle of a window that get the means of the window so far.
    """

    def __init__(self, every_n_steps: int, also: Container[int] = ()) -> None:
        self._every = every_n_steps
        self._also = also
        self._window = (0, 0)
        self._begin = 0
        self._rows: dict[str, list[R]] = {}
        self._step = self._time = 0

    def take(self, row: R, offset: int = 0) -> list[Point]:
        """Adds a row; returns the points of the previous window if the row begins a new one.

        Args:
            row: The next row.
            offset: Where the row begins in the ledger, in bytes.
        """
        points = []
        window = (row.epoch, (row.step - 1) // self._every)
        if window != self._window:
            points = self.close()
            self._window, self._begin = window, offset
        elif row.step != self._step and self._step in self._also:
            points = self._means()
        self._rows.setdefault(row.loss, []).append(row)
        self._step, self._time = row.step, row.time
        return points

    def close(self) -> list[Point]:
        """Ends the window and returns its points."""
        points = self._means()
        self._rows = {}
        return points

    def begin(self, end: int) -> int:
        """The byte to continue from when everything before the byte ``end`` was taken: the start
        of the unfinished window if there is one, else ``end``."""
        return self._begin if self._rows else end

    def _means(self) -> list[Point]:
        points = []
        for rows in self._rows.values():
            columns = list(zip(*rows, strict=True))[4:]
            points += _points(rows[0], self._step, self._time, map(self._mean, columns))
        return points

    @staticmethod
    def _mean(values: tuple[float, ...]) -> float:
        raise NotImplementedError


class WindowMeans(_Means[LossRow]):
    """Takes the mean of each loss over windows of steps: raw, weight and weighted.

    A window ends at each multiple of ``every_n_steps`` and at the end of an epoch; see `_Means`.
    If a loss was NaN or infinite in a window, a further point counts how often it has been so.

    Args:
        every_n_steps: Steps in a window.
        counts: How often each loss was NaN or infinite before the first row that is taken.
        also: Steps in the middle of a window that get the means of the window so far.
    """

    def __init__(
        self,
        every_n_steps: int,
        counts: dict[str, int] | None = None,
        also: Container[int] = (),
    ) -> None:
        super().__init__(every_n_steps, also)
        self._counts = dict(counts or {})
        self._went_wrong: set[str] = set()

    def take(self, row: LossRow, offset: int = 0) -> list[Point]:
        """As `_Means.take`."""
        points = super().take(row, offset)
        if not math.isfinite(row.raw):
            self._counts[row.loss] = self._counts.get(row.loss, 0) + 1
            self._went_wrong.add(row.loss)
        return points

    def close(self) -> list[Point]:
        """Ends the window and returns its points."""
        points = super().close()
        self._went_wrong = set()
        return points

    def _means(self) -> list[Point]:
        points = super()._means()
        for loss in self._rows:
            if loss in self._went_wrong:
                count = float(self._counts[loss])
                points.append(Point(NONFINITE + loss, count, self._step, self._time))
        return points

    @staticmethod
    def _mean(values: tuple[float, ...]) -> float:
        return mean(values)


class EpochMeans(_Means[GradientRow]):
    """Takes the mean of each loss's gradient over each epoch: norm, share and cosine.

    The mean is over the finite values, and there is no point without any: a cosine is not defined
    where a gradient is zero, and a norm overflows in float16 until the loss scale has adapted. See
    `_Means` for the rest.

    Args:
        also: Steps in the middle of an epoch that get the means of the epoch so far.
    """

    def __init__(self, also: Container[int] = ()) -> None:
        super().__init__(_NEVER, also)

    def _means(self) -> list[Point]:
        return [point for point in super()._means() if math.isfinite(point.value)]

    @staticmethod
    def _mean(values: tuple[float, ...]) -> float:
        finite = tuple(filter(math.isfinite, values))
        return mean(finite) if finite else math.nan


def _points(
    row: LossRow | GradientRow, step: int, time: int, values: Iterable[float]
) -> list[Point]:
    """A point for each value of a row, under the name of its column."""
    series = f"{PREFIXES[type(row)]}/{row.loss}"
    return [
        Point(f"{series}/{name}", value, step, time)
        for name, value in zip(row._fields[4:], values, strict=True)
    ]


def mean(values: tuple[float, ...]) -> float:
    """The mean of at least one value; NaN or infinite if any of them is."""
    if all(value == values[0] for value in values):
        return values[0]
    if not all(map(math.isfinite, values)):
        return sum(values)
    return math.fsum(values) / len(values)


def count_nonfinite(path: Path, end: int) -> dict[str, int]:
    """How often each loss is NaN or infinite in a ledger of losses.

    Args:
        path: ``losses.csv``.
        end: Count in the first ``end`` bytes; the end of a line.
    """
    counts: dict[str, int] = {}
    if not end or not path.exists():
        return counts
    for lines, offset in read_blocks(path):
        if b"nan" in lines or b"inf" in lines:
            for row, begin in rows_in(LossRow, lines, offset - len(lines)):
                if begin < end and not math.isfinite(row.raw):
                    counts[row.loss] = counts.get(row.loss, 0) + 1
        if offset >= end:
            break
    return counts
