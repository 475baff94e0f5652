"""The curves of a run for plots: losses, their weights, and validation metrics."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from nectargan.analysis.figures import thinning
from nectargan.analysis.frames import losses_of, metrics_of
from nectargan.analysis.smoothing import MovingAverage, usual_weight
from nectargan.analysis.sources import Source, ancestors_of
from nectargan.errors import RunError
from nectargan.record.lineage import Ancestor

XAxis = Literal["step", "epoch"]


class LossCurve(NamedTuple):
    """A loss of a run as arrays ``(points,)``, with not more points than a plot can show.

    Attributes:
        x: Steps, or epochs with fractions; epoch 3 ends at 3.0.
        raw: Raw losses.
        smooth: The moving average over all raw losses, at these points.
        weights: Applied weights.
        smoothing: The weight of the moving average; 0 for none.
        constant: The weight of the loss if it is the same in all steps; else ``None``.
    """

    x: Any
    raw: Any
    smooth: Any
    weights: Any
    smoothing: float
    constant: float | None


class Curves(NamedTuple):
    """The curves of one run.

    Attributes:
        losses: The losses by name, in the order of their first rows.
        metrics: x and values of each validation metric, by series.
        forks: x of each checkpoint that the run descends from, if rows before it are on record.
    """

    losses: dict[str, LossCurve]
    metrics: dict[str, tuple[Any, Any]]
    forks: dict[Ancestor, float]


def curves_of(source: Source, x: XAxis = "step", smooth: float | None = None) -> Curves:
    """Reads the curves of a run.

    Args:
        source: The run.
        x: The horizontal axis.
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over
            1/50 of the steps.

    Raises:
        RunError: the run cannot be read, ``smooth`` is out of range, or the epochs of the steps are
            not known.
    """
    rows = losses_of(source)
    rows["x"] = rows["step"] if x == "step" else epochs_with_fractions(rows, source)
    losses = {}
    for name, mine in rows.groupby("loss", observed=True, sort=False):
        weight = usual_weight(len(mine)) if smooth is None else smooth
        raw = mine["raw"].to_numpy()
        shown = thinning(len(mine))
        losses[str(name)] = LossCurve(
            mine["x"].to_numpy()[shown],
            raw[shown],
            MovingAverage(weight)(raw)[shown],
            mine["weight"].to_numpy()[shown],
            weight,
            _constant(mine["weight"].to_numpy()),
        )
    points = metrics_of(source)
    points = points[points["metric"].str.startswith("val/")]
    return Curves(
        losses,
        {
            str(name): (mine[x].to_numpy(), mine["value"].to_numpy())
            for name, mine in points.groupby("metric", observed=True, sort=False)
        },
        forks_in(rows, source),
    )


def forks_in(rows: Any, source: Source) -> dict[Ancestor, float]:
    """Where a run was forked: the ``x`` of the last of its rows up to each checkpoint."""
    return {
        each: float(before.max())
        for each in ancestors_of(source)
        if len(before := rows["x"][rows["step"] <= each.step])
    }


def epochs_with_fractions(rows: Any, source: Source) -> Any:
    """The epoch of each row, with a fraction: the last step of epoch 3 is at 3.0."""
    if rows.empty:
        return rows["step"]
    if (rows["epoch"] < 1).any():
        raise RunError(f"'{source.place}' does not contain the epochs of its steps.")
    steps = rows.groupby("epoch")["step"]
    first, last = steps.min(), steps.max()
    length = last - first + 1
    # The last epoch may be incomplete. It is assumed to be as long as the one before.
    length.iloc[-1] = max(length.iloc[-2:])
    if first.iloc[0] > 1:
        # The rows of a fork, without those of its parent, may begin in mid-epoch.
        length.iloc[0] = max(length.iloc[:2])
        first.iloc[0] = last.iloc[0] - length.iloc[0] + 1
    done = rows["step"] - rows["epoch"].map(first) + 1
    return rows["epoch"] - 1 + done / rows["epoch"].map(length)


def _constant(weights: Any) -> float | None:
    weights = weights[np.isfinite(weights)]
    if not len(weights) or weights.min() != weights.max():
        return None
    # The shortest number that is equal to the float32.
    return float(str(weights[0]))
