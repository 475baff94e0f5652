"""The record of runs as pandas frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nectargan.analysis.last_values import last_step
from nectargan.analysis.run_changes import changes_of
from nectargan.analysis.sources import (
    LedgerSource,
    RunLike,
    Source,
    is_several,
    open_sources,
    readable,
)
from nectargan.analysis.tables import schema_of
from nectargan.metrics import is_lower_better
from nectargan.record.run_directory import LOSSES_FILE, METRICS_FILE
from nectargan.record.test_record import read_tests

EPOCH_LOSS = "epoch/loss/"
# Where a frame of runs keeps which of its values are NaN and not missing, in ``attrs``.
NAN_CELLS = "nan"
# ... and names of the metrics of one's own of which less is better.
LOWER_IS_BETTER = "lower_is_better"

if TYPE_CHECKING:
    import pandas as pd

    from nectargan.config.schema import Config


def load_losses(runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None) -> pd.DataFrame:
    """Every loss of one or more runs, a row per loss and step.

    The frame has the same columns wherever it is read from:

    ============ ======== ==========================================================
    ``run``      category name of the run; only for a list of runs, or a pattern
    ``step``     int64    update of the generator, from 1
    ``epoch``    int64    from 1; 0 where a sink does not know it
    ``time``     int64    Unix time in milliseconds
    ``loss``     category name of the loss
    ``raw``      float32  what the loss function returned
    ``weight``   float32  the weight that was applied
    ``weighted`` float32  their product
    ============ ======== ==========================================================

    Rows are in the order of runs and steps; within a step as they were computed, or by name where
    they come from a sink. TensorBoard and MLflow have the steps of their stride alone, and their
    epoch is that of the last point of the series ``epoch`` up to a step. MLflow has no infinities:
    ``raw`` and ``weighted`` are NaN there.

    Args:
        runs: A run directory; a pattern, ``"runs/*"``, for the run directories among its matches;
            ``"mlflow:<run id>"``; a directory with TensorBoard's event files; or a list of these.
            ``~`` and ``$NAME`` are replaced as in a shell. A run that is still in progress is read
            as far as it has come.
        mlflow_uri: MLflow server or database; without one, that in ``MLFLOW_TRACKING_URI``, else
            ``runs/mlflow.db``.

    Raises:
        RunError: there is no such run, its record is damaged, or MLflow cannot be reached.
    """
    return _frame(open_sources(runs, mlflow_uri), LOSSES_FILE, is_several(runs))


def load_metrics(runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None) -> pd.DataFrame:
    """Every measurement of one or more runs: learning rates, validation, times.

    Columns ``run``, ``step``, ``epoch`` and ``time`` as from `load_losses`, ``metric`` (category)
    and ``value`` (float32). Sinks may have series of their own beside those of ``metrics.csv``.

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.

    Raises:
        RunError: as from `load_losses`.
    """
    return _frame(open_sources(runs, mlflow_uri), METRICS_FILE, is_several(runs))


def load_runs(runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None) -> pd.DataFrame:
    """One row a run: how it stands, its config, its last and best values.

    The index ``run`` has the names of the runs. Columns:

    - ``source``: where it was read from; ``status`` (category; missing where it is not known) and
      ``reason``; ``epoch`` and ``step``, the last ones on record, 0 for none;
    - ``changes``, if a run was resumed with other options: from which epoch on, old and new values;
    - every option of the config, as it is now, under its dotted key, ``train.loss.G_L1``,
      schedules in their one-line notation; missing for a run without a config;
    - the last value of series: ``loss/<name>/raw``, its mean over the last whole epoch,
      ``epoch/loss/<name>``, and ``val/<metric>`` (float32);
    - ``best/<metric>`` (float32) and ``best/<metric>_epoch`` (Int64) of every metric of validation;
    - ``test/<metric>`` (float32) of what ``nectargan test`` measured on the split ``test``,
      ``test/<split>/<metric>`` on another split.

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.

    Raises:
        RunError: as from `load_losses`.
        ConfigError: the config of a run cannot be read.
    """
    from nectargan.config.dotted import dotted

    return frame_of_runs(open_sources(runs, mlflow_uri), dotted)


def frame_of_runs(
    sources: Sequence[Source], options_of: Callable[[Config], Mapping[str, Any]]
) -> pd.DataFrame:
    """As `load_runs`, with the options that ``options_of`` finds in a config."""
    import pandas as pd

    own_lower: set[str] = set()
    read = readable(sources, lambda source: _row(source, options_of, own_lower))
    sources, rows = [source for source, _ in read], [row for _, row in read]
    # The union of all columns, each kind in the order of its first appearance.
    columns = [dict.fromkeys(key for row in rows for key in row[kind]) for kind in range(3)]
    flat = [{key: value for kind in row for key, value in kind.items()} for row in rows]
    index = pd.Index([source.name for source in sources], name="run")
    frame = pd.DataFrame(flat, index, [key for kind in columns for key in kind])
    types = {"status": "category", "reason": "str"}
    for key in columns[2]:
        types[key] = "Int64" if key.endswith("_epoch") else "float32"
    frame = frame.astype(types)
    # A table of numbers cannot tell a value that is NaN from one that is not there.
    frame.attrs[NAN_CELLS] = [
        (source.name, key)
        for source, row in zip(sources, rows, strict=True)
        for key, value in row[2].items()
        if not key.endswith("_epoch") and math.isnan(value)
    ]
    frame.attrs[LOWER_IS_BETTER] = sorted(own_lower)
    return frame


def losses_of(source: Source) -> pd.DataFrame:
    """As `load_losses`, of one source."""
    return _frame([source], LOSSES_FILE, several=False)


def metrics_of(source: Source) -> pd.DataFrame:
    """As `load_metrics`, of one source; empty where there is no such record."""
    if isinstance(source, LedgerSource) and not source.directory.metrics.exists():
        frame: pd.DataFrame = schema_of(METRICS_FILE).empty_table().to_pandas()
        return frame
    return _frame([source], METRICS_FILE, several=False)


def _frame(sources: Sequence[Source], file: str, several: bool) -> pd.DataFrame:
    import pyarrow as pa

    read = readable(sources, lambda source: list(parts_of(source, file)))
    table = pa.concat_tables(
        [named(part, source.name) if several else part for source, parts in read for part in parts]
    )
    del read
    # Columns are freed as soon as they are converted: both kinds are never there as a whole.
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def parts_of(source: Source, file: str, as_text: bool = False) -> Iterator[Any]:
    """The tables of a source; the first is empty and has the columns, whatever comes."""
    yield schema_of(file, as_text).empty_table()
    yield from source.tables(file, as_text)


def named(table: Any, name: str) -> Any:
    """A table with the name of its run in front."""
    import numpy as np
    import pyarrow as pa

    codes = pa.array(np.zeros(len(table), np.int32))
    return table.add_column(0, "run", pa.DictionaryArray.from_arrays(codes, pa.array([name])))


def _row(
    source: Source, options_of: Callable[[Config], Mapping[str, Any]], own_lower: set[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What is known of a run: how it stands, its config, its values."""
    status, reason = source.status()
    config = source.config()
    own_lower |= config.validation.own_lower_is_better if config else set()
    step, epoch, losses = _last_losses(source)
    stand: dict[str, Any] = {"source": source.place, "status": status or None, "reason": reason}
    stand |= {"epoch": epoch, "step": step}
    if isinstance(source, LedgerSource) and (changes := changes_of(source.directory)):
        stand["changes"] = "; ".join(map(str, changes))
    values = {f"loss/{name}/raw": raw for name, raw in losses.items()}
    return (
        stand,
        dict(options_of(config)) if config else {},
        values | _last_metrics(source, own_lower) | _tests(source),
    )


