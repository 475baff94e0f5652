"""Pictures of schedules, before or after a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nectargan.analysis.curves import curves_of
from nectargan.analysis.figures import MOST_POINTS, limits_of, make_panels, save_figure
from nectargan.analysis.gradient_plot import gradient_curves_of
from nectargan.analysis.sources import RunLike, open_sources
from nectargan.errors import RunError
from nectargan.scheduling.data import Schedule
from nectargan.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_schedules(
    schedules: Mapping[str, Schedule], epochs: int, output: Path, over: RunLike | None = None
) -> None:
    """Draws every schedule that moves over the epochs of a run, or all of them if none does.

    Args:
        schedules: By series, such as "weight/G_L1".
        epochs: Length of the run.
        output: The file: .png, .svg or .pdf.
        over: A run whose losses, and shares of the gradient if they are on record, are drawn behind
            the schedules of the same losses. The weights that it applied are dashed.

    Raises:
        RunError: The file cannot be written, or the run cannot be read.
    """
    courses = {name: _course(schedule, epochs) for name, schedule in schedules.items()}
    constant = constant_values(schedules, epochs)
    moving = [name for name in schedules if name not in constant] or list(schedules)
    behind = [] if over is None else _curves_behind(over, moving)
    title = counted(epochs, "epoch") + (f", over {behind[0].run}" if behind else "")
    plain = [name for name in moving if name not in {each.schedule for each in behind}]
    figure, panels = make_panels([*plain, *(each.title for each in behind)], title)
    for name in plain:
        _draw(panels[name], name, schedules[name], *courses[name], epochs)
    for each in behind:
        name, panel = each.schedule, panels[each.title]
        _draw(panel, each.title, schedules[name], *courses[name], epochs)
        if each.weights is not None:
            _draw_applied(panel, each, courses[name][1])
        other = panel.twinx()
        other.plot(each.x, each.y, color="C0", lw=1.2, alpha=0.7)
        if each.label == "share":
            other.set_ylim(0, 1)
            if name.startswith("share/"):
                panel.set_ylim(0, 1)  # the same scale, to compare both
        other.set_ylabel(each.label, color="C0", fontsize=9)
        other.tick_params(axis="y", colors="C0")
        panel.set_ylabel(name.partition("/")[0], color="C1", fontsize=9)
        # Behind the schedule, whose axis is the first one.
        other.set_zorder(panel.get_zorder() - 1)
        panel.patch.set_visible(False)
    save_figure(figure, output)


def _draw_applied(panel: Axes, behind: _Behind, course: Sequence[float]) -> None:
    """The weights that the run applied, on the axis of the schedule."""
    label = f"applied by {behind.run}"
    panel.plot(behind.x, behind.weights, "--", color="C3", lw=1.0, label=label)
    panel.set_ylim(*limits_of([*course, *behind.weights[np.isfinite(behind.weights)]]))
    panel.legend(loc="best", fontsize=8, frameon=False)


def _draw(panel: Axes, title: str, schedule: Schedule, x: Any, y: Any, epochs: int) -> None:
    panel.plot(x, y, color="C1", lw=1.6, marker="." if epochs <= 30 else None, zorder=3)
    panel.set_title(f"{title}: {schedule.name}", loc="left", fontsize=10)
    panel.set_xlabel("epoch")
    panel.set_ylim(*limits_of(y))


class _Behind(NamedTuple):
    """A curve of a finished run behind a schedule."""

    schedule: str
    title: str
    label: str
    run: str
    x: Any
    y: Any
    weights: Any = None  # those that the run applied, if the schedule is one of weights


def _curves_behind(over: RunLike, names: Sequence[str]) -> list[_Behind]:
    """The loss of each schedule of a weight or share, and its share of the gradient."""
    source, *others = open_sources(over, lineage=True)
    if others:
        raise RunError(f"'{over}' stands for {len(others) + 1} runs; name one.")
    losses = curves_of(source, "epoch").losses
    try:
        gradients = gradient_curves_of(source, "epoch")
    except RunError:  # they are not on record
        gradients = None
    found = []
    for name in names:
        kind, _, loss = name.partition("/")
        if kind not in ("weight", "share") or loss not in losses:
            continue
        curve = losses[loss]
        applied = curve.weights if kind == "weight" else None
        found.append(_Behind(name, name, "raw loss", source.name, curve.x, curve.smooth, applied))
        if kind == "share":
            title = f"{name}, applied weight"
            found.append(_Behind(name, title, "weight", source.name, curve.x, curve.weights))
        if gradients is not None and loss in gradients.shares:
            shares = gradients.shares[loss]
            title = f"{name}, share of the gradient"
            found.append(_Behind(name, title, "share", source.name, gradients.x, shares))
    if not found:
        raise RunError(
            f"'{source.place}' has no loss whose weight or share is drawn: {', '.join(names)}."
        )
    return found


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
