"""Pictures of runs: losses, their weights, and validation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nectargan.analysis.branches import branch_of, parent_of, split_at
from nectargan.analysis.curves import Curves, LossCurve, XAxis, curves_of
from nectargan.analysis.figures import (
    Inches,
    check_size,
    format_of,
    limits_of,
    make_panels,
    save_figure,
    set_log_scale,
    weight_axis,
)
from nectargan.analysis.short_names import distinct_parts
from nectargan.analysis.smoothing import check_weight
from nectargan.analysis.sources import RunLike, Source, open_sources, readable
from nectargan.errors import RunError
from nectargan.metrics import METRICS, USUAL_SERIES, is_lower_better
from nectargan.scheduling.notation import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NETWORKS = {"G": "generator", "D": "discriminator"}
# More lines than these cannot be distinguished by color.
_MOST_COLORS = 10
_BEST_SHOWN = 5
_GREY = "0.6"
_SHARED = "before the fork"


def plot_run(
    run: str | PathLike[str],
    output: Path,
    *,
    x: XAxis = "step",
    log: bool = False,
    split: bool = False,
    smooth: float | None = None,
    size: Inches | None = None,
    mlflow_uri: str | None = None,
    lineage: bool = True,
) -> list[Path]:
    """Draws a panel for each loss, raw values and their moving average, and for each metric of
    validation. A weight that moves is dotted, with an axis of its own; a constant one is in the
    title of the panel.

    Args:
        run: Run directory, ``mlflow:<run id>`` or a directory with event files.
        output: The file: .png, .svg or .pdf.
        x: What is drawn over: "step", or "epoch".
        log: Logarithmic axes for losses, as far as they are above 0.
        split: A file for the losses of the generator, with validation, and one for those of the
            discriminator, with ``_G`` and ``_D`` before the suffix of ``output``; ``_other`` for
            losses of neither.
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over a
            fiftieth of the steps.
        size: Width and height in inches.
        mlflow_uri: As for `load_losses`.
        lineage: Whether the lines of a fork begin with those of its parent, which is drawn in
            grey from the fork on.

    Returns:
        The files written.

    Raises:
        RunError: the run cannot be read or has no losses, an option has no sensible value, or a
            file cannot be written.
    """
    (source,) = open_sources(run, mlflow_uri, lineage)
    curves = curves_of(source, x, smooth)
    parent = parent_of(source) if lineage else None
    going_on = None if parent is None else _after_the_fork(curves_of(parent, x, smooth), curves)
    if not curves.losses:
        raise RunError(f"'{run}' has no losses to plot yet.")
    parts = _split(source, curves) if split else {"": [*curves.losses, *curves.metrics]}
    files = []
    for part, names in parts.items():
        title = f"{source.name}, {_NETWORKS.get(part, part)}" if part else source.name
        file = output.with_stem(f"{output.stem}_{part}") if part else output
        figure, panels = make_panels(names, title, size)
        for name, panel in panels.items():
            panel.set_xlabel(x)
            if name in curves.losses:
                _draw_loss(panel, name, curves.losses[name], log)
            else:
                _draw_metric(panel, curves.metrics[name], {"color": "C2", "lw": 1.4})
            if parent is not None and going_on is not None:
                _draw_parent(panel, name, going_on, f"parent {parent.name}")
            for ancestor, at in curves.forks.items():
                panel.axvline(at, color="0.4", ls=":", lw=1, label=f"fork of {ancestor}")
        _add_legend(figure)
        save_figure(figure, file)
        files.append(file)
    return files


def _after_the_fork(parent: Curves, fork: Curves) -> Curves:
    """The curves of a parent from the place on where its fork leaves it."""
    *_, at = fork.forks.values()
    return split_at(parent, at)[1]


def _draw_parent(panel: Axes, name: str, curves: Curves, label: str) -> None:
    """The line of the parent, in grey behind that of its fork."""
    style: dict[str, Any] = {"color": _GREY, "lw": 1.2, "zorder": 1.5, "label": label}
    if name in curves.losses:
        panel.plot(curves.losses[name].x, curves.losses[name].smooth, **style)
    elif name in curves.metrics:
        _draw_metric(panel, curves.metrics[name], style)


def _split(source: Source, curves: Curves) -> dict[str, list[str]]:
    """The losses of each network, by their tags, or by their names where nobody noted tags."""
    tags = source.tags() or {}
    parts: dict[str, list[str]] = {}
    for name in curves.losses:
        marks = tags.get(name, [name.partition("_")[0]])
        part = next((network for network in _NETWORKS if network in marks), "other")
        parts.setdefault(part, []).append(name)
    # Validation looks at what the generator makes.
    parts["G" if "G" in parts else next(iter(parts))] += curves.metrics
    return parts


def _draw_loss(panel: Axes, name: str, curve: LossCurve, log: bool) -> None:
    smooth = curve.smoothing
    style: dict[str, Any] = {"alpha": 0.25, "lw": 0.8} if smooth else {"lw": 1.2}
    panel.plot(curve.x, curve.raw, color="C0", label="raw", **style)
    if smooth:
        label = f"raw, smoothed ({smooth:.3g})"
        panel.plot(curve.x, curve.smooth, color="C0", lw=1.6, label=label)
    if log:
        set_log_scale(panel, curve.raw)
    panel.set_title(_title(name, [curve]), loc="left", fontsize=10)
    panel.set_ylabel("raw", color="C0")
    if curve.constant is None:
        weights = _draw_weights(panel, [curve], ["C1"], 1.6)
        weights.yaxis.label.set_color("C1")
        weights.lines[0].set_label("weight")


def _title(name: str, curves: Sequence[LossCurve]) -> str:
    """The name of a loss, with its weight where that is constant."""
    weights = {curve.constant for curve in curves}
    if None in weights or not weights:
        return name
    known = sorted(weight for weight in weights if weight is not None)
    shown = [format_number(weight) for weight in known]
    if len(shown) > 1:
        weights_text = ", ".join(shown) if len(shown) <= 5 else f"{shown[0]} to {shown[-1]}"
        return f"{name}, weights {weights_text}"
    return f"{name}, weight {shown[0]}"


def _draw_weights(
    panel: Axes, curves: Sequence[LossCurve], colors: Sequence[Any], width: float
) -> Axes:
    weights = weight_axis(panel)
    for curve, color in zip(curves, colors, strict=True):
        weights.plot(curve.x, curve.weights, ":", color=color, lw=width, drawstyle="steps-post")
    values = np.concatenate([curve.weights for curve in curves])
    values = values[np.isfinite(values)]
    weights.set_ylim(*limits_of(values if len(values) else [0.0]))
    return weights


def _draw_metric(panel: Axes, points: tuple[Any, Any], style: Mapping[str, Any]) -> None:
    """A line, with its points as long as they are few enough to be seen."""
    x, values = points
    panel.plot(x, values, marker="." if len(x) <= 30 else None, **style)


def _add_legend(figure: Figure) -> None:
    """One legend for all panels and both axes of each."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3, frameon=False)


