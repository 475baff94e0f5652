"""Runs side by side: what differs in their configs, and what came of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nectargan.analysis.frames import EPOCH_LOSS, LOWER_IS_BETTER, NAN_CELLS, frame_of_runs
from nectargan.analysis.short_names import distinct_parts, short_keys
from nectargan.analysis.sources import RunLike, open_sources
from nectargan.config.schema import Config
from nectargan.errors import RunError, did_you_mean
from nectargan.metrics import is_lower_better
from nectargan.output import make_console

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_ENOUGH = 100_000  # columns of a terminal that is never too narrow
_COLUMNS_ABOUT_RUNS = ("source", "reason", "step")
# They say where a run is, which its name says as well.
_PLACES = ("common.experiment_name", "common.experiment_version", "common.output_directory")


def compare_runs(
    runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None, sort: str | None = None
) -> pd.DataFrame:
    """One row a run: the options in which the runs differ, and their last and best values.

    The columns are those of `load_runs`, without the options that all runs have in common, that
    say where a run is, or that a run does not read (`used_options`): first options by their dotted
    keys, then ``status`` and ``epoch``, the mean of each loss over the last whole epoch,
    ``epoch/loss/<name>``, or its last value ``loss/<name>/raw`` where there is no whole epoch,
    ``val/<metric>`` of the end, ``best/<metric>`` and ``best/<metric>_epoch``. What a run does not
    have is missing (NaN).

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.
        sort: Column to sort by, or its last part if that is not also that of another one: a metric
            from the best value to the worst, all else from the least to the largest; what is
            missing comes last. By default runs are in the order in which they were given.

    Raises:
        RunError: as from `load_losses`; or there is no such column.
        ConfigError: the config of a run cannot be read.
    """
    from nectargan.config.unused import used_options

    frame = frame_of_runs(open_sources(runs, mlflow_uri), used_options)
    options = [key for key in frame.columns if key.partition(".")[0] in Config.model_fields]
    differing = [
        key for key in options if key not in _PLACES and frame[key].nunique(dropna=False) > 1
    ]
    values = [key for key in frame.columns if key not in {*options, *_COLUMNS_ABOUT_RUNS}]
    frame = frame[differing + [key for key in values if not _has_mean(frame, key)]]
    return frame if sort is None else _sorted(frame, sort)


def _nan_cells(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Run and column of each value that is NaN, and not missing."""
    cells: list[tuple[str, str]] = frame.attrs.get(NAN_CELLS, [])
    return [(run, key) for run, key in cells if run in frame.index and key in frame.columns]


def _has_mean(frame: pd.DataFrame, key: str) -> bool:
    """Whether a column of last values has the means of epochs beside it, in every run; what went
    wrong in the end would not be seen in a mean of finite values."""
    if any(key == column for _, column in _nan_cells(frame)):
        return False
    mean = EPOCH_LOSS + key.removeprefix("loss/").removesuffix("/raw")
    return mean in frame.columns and bool((frame[key].isna() | frame[mean].notna()).all())


def _sorted(frame: pd.DataFrame, sort: str) -> pd.DataFrame:
    labels = dict(zip(frame.columns, labels_of(frame), strict=True))
    found = [key for key in frame.columns if sort in (key, labels[key])]
    if not found:
        # Of "ssim", the best one.
        found = [key for key in frame.columns if re.split("[./]", key)[-1] == sort]
        found = [key for key in found if key.startswith("best/")] or found
    if len(found) > 1:
        raise RunError(f"--sort {sort} could be {' or '.join(found)}; give one of these.")
    if not found:
        raise RunError(
            f"--sort {sort} is no column of the comparison." + did_you_mean(sort, frame.columns)
        )
    values = frame[found[0]]
    if values.dtype != object:
        ascending = not _more_is_better(frame, found[0])
        return frame.loc[values.sort_values(ascending=ascending, kind="stable").index]
    # A weight may be a number in one run and a schedule in another.
    is_missing = values.isna()
    known = sorted(values[~is_missing].items(), key=lambda run: (isinstance(run[1], str), run[1]))
    return frame.loc[[name for name, _ in known] + list(frame.index[is_missing])]


def _more_is_better(frame: pd.DataFrame, key: str) -> bool:
    """Whether the largest value of a column is its best one."""
    own_lower = frame.attrs.get(LOWER_IS_BETTER, ())
    return key.startswith(("val/", "best/", "test/")) and not is_lower_better(key, own_lower)


def labels_of(frame: pd.DataFrame) -> list[str]:
    """What the columns are called in a table: options by the last parts of their keys, the mean of
    a loss "mean G_L1", all else as it is."""
    options = [key for key in frame.columns if key.partition(".")[0] in Config.model_fields]
    short = dict(zip(options, short_keys(options), strict=True))
    return [_label(str(key), short) for key in frame.columns]


def _label(key: str, short: Mapping[str, str]) -> str:
    if key.startswith("train.loss."):
        return key.removeprefix("train.")
    if key.startswith(EPOCH_LOSS):
        return f"mean {key.removeprefix(EPOCH_LOSS)}"
    return short.get(key, key)


