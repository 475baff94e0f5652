"""Runs side by side: what differs in their configs, and what came of it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nectargan.analysis.figures import (
    Size,
    check_size,
    format_of,
    limits_of,
    make_panels,
    save_figure,
    set_log_scale,
    thinned,
    weight_axis,
)
from nectargan.analysis.frames import load_runs, losses_of
from nectargan.analysis.smoothing import MovingAverage, usual_weight
from nectargan.analysis.sources import Run, open_sources
from nectargan.config.schema import Config
from nectargan.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_COLUMNS_ABOUT_RUNS = ("source", "reason", "step")


def compare_runs(runs: Run | Sequence[Run], mlflow_uri: str | None = None) -> pd.DataFrame:
    """One row a run: the options in which the runs differ, and their last and best values.

    The columns are those of `load_runs`, without the options that all runs have in common: first
    options by their dotted keys, then ``status`` and ``epoch``, ``loss/<name>/raw`` and
    ``val/<metric>`` of the end, ``best/<metric>`` and ``best/<metric>_epoch``. What a run does not
    have is missing (NaN).

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.

    Raises:
        RunError: as from `load_losses`.
        ConfigError: the config of a run cannot be read.
    """
    frame = load_runs(runs, mlflow_uri)
    options = [key for key in frame.columns if key.partition(".")[0] in Config.model_fields]
    differing = [key for key in options if frame[key].nunique(dropna=False) > 1]
    values = [key for key in frame.columns if key not in {*options, *_COLUMNS_ABOUT_RUNS}]
    return frame[differing + values]


def render_comparison(frame: pd.DataFrame, form: Literal["md", "csv", "json"]) -> str:
    """A frame of `compare_runs` as text.

    Args:
        frame: The frame.
        form: "md", a Markdown table; "csv", full precision; "json", a list of objects, with null
            for what is missing or not finite.
    """
    if form == "csv":
        return str(frame.to_csv(lineterminator="\n"))
    if form == "json":
        columns = {str(key): map(_plain, column.array) for key, column in frame.items()}
        runs = [
            dict(zip(["run", *columns], row, strict=True))
            for row in zip(frame.index, *columns.values(), strict=True)
        ]
        return json.dumps(runs, indent=4, ensure_ascii=False) + "\n"
    from rich import box
    from rich.console import Console

    text = io.StringIO()
    table = comparison_table(frame)
    table.box = box.MARKDOWN
    Console(file=text, width=100_000, markup=False).print(table)
    return "\n".join(line.strip() for line in text.getvalue().strip().splitlines()) + "\n"


def comparison_table(frame: pd.DataFrame) -> Table:
    """A frame of `compare_runs` for the terminal: a row for each run, or a column if there are
    more columns than runs. Epochs of best values are behind these, in parentheses."""
    from rich.table import Table

    shown = frame.map(_shown)
    for name in [name for name in shown.columns if f"{name}_epoch" in shown.columns]:
        epochs = shown.pop(f"{name}_epoch")
        shown[name] = [f"{v} ({e})" if e else v for v, e in zip(shown[name], epochs, strict=True)]
    if len(shown.columns) > len(shown):
        shown = shown.T
    table = Table("", *map(str, shown.columns))
    for row in shown.itertuples():
        table.add_row(*map(str, row))
    return table


def _shown(value: object) -> str:
    import pandas as pd

    if pd.api.types.is_float(value) and not pd.isna(value):
        return f"{value:.4g}"
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]


def _plain(value: Any) -> object:
    """A value as JSON has it; a float32 as the shortest number that it is."""
    import pandas as pd

    if pd.isna(value) or value in (np.inf, -np.inf):
        return None
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


class _Curve(NamedTuple):
    """What is drawn of one loss of one run, thinned."""

    steps: Any
    raw: Any
    weights: Any


def plot_comparison(
    runs: Run | Sequence[Run],
    output: Path,
    *,
    log: bool = False,
    smooth: float | None = None,
    size: Size | None = None,
    mlflow_uri: str | None = None,
) -> None:
    """Draws a panel for each loss: a smoothed line for each run, its weight dotted.

    Args:
        runs: As for `load_losses`.
        output: The file: .png, .svg or .pdf.
        log: Logarithmic axes for losses, as far as they are above 0.
        smooth: Weight of the `MovingAverage`, in [0, 1); 0 for none. By default it averages over a
            fiftieth of the steps.
        size: Width and height in inches.
        mlflow_uri: As for `load_losses`.

    Raises:
        RunError: a run cannot be read, none has losses, an option has no sensible value, or the
            file cannot be written.
    """
    format_of(output)  # before all the reading
    check_size(size)
    curves: dict[str, dict[str, _Curve]] = {}
    sources = open_sources(runs, mlflow_uri)
    for source in sources:
        for loss, rows in losses_of(source).groupby("loss", observed=True, sort=False):
            curves.setdefault(str(loss), {})[source.name] = _curve(rows, smooth)
    if not curves:
        raise RunError("None of the runs has losses to plot yet.")
    colors = _colors([source.name for source in sources])
    figure, panels = make_panels(list(curves), "raw losses (lines) and weights (dotted)", size)
    for loss, panel in panels.items():
        _draw_runs(panel, curves[loss], colors, log)
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[Line2D([], [], color=color, label=name) for name, color in colors.items()],
        loc="outside lower center",
        ncols=min(4, len(colors)),
        fontsize=8,
        frameon=False,
    )
    save_figure(figure, output)


def _curve(rows: Any, smooth: float | None) -> _Curve:
    average = MovingAverage(usual_weight(len(rows)) if smooth is None else smooth)
    shown = thinned(len(rows))
    return _Curve(
        rows["step"].to_numpy()[shown],
        average(rows["raw"].to_numpy())[shown],
        rows["weight"].to_numpy()[shown],
    )


def _draw_runs(
    panel: Any, curves: Mapping[str, _Curve], colors: Mapping[str, Any], log: bool
) -> None:
    weights = weight_axis(panel)
    for run, (steps, raw, weight) in curves.items():
        panel.plot(steps, raw, color=colors[run], lw=1.3)
        weights.plot(steps, weight, ":", color=colors[run], lw=1.3, drawstyle="steps-post")
    if log:
        set_log_scale(panel, np.concatenate([curve.raw for curve in curves.values()]))
    panel.set_xlabel("step")
    panel.set_ylabel("raw")
    weights.set_ylim(*limits_of(np.concatenate([curve.weights for curve in curves.values()])))


def _colors(runs: Sequence[str]) -> dict[str, Any]:
    """A color for each run; neighbours differ as much as so many runs allow."""
    from matplotlib import colormaps

    if len(runs) <= 10:
        return {run: f"C{number}" for number, run in enumerate(runs)}
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))
    return dict(zip(runs, colors, strict=True))
