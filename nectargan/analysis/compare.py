"""Compares runs: the differences between their configs, and their results."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nectargan.analysis.frames import EPOCH_LOSS, LOWER_IS_BETTER, NAN_CELLS, frame_of_runs
from nectargan.analysis.short_names import distinct_parts, short_keys
from nectargan.analysis.sources import RunLike, Source, open_sources
from nectargan.config.schema import Config
from nectargan.errors import RunError, did_you_mean
from nectargan.metrics import is_lower_better
from nectargan.output import make_console
from nectargan.record.points import GRADIENT_SERIES

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_ENOUGH = 100_000  # width of a terminal in which every table fits
_COLUMNS_ABOUT_RUNS = ("source", "reason", "step")
# These only name a place, as the name of the run does.
_PLACES = (
    *("common.experiment_name", "common.experiment_version", "common.output_directory"),
    "train.fork_from",
)


def compare_runs(
    runs: RunLike | Sequence[RunLike],
    mlflow_uri: str | None = None,
    sort: str | None = None,
    lineage: bool = True,
) -> pd.DataFrame:
    """One row per run: the options in which the runs differ, and their last and best values.

    The columns are those of `load_runs`, without the options that all runs have in common, that
    only name a place, or that a run does not use (`used_options`). First come options by their
    dotted keys, then ``status`` and ``epoch``, the mean of each loss over the last complete epoch,
    ``epoch/loss/<name>`` (if there is none, the last value ``loss/<name>/raw``), the last
    ``gradient/<name>/share``, the last ``val/<metric>``, ``best/<metric>`` and
    ``best/<metric>_epoch``. Values that a run does not have are missing (NaN).

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.
        sort: Column to sort by, or its last part if no other column has the same one. Metrics are
            sorted from the best value to the worst, other columns from the smallest to the largest.
            Missing values come last. By default runs stay in the order in which they were given.
        lineage: Whether the values of a fork are those of its whole record, with the rows of its
            parent.

    Raises:
        RunError: as from `load_losses`; or there is no such column.
        ConfigError: the config of a run cannot be read.
    """
    return comparison_of(open_sources(runs, mlflow_uri, lineage), sort)


def comparison_of(sources: Sequence[Source], sort: str | None = None) -> pd.DataFrame:
    """As `compare_runs`, for runs that are already open."""
    from nectargan.config.dotted import used_options

    frame = frame_of_runs(sources, used_options)
    options = [key for key in frame.columns if key.partition(".")[0] in Config.model_fields]
    differing = [
        key for key in options if key not in _PLACES and frame[key].nunique(dropna=False) > 1
    ]
    values = [key for key in frame.columns if key not in {*options, *_COLUMNS_ABOUT_RUNS}]
    frame = frame[differing + [key for key in values if not _has_mean(frame, key)]]
    return frame if sort is None else _sorted(frame, sort)


def _nan_cells(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Run and column of each value that is NaN and not missing."""
    cells: list[tuple[str, str]] = frame.attrs.get(NAN_CELLS, [])
    return [(run, key) for run, key in cells if run in frame.index and key in frame.columns]


def _has_mean(frame: pd.DataFrame, key: str) -> bool:
    """Whether a last value can be left out, because every run has the mean over the last epoch.

    It cannot if a last value is NaN, which the mean of the finite values would hide."""
    if any(key == column for _, column in _nan_cells(frame)):
        return False
    mean = EPOCH_LOSS + key.removeprefix("loss/").removesuffix("/raw")
    return mean in frame.columns and bool((frame[key].isna() | frame[mean].notna()).all())


def _sorted(frame: pd.DataFrame, sort: str) -> pd.DataFrame:
    labels = dict(zip(frame.columns, labels_of(frame), strict=True))
    found = [key for key in frame.columns if sort in (key, labels[key])]
    if not found:
        # "ssim" stands for best/ssim.
        found = [key for key in frame.columns if re.split("[./]", key)[-1] == sort]
        found = [key for key in found if key.startswith("best/")] or found
    if len(found) > 1:
        raise RunError(f"--sort {sort} may mean {' or '.join(found)}; give one of these.")
    if not found:
        raise RunError(
            f"--sort {sort} is not a column of the comparison." + did_you_mean(sort, frame.columns)
        )
    values = frame[found[0]]
    if values.dtype != object:
        ascending = not _more_is_better(frame, found[0])
        return frame.loc[values.sort_values(ascending=ascending, kind="stable").index]
    # A weight may be a number in one run and the text of a schedule in another.
    is_missing = values.isna()
    known = sorted(values[~is_missing].items(), key=lambda run: (isinstance(run[1], str), run[1]))
    return frame.loc[[name for name, _ in known] + list(frame.index[is_missing])]


def _more_is_better(frame: pd.DataFrame, key: str) -> bool:
    """Whether the largest value of a column is the best one."""
    own_lower = frame.attrs.get(LOWER_IS_BETTER, ())
    return key.startswith(("val/", "best/", "test/")) and not is_lower_better(key, own_lower)


def labels_of(frame: pd.DataFrame) -> list[str]:
    """The headings of the columns: the last parts of the key of an option, "mean G_L1" for the mean
    of a loss, "share G_L1" for its share of the gradient, and otherwise the key."""
    options = [key for key in frame.columns if key.partition(".")[0] in Config.model_fields]
    short = dict(zip(options, short_keys(options), strict=True))
    return [_label(str(key), short) for key in frame.columns]


def _label(key: str, short: Mapping[str, str]) -> str:
    if key.startswith("train.loss."):
        return key.removeprefix("train.")
    if key.startswith(EPOCH_LOSS):
        return f"mean {key.removeprefix(EPOCH_LOSS)}"
    if GRADIENT_SERIES.fullmatch(key):
        return f"share {key.removeprefix('gradient/').removesuffix('/share')}"
    return short.get(key, key)


def best_in(frame: pd.DataFrame, key: str) -> Any:
    """Which rows have the best value of a column, an array of bool ``(runs,)``; none if the values
    are equal or have no best one."""
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
        form: "md" for a Markdown table; "csv" for full precision; "json" for a list of objects,
            with null for values that are missing or not finite.
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
    """A frame of `compare_runs` as tables for a terminal.

    There is one column per run if that fits, otherwise one row per run in one or more tables. Only
    the parts in which the names of the runs differ are shown. The best value of a metric is marked,
    and the epoch of a best value follows it in parentheses.

    Args:
        frame: The frame.
        width: Width of the terminal in characters.
    """
    cells = _cells(frame)
    if len(cells.columns) > len(cells):
        across = cells.T
        # Values of a run may be wrapped between words.
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
    """The text of each cell, with short names of runs; options and best values come first."""
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
    values = ("val/", "test/", "loss/", "gradient/", EPOCH_LOSS)
    first = [key for key in shown.columns if not key.startswith(values)]
    order = first + [key for key in shown.columns if key not in first]
    shown = shown[order].rename(columns=labels)
    shown.index = distinct_parts(list(map(str, frame.index)))[1]
    return shown


def _width_of(cells: pd.DataFrame, wrapped: bool = False) -> int:
    """The width of a table, or with ``wrapped`` its smallest possible width."""
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
        caption="* best value" if is_marked else None,
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
    # The type stubs do not allow `object`, but isna accepts any value.
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]


def _plain(value: Any) -> object:
    """A value for JSON; a float32 as the number with the fewest digits that equals it."""
    import pandas as pd

    if pd.isna(value) or value in (np.inf, -np.inf):
        return None
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value
