"""The curves of a run as they are drawn: losses, their weights, and validation."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from nectargan.analysis.figures import thinning
from nectargan.analysis.frames import losses_of, metrics_of
from nectargan.analysis.smoothing import MovingAverage, usual_weight
from nectargan.analysis.sources import Source
from nectargan.errors import RunError

XAxis = Literal["step", "epoch"]


class LossCurve(NamedTuple):
    """A loss of a run, each an array ``(points,)``, thinned to what one can see.

    Attributes:
        x: Steps, or epochs with their fractions: an epoch ends at its number.
        raw: What the loss function returned.
        smooth: The moving average of all raw values, at these points.
        weights: The weight that was applied.
        smoothing: The weight of the moving average; 0 for none.
        constant: The weight of the loss, if it is the same in all steps.
    """

    x: Any
    raw: Any
    smooth: Any
    weights: Any
    smoothing: float
    constant: float | None


class Curves(NamedTuple):
    """What is drawn of one run.

    Attributes:
        losses: By name of the loss, in the order in which they began.
        metrics: x and values of each metric of validation, by series.
    """

    losses: dict[str, LossCurve]
    metrics: dict[str, tuple[Any, Any]]


def curves_of(source: Source, x: XAxis = "step", smooth: float | None = None) -> Curves:
    """Reads the curves of a run.

    Args:
        source: The run.
        x: What they are drawn over.
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over a
            fiftieth of the steps.

    Raises:
        RunError: the run cannot be read, ``smooth`` has no sensible value, or the epochs of the
            steps are not known.
    """
    rows = losses_of(source)
    rows["x"] = rows["step"] if x == "step" else _epochs(rows, source)
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
    )


def _epochs(rows: Any, source: Source) -> Any:
    """The epoch of each row, with its fraction: the last step of epoch 3 is at 3."""
    if rows.empty:
        return rows["step"]
    if (rows["epoch"] < 1).any():
        raise RunError(f"'{source.place}' does not say in which epochs its steps were.")
    steps = rows.groupby("epoch")["step"]
    first, last = steps.min(), steps.max()
    length = last - first + 1
    # The epoch at hand is as long as the one before it, as far as one knows.
    length.iloc[-1] = max(length.iloc[-2:])
    done = rows["step"] - rows["epoch"].map(first) + 1
    return rows["epoch"] - 1 + done / rows["epoch"].map(length)


def _constant(weights: Any) -> float | None:
    weights = weights[np.isfinite(weights)]
    if not len(weights) or weights.min() != weights.max():
        return None
    # A float32 as the shortest number that it is.
    return float(str(weights[0]))
