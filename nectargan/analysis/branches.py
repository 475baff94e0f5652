"""Where the line of a fork, in a plot, leaves the line of the run that it was forked from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from nectargan.analysis.curves import Curves, LossCurve
from nectargan.analysis.sources import LedgerSource, Source, ancestors_of
from nectargan.record.lineage import Ancestor
from nectargan.record.run_directory import LOSSES_FILE, RunDirectory
from nectargan.record.seeking import row_until


class Branch(NamedTuple):
    """Where the line of a fork leaves another one.

    Attributes:
        ancestor: The checkpoint.
        is_drawn: Whether the run that it was made by is in the plot, with the line up to it.
    """

    ancestor: Ancestor
    is_drawn: bool


def branch_of(source: Source, others: Iterable[Source]) -> Branch | None:
    """Where the line of a run leaves those of other runs; ``None`` if it is not a fork.

    Args:
        source: The run.
        others: The runs in the plot.
    """
    ancestors = ancestors_of(source)
    if not isinstance(source, LedgerSource) or not ancestors:
        return None
    directories = [each.directory for each in others if isinstance(each, LedgerSource)]
    for ancestor in reversed(ancestors):
        if any(has_made(directory, ancestor, source.directory) for directory in directories):
            return Branch(ancestor, True)
    return Branch(ancestors[-1], False)


def has_made(run: RunDirectory, ancestor: Ancestor, fork: RunDirectory) -> bool:
    """Whether a run still has the step at which a fork descends from it.

    Rows have the time in milliseconds. So a run that went back and repeated the step has another
    row, and a run that was moved is found.
    """
    row = row_until(run.losses, ancestor.step)
    return row != b"" and row == row_until(fork.inherited(LOSSES_FILE), ancestor.step)


def parent_of(source: Source) -> LedgerSource | None:
    """The run that a fork was made from; ``None`` if it is not a fork, or the run is gone."""
    for ancestor in ancestors_of(source)[-1:]:
        parent = ancestor.directory
        if isinstance(source, LedgerSource) and has_made(parent, ancestor, source.directory):
            return LedgerSource(parent, lineage=True)
    return None


def split_at(curves: Curves, x: float) -> tuple[Curves, Curves]:
    """The curves up to and from a place on. Each part has the last point before it, so that their
    lines meet."""
    losses = {name: _split(curve, x) for name, curve in curves.losses.items()}
    metrics = {name: _split_points(*points, x) for name, points in curves.metrics.items()}
    before, after = (
        Curves(
            {name: parts[side] for name, parts in losses.items() if len(parts[side].x)},
            {name: parts[side] for name, parts in metrics.items() if len(parts[side][0])},
            curves.forks,
        )
        for side in (0, 1)
    )
    return before, after


def _split(curve: LossCurve, x: float) -> tuple[LossCurve, LossCurve]:
    return (_part(curve, _before(curve.x, x)), _part(curve, _after(curve.x, x)))


def _part(curve: LossCurve, part: slice) -> LossCurve:
    return curve._replace(
        x=curve.x[part],
        raw=curve.raw[part],
        smooth=curve.smooth[part],
        weights=curve.weights[part],
    )


def _split_points(
    at: np.ndarray, values: np.ndarray, x: float
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    before, after = _before(at, x), _after(at, x)
    return (at[before], values[before]), (at[after], values[after])


def _before(at: np.ndarray, x: float) -> slice:
    return slice(0, int(np.searchsorted(at, x, side="right")))


def _after(at: np.ndarray, x: float) -> slice:
    return slice(max(0, int(np.searchsorted(at, x, side="right")) - 1), len(at))
