"""The last and the best values of a run, read without loading its whole record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from nectargan.errors import RunError
from nectargan.record.ledger import LossRow, MetricRow, Row, read_rows
from nectargan.record.run_directory import RunDirectory
from nectargan.record.seeking import line_after


def last_step(path: Path) -> tuple[int, int, dict[str, float]]:
    """Step, epoch and raw losses of the last step in a ledger; 0, 0 and nothing for an empty one.

    Only the end of the file is read, and what is no row is passed over.
    """
    last: dict[str, float] = {}
    at = (0, 0)
    for row in _rows(path, LossRow, tail=1 << 16):
        if (row.step, row.epoch) != at:
            at, last = (row.step, row.epoch), {}
        last[row.loss] = row.raw
    return *at, last


def best_of(
    directory: RunDirectory, metric: str, is_lower_better: bool = False
) -> tuple[float, int] | None:
    """The best value of a metric in a run directory, and its epoch; ``None`` if there is none."""
    rows = _rows(directory.metrics, MetricRow)
    # Comparisons with NaN are false, so the minimum or maximum would depend on the order of rows.
    values = [
        (row.value, row.epoch) for row in rows if row.metric == metric and math.isfinite(row.value)
    ]
    choose = min if is_lower_better else max
    return choose(values, key=lambda each: each[0], default=None)


def _rows(path: Path, row_type: type[Row], tail: int | None = None) -> Iterator[Row]:
    """All rows, or those in the last ``tail`` bytes. What is no row, or no ledger at all, is passed
    over: a damaged run must not hide the others."""
    try:
        begin = line_after(path, max(0, path.stat().st_size - tail)) if tail else 0
        yield from read_rows(path, row_type, begin, skip_damaged=True)
    except (OSError, RunError):
        return