def _tests(source: Source) -> dict[str, float]:
    """What ``nectargan test`` measured."""
    if isinstance(source, LedgerSource):
        records = read_tests(source.directory)
        return {key: value for record in records for key, value in record.series.items()}
    frame = metrics_of(source)
    found = frame[frame["metric"].astype(str).str.startswith("test/")]
    return {
        str(key): float(points["value"].iloc[-1])
        for key, points in found.groupby("metric", observed=True, sort=False)
    }


def _last_losses(source: Source) -> tuple[int, int, dict[str, float]]:
    """Step, epoch and raw losses of the last step on record."""
    if isinstance(source, LedgerSource):
        return last_step(source.directory.losses)
    frame = losses_of(source)
    last = frame[frame["step"] == frame["step"].max()]
    if last.empty:
        return 0, 0, {}
    raw = dict(zip(last["loss"], last["raw"], strict=True))
    return int(last["step"].iloc[0]), int(last["epoch"].iloc[0]), raw


def _last_metrics(source: Source, own_lower: Collection[str]) -> dict[str, Any]:
    frame = metrics_of(source)
    values: dict[str, Any] = {}
    bests: dict[str, Any] = {}
    for metric, points in frame.groupby("metric", observed=True, sort=False):
        if str(metric).startswith(("val/", EPOCH_LOSS)):
            values[str(metric)] = points["value"].iloc[-1]
        if not str(metric).startswith("val/"):
            continue
        finite = points["value"][points["value"].abs() < float("inf")]
        if not finite.empty:
            is_lower = is_lower_better(str(metric), own_lower)
            best: Any = finite.idxmin() if is_lower else finite.idxmax()
            name = f"best/{str(metric).removeprefix('val/')}"
            bests |= {name: finite[best], f"{name}_epoch": points["epoch"][best]}
    return values | bests