def plot_comparison(
    runs: RunLike | Sequence[RunLike],
    output: Path,
    *,
    x: XAxis = "step",
    log: bool = False,
    smooth: float | None = None,
    size: Inches | None = None,
    mlflow_uri: str | None = None,
    lineage: bool = True,
) -> None:
    """Draws a panel for each loss and each metric of validation, with a line for each run.

    Losses are smoothed. Weights are dotted where one of them moves; constant ones are in the title
    of the panel. Of more than ten runs the best five by val/ssim, or else by the first metric, have
    colors, and the others are grey.

    Args:
        runs: As for `load_losses`.
        output: The file: .png, .svg or .pdf.
        x: What is drawn over: "step", or "epoch".
        log: Logarithmic axes for losses, as far as they are above 0.
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over a
            fiftieth of the steps.
        size: Width and height in inches.
        mlflow_uri: As for `load_losses`.
        lineage: Whether the lines of a fork begin with those of its parent.

    Raises:
        RunError: a run cannot be read, none has losses, an option has no sensible value, or the
            file cannot be written.
    """
    format_of(output)  # before all the reading
    check_size(size)
    if smooth is not None:
        check_weight(smooth)
    sources = open_sources(runs, mlflow_uri, lineage)
    read = readable(sources, lambda source: curves_of(source, x, smooth))
    curves = {source.name: each for source, each in read}
    losses = dict.fromkeys(name for each in curves.values() for name in each.losses)
    metrics = dict.fromkeys(name for each in curves.values() for name in each.metrics)
    if not losses:
        raise RunError("None of the runs has losses to plot yet.")
    pattern, short = distinct_parts(list(curves))
    names = dict(zip(curves, short, strict=True))
    looks = _looks(curves, names, lambda by: _own_lower_is_better(by, [each for each, _ in read]))
    shared = _cut_at_forks(curves, [source for source, _ in read])
    what = "raw losses" if smooth == 0 else "raw losses, smoothed"
    title = f"{pattern}: {what}" if pattern else what
    figure, panels = make_panels([*losses, *metrics], title, size)
    for name, panel in panels.items():
        panel.set_xlabel(x)
        for each in shared:
            _draw_parent(panel, name, each, _SHARED)
        if name in losses:
            _draw_losses(panel, name, curves, looks, log)
        else:
            for run, each in curves.items():
                if name in each.metrics:
                    _draw_metric(panel, each.metrics[name], looks[run].line())
    if shared:
        looks["shared"] = _Look(_SHARED, _GREY)
    _add_runs(figure, looks)
    save_figure(figure, output)


