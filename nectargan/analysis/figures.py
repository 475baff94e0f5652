"""Helpers for figures: panels in a grid, axes, and writing the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from nectargan.config.choices import PictureFormat
from nectargan.errors import RunError
from nectargan.files import is_stream, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Inches = tuple[float, float]
MOST_POINTS = 2000  # more than a panel has pixels

_COLUMNS = 3
_PANEL = (4.0, 2.6)  # inches
_LARGEST = 100.0  # inches


def make_panels(
    names: Sequence[str], title: str, size: Inches | None = None
) -> tuple[Figure, dict[str, Axes]]:
    """Creates a figure with a titled panel for each name.

    Args:
        names: Titles of the panels; unique, at least one.
        title: Title of the figure.
        size: Width and height of the figure in inches; by default, it depends on the panels.

    Raises:
        RunError: ``size`` is out of range.
    """
    from matplotlib.figure import Figure

    most = _COLUMNS if len(names) <= _COLUMNS**2 else _COLUMNS + 1
    columns = 2 if len(names) == 4 else min(len(names), most)
    rows = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=check_size(size) or (_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[len(names) :]:
        unused.set_visible(False)
    panels = dict(zip(names, axes, strict=False))
    for name, panel in panels.items():
        panel.set_title(name, loc="left", fontsize=10)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def weight_axis(panel: Axes) -> Axes:
    """Adds a second axis, for weights, at the right of a panel."""
    axis = panel.twinx()
    axis.spines["top"].set_visible(False)
    axis.spines["right"].set_visible(True)
    axis.set_ylabel("weight")
    return axis


def set_log_scale(panel: Axes, values: Any) -> None:
    """Makes the axis of a panel logarithmic, unless a value is 0 or less."""
    from matplotlib.ticker import LogFormatter

    class PlainNumbers(LogFormatter):
        """Labels the same ticks as Matplotlib, but with 0.2 instead of 2 x 10^-1."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(PlainNumbers())
        panel.yaxis.set_minor_formatter(PlainNumbers(minor_thresholds=(2, 0.5)))


def thinning(count: int) -> slice:
    """A slice that keeps about `MOST_POINTS` of ``count`` points."""
    return slice(None, None, max(1, count // MOST_POINTS))


def limits_of(values: Any) -> Inches:
    """Limits of an axis, with a margin; a constant becomes a line in the middle."""
    low, high = float(np.min(values)), float(np.max(values))
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def check_size(size: Inches | None) -> Inches | None:
    """Returns ``size``; raises `RunError` unless it is a possible size of a figure in inches."""
    if size is not None and not all(0 < side <= _LARGEST for side in size):
        raise RunError(
            f"A picture cannot be {size[0]:g} x {size[1]:g} inches; each side must be above 0 and "
            f"at most {_LARGEST:g}."
        )
    return size


def format_of(output: Path) -> str:
    """The format of a figure by the suffix of its file; PNG for a pipe or device without a suffix.

    Raises:
        RunError: the suffix is not that of a known format.
    """
    suffix, known = output.suffix.lower().removeprefix("."), get_args(PictureFormat)
    if suffix not in known:
        if is_stream(output):
            return "png"
        raise RunError(f"'{output}' is not a picture: it must end in .{', .'.join(known)}.")
    return suffix


def save_figure(figure: Figure, output: Path) -> None:
    """Writes a figure in the format of its suffix.

    Raises:
        RunError: the file cannot be written, or its suffix is not that of a known format.
    """
    from matplotlib import rc_context

    form = format_of(output)
    # Journals require TrueType fonts (42) instead of Type 3.
    with rc_context({"pdf.fonttype": 42}):
        try:
            with replacing(output, or_stream=True) as part:
                figure.savefig(part, format=form, dpi=150)
        except OSError as error:
            raise RunError(f"'{output}' cannot be written: {error.strerror}.") from None
