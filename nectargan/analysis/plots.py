"""Pictures of losses, weights and schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nectargan.analysis.history import load_losses
from nectargan.errors import RunError
from nectargan.files import replacing
from nectargan.scheduling.data import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_PANEL = (4.0, 2.6)  # inches
_MOST_POINTS = 2000  # more than a panel has pixels


def plot_run(run: str | PathLike[str], output: Path) -> None:
    """Draws a panel for each loss: raw values and their moving mean, the weight dotted.

    Args:
        run: Run directory.
        output: The PNG file.

    Raises:
        RunError: the run cannot be read or has no losses, or the file cannot be written.
    """
    losses = load_losses(run)
    if losses.empty:
        raise RunError(f"'{run}' has no losses to plot yet.")
    groups = {str(name): group for name, group in losses.groupby("loss", sort=False)}
    figure, panels = _panels(len(groups), Path(run).resolve().name)
    for panel, (name, group) in zip(panels, groups.items(), strict=False):
        every = max(1, len(group) // _MOST_POINTS)
        # One infinity would swallow the mean of all that comes after it.
        finite = group["raw"].where(np.isfinite(group["raw"]))
        mean = finite.ewm(span=max(2, len(group) // 50)).mean()
        panel.plot(group["step"][::every], group["raw"][::every], color="C0", alpha=0.25, lw=0.8)
        panel.plot(group["step"][::every], mean[::every], color="C0", lw=1.6)
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_xlabel("step")
        panel.set_ylabel("raw", color="C0")
        weights = panel.twinx()
        weights.plot(
            group["step"][::every], group["weight"][::every], "C1:", lw=1.6, drawstyle="steps-post"
        )
        weights.set_ylabel("weight", color="C1")
        weights.set_ylim(*_with_margin(group["weight"]))
    _save(figure, output)


def plot_schedules(schedules: Mapping[str, Schedule], epochs: int, output: Path) -> None:
    """Draws every schedule over the epochs of a run.

    Args:
        schedules: By name of the panel.
        epochs: Length of the run.
        output: The PNG file.

    Raises:
        RunError: the file cannot be written.
    """
    figure, panels = _panels(len(schedules), f"{epochs} epochs")
    for panel, (name, schedule) in zip(panels, schedules.items(), strict=False):
        x: Any = np.arange(1, epochs + 1)
        if schedule.interval == "step":
            x = np.linspace(1, epochs, max(2, min(_MOST_POINTS, epochs * 20)))
        y = [schedule.value_at(float(epoch)) for epoch in x]
        panel.plot(x, y, color="C1", lw=1.6, marker="." if epochs <= 30 else None)
        panel.set_title(f"{name}: {schedule.name}", loc="left", fontsize=10)
        panel.set_xlabel("epoch")
        panel.set_ylim(*_with_margin(y))
    _save(figure, output)


def _panels(count: int, title: str) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    columns = 2 if count == 4 else min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines["top"].set_visible(False)
    for empty in panels[count:]:
        empty.set_visible(False)
    return figure, panels


def _with_margin(values: Any) -> tuple[float, float]:
    """Limits of an axis on which a constant is a line in the middle, not noise."""
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _save(figure: Figure, output: Path) -> None:
    try:
        with replacing(output) as part:
            figure.savefig(part, format="png", dpi=110)
    except OSError as error:
        raise RunError(f"'{output}' cannot be written: {error.strerror}.") from None
