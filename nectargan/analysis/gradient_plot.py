"""Plots the gradients of runs: the share of each loss as a stacked area, the cosines beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nectargan.analysis.curves import XAxis, epochs_with_fractions, forks_in
from nectargan.analysis.figures import Inches, check_size, format_of, save_figure, thinning
from nectargan.analysis.frames import gradients_of
from nectargan.analysis.short_names import distinct_parts
from nectargan.analysis.smoothing import MovingAverage, check_weight, usual_weight
from nectargan.analysis.sources import RunLike, Source, open_sources, readable
from nectargan.errors import RunError
from nectargan.record.lineage import Ancestor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = (10.0, 3.0)  # inches of the two panels of a run
_LEGEND = 0.7  # inches
# More colors than these cannot be told from each other.
_COLORS = 10


class GradientCurves(NamedTuple):
    """The gradients of a run as they are drawn; each array has the shape ``(points,)``.

    Attributes:
        x: Steps, or epochs with fractions.
        shares: Smoothed share of each loss; they add up to 1 at each point.
        cosines: Smoothed cosine of each loss to the sum of the others; NaN where it is undefined.
        norms: Smoothed norm of each loss.
        smoothing: The weight of the moving average; 0 for none.
        forks: x of each checkpoint that the run descends from, if rows before it are on record.
    """

    x: Any
    shares: dict[str, Any]
    cosines: dict[str, Any]
    norms: dict[str, Any]
    smoothing: float
    forks: Mapping[Ancestor, float]


def gradient_curves_of(
    source: Source, x: XAxis = "step", smooth: float | None = None
) -> GradientCurves:
    """Reads the gradients of a run.

    Steps in which the shares are not finite are left out. A loss that was not computed in a step
    has the share 0 there.

    Args:
        source: The run.
        x: The horizontal axis.
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over
            about a fiftieth of the steps.

    Raises:
        RunError: the run cannot be read, its gradients were not recorded, there are none yet, or
            the epochs of its steps are not known.
    """
    rows = gradients_of(source)
    if rows.empty:
        raise RunError(f"'{source.place}' has no gradients to plot yet.")
    rows["x"] = rows["step"] if x == "step" else epochs_with_fractions(rows, source)
    places = rows.groupby("step")["x"].first()
    names = rows["loss"].unique().tolist()

    def by_step(value: str) -> Any:
        table = rows.pivot_table(value, "step", "loss", observed=True, dropna=False)
        return table.reindex(index=places.index, columns=names).to_numpy(np.float64)

    shares = np.nan_to_num(by_step("share"))
    # Shares are not defined if all gradients are zero, or if one is infinite.
    is_known = np.isclose(shares.sum(axis=1), 1.0, atol=1e-3)
    weight = usual_weight(int(is_known.sum())) if smooth is None else smooth
    shown = thinning(int(is_known.sum()))

    def smoothed(values: Any) -> dict[str, Any]:
        columns = values[is_known].T
        return {
            name: MovingAverage(weight)(column)[shown]
            for name, column in zip(names, columns, strict=True)
        }

    return GradientCurves(
        places.to_numpy()[is_known][shown],
        smoothed(shares),
        smoothed(by_step("cosine")),
        smoothed(by_step("norm")),
        weight,
        forks_in(rows, source),
    )


def plot_gradients(
    runs: RunLike | Sequence[RunLike],
    output: Path,
    *,
    x: XAxis = "step",
    smooth: float | None = None,
    size: Inches | None = None,
    mlflow_uri: str | None = None,
    lineage: bool = True,
) -> None:
    """Plots two panels for each run: the share of each loss of the gradient at the generated
    images, as a stacked area, and the cosine of each loss to the sum of the others.

    Args:
        runs: As for `load_losses`.
        output: The file: .png, .svg or .pdf.
        x: The horizontal axis: "step", or "epoch".
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over
            about a fiftieth of the steps.
        size: Width and height in inches.
        mlflow_uri: As for `load_losses`.
        lineage: Whether the gradients of a fork begin with those of its parent. The place where it
            was forked is marked.

    Raises:
        RunError: no run can be read or has gradients, an option has a value that is not allowed, or
            the file cannot be written.
    """
    from matplotlib.figure import Figure

    format_of(output)  # checked before the runs are read
    check_size(size)
    if smooth is not None:
        check_weight(smooth)
    read = readable(
        open_sources(runs, mlflow_uri, lineage),
        lambda source: gradient_curves_of(source, x, smooth),
    )
    names = [source.name for source, _ in read]
    height = _ROW[1] * len(read) + _LEGEND
    figure = Figure(figsize=size or check_size((_ROW[0], height)), layout="constrained")
    pattern, short = distinct_parts(names)
    figure.suptitle(pattern if len(read) > 1 else names[0], fontsize=11)
    colors = colors_of([each for _, each in read])
    axes = figure.subplots(len(read), 2, squeeze=False)
    for (_, curves), name, (left, right) in zip(read, short, axes, strict=True):
        prefix = f"{name}: " if len(read) > 1 else ""
        draw_shares(left, curves, colors)
        left.set_title(f"{prefix}share of the gradient", loc="left", fontsize=10)
        draw_cosines(right, curves, colors)
        for panel in (left, right):
            panel.set_xlabel(x)
            for at in curves.forks.values():
                panel.axvline(at, color="0.2", ls=":", lw=1.2)
    shares = read[0][1].shares if len(read) == 1 else {}
    figure.legend(
        handles=_patches(colors, {name: float(own[-1]) for name, own in shares.items()}),
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
    )
    save_figure(figure, output)


def colors_of(curves: Sequence[GradientCurves]) -> dict[str, Any]:
    """A color for each loss of any run."""
    names = list(dict.fromkeys(name for each in curves for name in each.shares))
    if len(names) <= _COLORS:
        return {name: f"C{number}" for number, name in enumerate(names)}
    from matplotlib import colormaps

    spread = colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    return dict(zip(names, spread, strict=True))


def _patches(colors: Mapping[str, Any], last_shares: Mapping[str, float]) -> list[Any]:
    from matplotlib.patches import Patch

    return [
        Patch(
            color=color,
            alpha=0.85,
            lw=0,
            label=f"{name} ({100 * last_shares[name]:.3g} % at the end)"
            if name in last_shares
            else name,
        )
        for name, color in colors.items()
    ]


def draw_shares(panel: Axes, curves: GradientCurves, colors: Mapping[str, Any]) -> None:
    """Draws the shares as a stacked area, from 0 to 100 %."""
    from matplotlib.ticker import PercentFormatter

    panel.stackplot(
        curves.x,
        list(curves.shares.values()),
        colors=[colors[name] for name in curves.shares],
        alpha=0.85,
        lw=0,
    )
    panel.set_ylim(0, 1)
    if len(curves.x) > 1:
        panel.set_xlim(curves.x[0], curves.x[-1])
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.spines[["top", "right"]].set_visible(False)


def draw_cosines(panel: Axes, curves: GradientCurves, colors: Mapping[str, Any]) -> None:
    """Draws the cosine of each loss to the sum of the others; only one line for two losses, whose
    cosines are the same."""
    names, style = list(curves.cosines), dict[str, Any](lw=1.4)
    title = "cosine to the sum of the others"
    if len(names) == 1:
        title = "cosine: not defined for a single loss"
    elif len(names) == 2:
        title = f"cosine between {names[0]} and {names[1]}"
        panel.plot(curves.x, curves.cosines[names[0]], color="0.2", **style)
    else:
        for name in names:
            panel.plot(curves.x, curves.cosines[name], color=colors[name], **style)
    panel.set_title(title, loc="left", fontsize=10)
    panel.axhline(0.0, color="0.5", lw=0.8)
    panel.set_ylim(-1, 1)
    if len(curves.x) > 1:
        panel.set_xlim(curves.x[0], curves.x[-1])
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
