"""Pictures of losses, weights and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nectargan.analysis.figures import (
    MOST_POINTS,
    Size,
    limits_of,
    make_panels,
    save_figure,
    set_log_scale,
    thinned,
    weight_axis,
)
from nectargan.analysis.frames import losses_of
from nectargan.analysis.smoothing import MovingAverage, usual_weight
from nectargan.analysis.sources import Source, open_sources
from nectargan.errors import RunError
from nectargan.scheduling.data import Schedule
from nectargan.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NETWORKS = {"G": "generator", "D": "discriminator"}


def plot_run(
    run: str | PathLike[str],
    output: Path,
    *,
    log: bool = False,
    split: bool = False,
    smooth: float | None = None,
    size: Size | None = None,
    mlflow_uri: str | None = None,
) -> list[Path]:
    """Draws a panel for each loss: raw values and their moving average, the weight dotted.

    Args:
        run: Run directory, ``mlflow:<run id>`` or a directory with event files.
        output: The file: .png, .svg or .pdf.
        log: Logarithmic axes for losses, as far as they are above 0.
        split: A file for the losses of the generator and one for those of the discriminator, with
            ``_G`` and ``_D`` before the suffix of ``output``; ``_other`` for losses of neither.
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over a
            fiftieth of the steps.
        size: Width and height in inches.
        mlflow_uri: As for `load_losses`.

    Returns:
        The files written.

    Raises:
        RunError: the run cannot be read or has no losses, an option has no sensible value, or a
            file cannot be written.
    """
    (source,) = open_sources(run, mlflow_uri)
    losses = losses_of(source)
    if losses.empty:
        raise RunError(f"'{run}' has no losses to plot yet.")
    groups = {str(name): rows for name, rows in losses.groupby("loss", observed=True, sort=False)}
    parts = _split(source, groups) if split else {"": list(groups)}
    files = []
    for part, names in parts.items():
        title = f"{source.name}, {_NETWORKS.get(part, part)}" if part else source.name
        file = output.with_stem(f"{output.stem}_{part}") if part else output
        figure, panels = make_panels(names, title, size)
        for name, panel in panels.items():
            _draw_loss(panel, groups[name], smooth, log)
        handles, labels = panels[names[0]].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        save_figure(figure, file)
        files.append(file)
    return files


def _split(source: Source, names: Mapping[str, Any]) -> dict[str, list[str]]:
    """The losses of each network, by their tags, or by their names where nobody noted tags."""
    tags = source.tags() or {}
    parts: dict[str, list[str]] = {}
    for name in names:
        marks = tags.get(name, [name.partition("_")[0]])
        part = next((network for network in _NETWORKS if network in marks), "other")
        parts.setdefault(part, []).append(name)
    return parts


def _draw_loss(panel: Axes, rows: Any, smooth: float | None, log: bool) -> None:
    smooth = usual_weight(len(rows)) if smooth is None else smooth
    raw, shown = rows["raw"].to_numpy(), thinned(len(rows))
    steps = rows["step"].to_numpy()[shown]
    average = MovingAverage(smooth)(raw)
    style: dict[str, Any] = {"alpha": 0.25, "lw": 0.8} if smooth else {"lw": 1.2}
    panel.plot(steps, raw[shown], color="C0", label="raw", **style)
    if smooth:
        panel.plot(steps, average[shown], color="C0", lw=1.6, label=f"raw, smoothed ({smooth:.3g})")
    if log:
        set_log_scale(panel, raw)
    panel.set_xlabel("step")
    panel.set_ylabel("raw", color="C0")
    weights = weight_axis(panel)
    weight = rows["weight"].to_numpy()
    weights.plot(steps, weight[shown], "C1:", lw=1.6, drawstyle="steps-post")
    panel.plot([], [], "C1:", lw=1.6, label="weight")  # for the legend, which knows one axis
    weights.yaxis.label.set_color("C1")
    weights.set_ylim(*limits_of(weight[np.isfinite(weight)] if len(weight) else [0.0]))


def plot_schedules(schedules: Mapping[str, Schedule], epochs: int, output: Path) -> None:
    """Draws every schedule over the epochs of a run.

    Args:
        schedules: By name of the panel.
        epochs: Length of the run.
        output: The file: .png, .svg or .pdf.

    Raises:
        RunError: the file cannot be written.
    """
    figure, panels = make_panels(list(schedules), counted(epochs, "epoch"))
    for (name, panel), schedule in zip(panels.items(), schedules.values(), strict=True):
        x: Any = np.arange(1, epochs + 1)
        if schedule.interval == "step":
            x = np.linspace(1, epochs, max(2, min(MOST_POINTS, epochs * 20)))
        y = [schedule.value_at(float(epoch)) for epoch in x]
        panel.plot(x, y, color="C1", lw=1.6, marker="." if epochs <= 30 else None)
        panel.set_title(f"{name}: {schedule.name}", loc="left", fontsize=10)
        panel.set_xlabel("epoch")
        panel.set_ylim(*limits_of(y))
    save_figure(figure, output)