def _cut_at_forks(curves: dict[str, Curves], sources: Sequence[Source]) -> list[Curves]:
    """Leaves of each fork only the part that is its own.

    Returns:
        The parts before, of forks whose parent is not among the runs.
    """
    shared = []
    for source in sources:
        branch = branch_of(source, sources)
        full = curves[source.name]
        if branch is not None and branch.ancestor in full.forks:
            before, curves[source.name] = split_at(full, full.forks[branch.ancestor])
            if not branch.is_drawn:
                shared.append(before)
    return shared


class _Look(NamedTuple):
    """How a run is drawn."""

    label: str
    color: Any
    behind: bool = False

    def line(self) -> dict[str, Any]:
        """The arguments of ``Axes.plot``."""
        width, order = (0.7, 1.5) if self.behind else (1.4, 2.5)
        return {"color": self.color, "lw": width, "zorder": order}


def _looks(
    curves: Mapping[str, Curves],
    short: Mapping[str, str],
    own_lower: Callable[[str], Collection[str]],
) -> dict[str, _Look]:
    """A color for each run, or for the best ones if there are more than one can tell apart."""
    if len(curves) <= _MOST_COLORS:
        return {run: _Look(short[run], f"C{number}") for number, run in enumerate(curves)}
    metrics = dict.fromkeys(name for each in curves.values() for name in each.metrics)
    by = USUAL_SERIES if USUAL_SERIES in metrics else next(iter(metrics), None)
    if by is None:
        from matplotlib import colormaps

        colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(curves)))
        return {run: _Look(short[run], color) for run, color in zip(curves, colors, strict=True)}
    is_lower = is_lower_better(by, own_lower(by))
    choose = np.nanmin if is_lower else np.nanmax
    bests = {
        run: float(choose(values[np.isfinite(values)]))
        for run, each in curves.items()
        if by in each.metrics and np.isfinite(values := each.metrics[by][1]).any()
    }
    ranking = sorted(bests, key=lambda run: bests[run], reverse=not is_lower)
    looks = {
        run: _Look(f"{short[run]}: {by} {bests[run]:.4g}", f"C{place}")
        for place, run in enumerate(ranking[:_BEST_SHOWN])
    }
    others = f"{len(curves) - len(looks)} others"
    return {run: looks.get(run, _Look(others, "0.7", behind=True)) for run in [*looks, *curves]}


def _own_lower_is_better(series: str, sources: Iterable[Source]) -> set[str]:
    """The custom metrics for which lower is better, if ``series`` is a custom metric."""
    if series.removeprefix("val/") in METRICS:
        return set()
    configs = filter(None, (source.config() for source in sources))
    return {name for config in configs for name in config.validation.own_lower_is_better}


def _draw_losses(
    panel: Axes, name: str, curves: Mapping[str, Curves], looks: Mapping[str, _Look], log: bool
) -> None:
    drawn = {run: each.losses[name] for run, each in curves.items() if name in each.losses}
    for run, curve in drawn.items():
        panel.plot(curve.x, curve.smooth, **looks[run].line())
    if log:
        set_log_scale(panel, np.concatenate([curve.smooth for curve in drawn.values()]))
    panel.set_title(_title(name, list(drawn.values())), loc="left", fontsize=10)
    panel.set_ylabel("raw")
    if any(curve.constant is None for curve in drawn.values()):
        weights = _draw_weights(
            panel, list(drawn.values()), [looks[run].color for run in drawn], 1.2
        )
        weights.set_ylabel("weight (dotted)")


def _add_runs(figure: Figure, looks: Mapping[str, _Look]) -> None:
    from matplotlib.lines import Line2D

    named = {look.label: look for look in looks.values()}
    figure.legend(
        handles=[Line2D([], [], label=label, **look.line()) for label, look in named.items()],
        loc="outside lower center",
        ncols=min(6, len(named)),
        fontsize=8,
        frameon=False,
    )
