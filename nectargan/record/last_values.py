"""Reads the last and the best values of a run without loading its whole record."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nectargan.errors import RunError
from nectargan.record.ledger import GradientRow, LossRow, MetricRow, Row, read_rows
from nectargan.record.lineage import ledgers_of
from nectargan.record.run_directory import LOSSES_FILE, METRICS_FILE, RunDirectory
from nectargan.record.seeking import line_after, offset_of_last_epoch


def last_step(directory: RunDirectory) -> tuple[int, int, dict[str, float]]:
    """Step, epoch and raw losses of the last step on record; 0, 0 and nothing if there is none.

    Only the end of the ledger is read. Lines that are not valid rows are skipped. A fork without a
    step of its own has those of its parent.
    """
    last: dict[str, float] = {}
    at = (0, 0)
    for path in ledgers_of(directory, LOSSES_FILE):
        for row in _rows(path, LossRow, functools.partial(_last_lines, path)):
            if (row.step, row.epoch) != at:
                at, last = (row.step, row.epoch), {}
            last[row.loss] = row.raw
    return *at, last


def last_epoch_means(path: Path) -> dict[str, float]:
    """The mean share of each loss over the last epoch in a ledger of gradients.

    Shares that are not finite are left out, and so is a loss that has no others. Empty if there is
    no ledger or it has no rows.
    """
    shares: dict[str, list[float]] = {}
    for row in _rows(path, GradientRow, lambda: offset_of_last_epoch(path)):
        if math.isfinite(row.share):
            shares.setdefault(row.loss, []).append(row.share)
    return {loss: math.fsum(own) / len(own) for loss, own in shares.items()}


def best_of(
    directory: RunDirectory, metric: str, is_lower_better: bool = False, lineage: bool = False
) -> tuple[float, int] | None:
    """The best value of a metric in a run directory, and its epoch; ``None`` if there is none.

    With ``lineage``, values from before the run was forked count as well.
    """
    paths = ledgers_of(directory, METRICS_FILE) if lineage else [directory.metrics]
    rows = itertools.chain.from_iterable(_rows(path, MetricRow) for path in paths)
    # Comparisons with NaN are false, so the minimum or maximum would depend on the order of rows.
    values = [
        (row.value, row.epoch) for row in rows if row.metric == metric and math.isfinite(row.value)
    ]
    choose = min if is_lower_better else max
    return choose(values, key=lambda each: each[0], default=None)


def values_in_best_epoch(
    directory: RunDirectory, metrics: Sequence[str], is_lower_better: bool
) -> tuple[float, ...] | None:
    """The values of all metrics in the epoch in which the first one is best, so that one checkpoint
    has them all. ``None`` if one of them was not recorded or is not finite."""
    best = best_of(directory, metrics[0], is_lower_better)
    if best is None:
        return None
    rows = _rows(directory.metrics, MetricRow)
    values = {row.metric: row.value for row in rows if row.epoch == best[1]}
    found = tuple(values.get(metric, math.nan) for metric in metrics)
    return found if all(map(math.isfinite, found)) else None


def _last_lines(path: Path) -> int:
    """The offset of a line near the end of a file."""
    return line_after(path, max(0, path.stat().st_size - (1 << 16)))


def _rows(path: Path, row_type: type[Row], begin: Callable[[], int] = int) -> Iterator[Row]:
    """The rows from the offset ``begin()`` on. Lines that are not valid rows are skipped, and so is
    a file that is not a ledger, because one damaged run must not hide the others."""
    try:
        yield from read_rows(path, row_type, begin(), skip_damaged=True)
    except (OSError, RunError):
        return