def best_in(frame: pd.DataFrame, key: str) -> Any:
    """Which rows have the best value of a column, an array of bool ``(runs,)``; none where no value
    is better than another one."""
    kind, _, metric = key.partition("/")
    values = frame[key]
    is_metric = kind in ("val", "best", "test") and not metric.endswith("_epoch")
    if not is_metric or values.nunique() < 2:
        return np.zeros(len(frame), bool)
    return (values == (values.max() if _more_is_better(frame, key) else values.min())).to_numpy()


def render_comparison(frame: pd.DataFrame, form: Literal["md", "csv", "json"]) -> str:
    """A frame of `compare_runs` as text.

    Args:
        frame: The frame.
        form: "md", a Markdown table; "csv", full precision; "json", a list of objects, with null
            for what is missing or not finite.
    """
    if form == "csv":
        cells = frame.astype(object)
        for run, key in _nan_cells(frame):
            cells.loc[run, key] = "nan"
        return str(cells.to_csv(lineterminator="\n"))
    if form == "json":
        columns = {str(key): map(_plain, column.array) for key, column in frame.items()}
        runs = [
            dict(zip(["run", *columns], row, strict=True))
            for row in zip(frame.index, *columns.values(), strict=True)
        ]
        return json.dumps(runs, indent=4, ensure_ascii=False) + "\n"
    from rich import box

    text = io.StringIO()
    (table,) = comparison_tables(frame, _ENOUGH)
    table.box, table.title, table.caption = box.MARKDOWN, None, None
    make_console(file=text, width=_ENOUGH).print(table)
    return "\n".join(line.strip() for line in text.getvalue().strip().splitlines()) + "\n"


def comparison_tables(frame: pd.DataFrame, width: int) -> list[Table]:
    """A frame of `compare_runs` for a terminal: a column for each run if that fits, else a row for
    each run, in as many tables as it takes.

    Runs are called by what differs in their names. The best value of a metric is marked; epochs of
    best values are behind these, in parentheses.

    Args:
        frame: The frame.
        width: Columns of the terminal.
    """
    cells = _cells(frame)
    if len(cells.columns) > len(cells):
        across = cells.T
        # What a run has may be wrapped between words.
        if _width_of(across, wrapped=True) <= width:
            return [_table(frame, across)]
    tables, columns = [], list[str]()
    for column in cells.columns:
        if columns and _width_of(cells[[*columns, column]]) > width:
            tables.append(cells[columns])
            columns = []
        columns.append(column)
    return [_table(frame, part) for part in [*tables, cells[columns]]]


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The text of each cell, runs by their short names, what one looks for first in front."""
    shown = frame.map(_cell_text)
    for run, key in _nan_cells(frame):
        shown.loc[run, key] = "nan"
    for key in frame.columns:
        marks = ["*" if best else "" for best in best_in(frame, key)]
        shown[key] = [text + mark for text, mark in zip(shown[key], marks, strict=True)]
    for key in [key for key in frame.columns if f"{key}_epoch" in frame.columns]:
        epochs = shown.pop(f"{key}_epoch")
        shown[key] = [f"{v} ({e})" if e else v for v, e in zip(shown[key], epochs, strict=True)]
    labels = dict(zip(frame.columns, labels_of(frame), strict=True))
    first = [
        key for key in shown.columns if not key.startswith(("val/", "test/", "loss/", EPOCH_LOSS))
    ]
    order = first + [key for key in shown.columns if key not in first]
    shown = shown[order].rename(columns=labels)
    shown.index = distinct_parts(list(map(str, frame.index)))[1]
    return shown


def _width_of(cells: pd.DataFrame, wrapped: bool = False) -> int:
    """The width of a table, or the least that it can have."""
    from rich.cells import cell_len

    width = 1 + max(map(cell_len, cells.index)) + 3
    for name in cells.columns:
        texts = [str(name), *cells[name]]
        parts = [word for text in texts for word in text.split()] if wrapped else texts
        width += max(map(cell_len, parts)) + 3
    return width


def _table(frame: pd.DataFrame, cells: pd.DataFrame) -> Table:
    from rich.table import Table

    pattern, _ = distinct_parts(list(map(str, frame.index)))
    is_marked = cells.map(lambda text: "*" in text).to_numpy().any()
    table = Table(
        "",
        *map(str, cells.columns),
        title=pattern or None,
        title_justify="left",
        caption="* the best" if is_marked else None,
        caption_justify="left",
    )
    table.columns[0].no_wrap = True
    for row in cells.itertuples():
        table.add_row(*map(str, row))
    return table


def _cell_text(value: object) -> str:
    import pandas as pd

    if pd.api.types.is_float(value) and not pd.isna(value):
        return f"{value:.4g}"
    # pandas declares isna without `object`, but it takes any value.
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]


def _plain(value: Any) -> object:
    """A value as JSON has it; a float32 as the shortest number that it is."""
    import pandas as pd

    if pd.isna(value) or value in (np.inf, -np.inf):
        return None
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value
