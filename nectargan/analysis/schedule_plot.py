"""Pictures of schedules, before or after a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nectargan.analysis.figures import MOST_POINTS, limits_of, make_panels, save_figure
from nectargan.scheduling.data import Schedule
from nectargan.wording import counted


def plot_schedules(schedules: Mapping[str, Schedule], epochs: int, output: Path) -> None:
    """Draws every schedule that moves over the epochs of a run, or all of them if none does.

    Args:
        schedules: By name of the panel.
        epochs: Length of the run.
        output: The file: .png, .svg or .pdf.

    Raises:
        RunError: the file cannot be written.
    """
    courses = {name: _course(schedule, epochs) for name, schedule in schedules.items()}
    constant = constant_values(schedules, epochs)
    moving = [name for name in schedules if name not in constant]
    figure, panels = make_panels(moving or list(schedules), counted(epochs, "epoch"))
    for name, panel in panels.items():
        x, y = courses[name]
        panel.plot(x, y, color="C1", lw=1.6, marker="." if epochs <= 30 else None)
        panel.set_title(f"{name}: {schedules[name].name}", loc="left", fontsize=10)
        panel.set_xlabel("epoch")
        panel.set_ylim(*limits_of(y))
    save_figure(figure, output)


def constant_values(schedules: Mapping[str, Schedule], epochs: int) -> dict[str, float]:
    """The values of those schedules that have the same one in all epochs of a run."""
    courses = {name: set(_course(schedule, epochs)[1]) for name, schedule in schedules.items()}
    return {name: values.pop() for name, values in courses.items() if len(values) == 1}


def _course(schedule: Schedule, epochs: int) -> tuple[Any, list[float]]:
    """Epochs, with fractions where a schedule moves with every step, and its values there."""
    x: Any = np.arange(1, epochs + 1)
    if schedule.interval == "step":
        x = np.linspace(1, epochs, max(2, min(MOST_POINTS, epochs * 20)))
    return x, [schedule.value_at(float(epoch)) for epoch in x]
