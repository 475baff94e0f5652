"""The points that a sink receives from the rows of ``losses.csv``: single steps or window means."""

from __future__ import annotations

import math
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from nectargan.record.ledger import LossRow, read_blocks, rows_in

NONFINITE = "nonfinite/"
"""Prefix of series that count how often a loss has been NaN or infinite; see `WindowMeans`."""


class Point(NamedTuple):
    """One value of one series.

    Attributes:
        series: ``loss/<name>/raw``, ``loss/<name>/weight``, ``loss/<name>/weighted``,
            ``lr/<network>``, ``val/<metric>`` or ``time/<what>``.
        value: The value in the CSV file, or the mean of a window.
        step: Step, from 1.
        time: Unix time in milliseconds.
    """

    series: str
    value: float
    step: int
    time: int


class SingleSteps:
    """Takes the first step, every n-th step and every step whose loss is NaN or infinite.

    Args:
        every_n_steps: Steps from one point to the next.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every = every_n_steps

    def take(self, row: LossRow, offset: int = 0) -> list[Point]:
        """The points of a row; none if its step is skipped."""
        is_due = row.step == 1 or row.step % self._every == 0
        if not is_due and math.isfinite(row.raw):
            return []
        return _points(row.loss, row.step, row.time, (row.raw, row.weight, row.weighted))

    def close(self) -> list[Point]:
        """Returns an empty list, because no rows are kept back."""
        return []

    def begin(self, end: int) -> int:
        """The byte to continue from when everything before the byte ``end`` was taken: ``end``."""
        return end


class WindowMeans:
    """Takes the mean of each loss over windows of steps.

    A window ends at each multiple of ``every_n_steps`` and at the end of an epoch. Its points are
    at its last step: one for each of raw, weight and weighted of each loss. They depend only on
    the rows of the window, not on where reading started, so that rows may be read again. A window
    that is cut short has its points at the last step that it has.

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
        self._every = every_n_steps
        self._counts = dict(counts or {})
        self._also = also
        self._window = (0, 0)
        self._begin = 0
        self._rows: dict[str, list[LossRow]] = {}
        self._step = self._time = 0
        self._went_wrong: set[str] = set()

    def take(self, row: LossRow, offset: int = 0) -> list[Point]:
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
        if not math.isfinite(row.raw):
            self._counts[row.loss] = self._counts.get(row.loss, 0) + 1
            self._went_wrong.add(row.loss)
        return points

    def close(self) -> list[Point]:
        """Ends the window and returns its points."""
        points = self._means()
        self._rows = {}
        self._went_wrong = set()
        return points

    def begin(self, end: int) -> int:
        """The byte to continue from when everything before the byte ``end`` was taken: the start
        of the unfinished window if there is one, else ``end``."""
        return self._begin if self._rows else end

    def _means(self) -> list[Point]:
        points = []
        for loss, rows in self._rows.items():
            values = zip(*((row.raw, row.weight, row.weighted) for row in rows), strict=True)
            points += _points(loss, self._step, self._time, tuple(map(mean, values)))
        for loss in self._rows:
            if loss in self._went_wrong:
                count = float(self._counts[loss])
                points.append(Point(NONFINITE + loss, count, self._step, self._time))
        return points


def _points(loss: str, step: int, time: int, values: tuple[float, ...]) -> list[Point]:
    names = ("raw", "weight", "weighted")
    return [
        Point(f"loss/{loss}/{name}", value, step, time)
        for name, value in zip(names, values, strict=True)
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
