"""Reads the record of runs as pandas frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nectargan.analysis.run_changes import changes_of
from nectargan.analysis.sources import (
    LedgerSource,
    RunLike,
    Source,
    ancestors_of,
    is_several,
    open_sources,
    open_with_lineage,
    readable,
)
from nectargan.analysis.tables import schema_of
from nectargan.errors import RunError
from nectargan.metrics import is_lower_better
from nectargan.record.last_values import last_epoch_means, last_step
from nectargan.record.run_directory import GRADIENTS_FILE, LOSSES_FILE, METRICS_FILE
from nectargan.record.test_record import read_tests

EPOCH_LOSS = "epoch/loss/"
# Keys in ``attrs`` of a frame of runs: which of its values are NaN and not missing, and which of
# the user's own metrics are better if they are lower.
NAN_CELLS = "nan"
LOWER_IS_BETTER = "lower_is_better"

if TYPE_CHECKING:
    import pandas as pd

    from nectargan.config.schema import Config


def load_losses(
    runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None, lineage: bool = False
) -> pd.DataFrame:
    """Reads every loss of one or more runs, one row per loss and step.

    The frame has the same columns wherever it is read from:

    ============ ======== ==========================================================
    ``run``      category name of the run; only for a list of runs, or a pattern
    ``step``     int64    update of the generator, from 1
    ``epoch``    int64    from 1; 0 if TensorBoard or MLflow does not know it
    ``time``     int64    Unix time in milliseconds
    ``loss``     category name of the loss
    ``raw``      float32  what the loss function returned
    ``weight``   float32  the weight that was applied
    ``weighted`` float32  their product
    ============ ======== ==========================================================

    Rows are in the order of runs and steps. Within a step they are in the order of computation, or
    sorted by name if they come from TensorBoard or MLflow. Those have only the steps of their
    stride, and the epoch of a step is taken from the last point of the series ``epoch``.

    Args:
        runs: A run directory; a pattern such as ``"runs/*"`` for all matching run directories;
            ``"mlflow:<run id>"``; a directory with TensorBoard's event files; or a list of these.
            ``~`` and ``$NAME`` are replaced as in a shell. A run may still be in progress.
        mlflow_uri: MLflow server or database; by default the one in ``MLFLOW_TRACKING_URI``, else
            ``runs/mlflow.db``.
        lineage: Whether the rows of a fork begin with those of its parent up to the fork. Only run
            directories have them.

    Raises:
        RunError: there is no such run, its record is damaged, MLflow cannot be reached, or
            ``lineage`` is asked of another kind of run than a run directory.
    """
    return _frame_of(runs, mlflow_uri, lineage, LOSSES_FILE)


def load_gradients(
    runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None, lineage: bool = False
) -> pd.DataFrame:
    """Reads the gradients of one or more runs, one row per loss and recorded step.

    Columns ``run``, ``step``, ``epoch``, ``time`` and ``loss`` as from `load_losses`, and:

    ============ ======== ==========================================================
    ``norm``     float32  L2 norm of the weighted loss's gradient at a generated image
    ``share``    float32  this norm over the sum of the norms of all losses, in [0, 1]
    ``cosine``   float32  cosine to the sum of the gradients of the other losses
    ============ ======== ==========================================================

    MLflow has the means of epochs, TensorBoard the steps of its stride.

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.
        lineage: As for `load_losses`.

    Raises:
        RunError: as from `load_losses`; or the gradients of the run were not recorded. Of several
            runs, those without gradients are left out with a warning.
    """
    return _frame_of(runs, mlflow_uri, lineage, GRADIENTS_FILE)


def load_metrics(
    runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None, lineage: bool = False
) -> pd.DataFrame:
    """Reads every measurement of one or more runs: learning rates, validation, times.

    Columns ``run``, ``step``, ``epoch`` and ``time`` as from `load_losses`, ``metric`` (category)
    and ``value`` (float32). MLflow may have further series, such as the use of the machine.

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.
        lineage: As for `load_losses`.

    Raises:
        RunError: as from `load_losses`.
    """
    return _frame_of(runs, mlflow_uri, lineage, METRICS_FILE)


def load_runs(runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None) -> pd.DataFrame:
    """Reads one row per run: its status, its config, its last and best values.

    The index ``run`` has the names of the runs. Columns:

    - ``source``: where it was read from; ``status`` (category; missing if it is not known) and
      ``reason``; ``epoch`` and ``step``, the last ones on record, 0 for none;
    - ``parent``, if a run is a fork: name of the parent, and the epoch or step of the checkpoint;
    - ``changes``, if a run was resumed or forked with other options: the first epoch, old and new
      values;
    - every option of the present config under its dotted key, such as ``train.loss.G_L1``, with
      schedules in their one-line notation; missing for a run without a config;
    - the last value of series: ``loss/<name>/raw``, its mean over the last complete epoch,
      ``epoch/loss/<name>``, and ``val/<metric>`` (float32);
    - ``gradient/<name>/share`` (float32): the mean over the last epoch on record, if gradients were
      recorded;
    - ``best/<metric>`` (float32) and ``best/<metric>_epoch`` (Int64) of every validation metric;
    - ``test/<metric>`` (float32), measured by ``nectargan test`` on the split ``test``, and
      ``test/<split>/<metric>`` on other splits.

    The last and best values of a fork are those of its whole record, with the rows of its parent.

    Args:
        runs: As for `load_losses`.
        mlflow_uri: As for `load_losses`.

    Raises:
        RunError: as from `load_losses`.
        ConfigError: the config of a run cannot be read.
    """
    from nectargan.config.dotted import dotted

    return frame_of_runs(open_sources(runs, mlflow_uri, lineage=True), dotted)


def frame_of_runs(
    sources: Sequence[Source], options_of: Callable[[Config], Mapping[str, Any]]
) -> pd.DataFrame:
    """As `load_runs`, with the options that ``options_of`` returns for a config."""
    import pandas as pd

    own_lower: set[str] = set()
    read = readable(sources, lambda source: _row(source, options_of, own_lower))
    sources, rows = [source for source, _ in read], [row for _, row in read]
    # All columns of any run; within each kind, in the order of their first appearance.
    columns = [dict.fromkeys(key for row in rows for key in row[kind]) for kind in range(3)]
    flat = [{key: value for kind in row for key, value in kind.items()} for row in rows]
    index = pd.Index([source.name for source in sources], name="run")
    frame = pd.DataFrame(flat, index, [key for kind in columns for key in kind])
    types = {"status": "category", "reason": "str"}
    for key in columns[2]:
        types[key] = "Int64" if key.endswith("_epoch") else "float32"
    frame = frame.astype(types)
    # In a float column a value that is NaN looks the same as a missing one.
    frame.attrs[NAN_CELLS] = [
        (source.name, key)
        for source, row in zip(sources, rows, strict=True)
        for key, value in row[2].items()
        if not key.endswith("_epoch") and math.isnan(value)
    ]
    frame.attrs[LOWER_IS_BETTER] = sorted(own_lower)
    return frame


def losses_of(source: Source) -> pd.DataFrame:
    """As `load_losses`, for one source."""
    return _frame([source], LOSSES_FILE, several=False)


def gradients_of(source: Source) -> pd.DataFrame:
    """As `load_gradients`, for one source."""
    return _frame([source], GRADIENTS_FILE, several=False)


def metrics_of(source: Source) -> pd.DataFrame:
    """As `load_metrics`, for one source; empty if it has no metrics."""
    if isinstance(source, LedgerSource) and not source.directory.metrics.exists():
        frame: pd.DataFrame = schema_of(METRICS_FILE).empty_table().to_pandas()
        return frame
    return _frame([source], METRICS_FILE, several=False)


def _frame_of(
    runs: RunLike | Sequence[RunLike], mlflow_uri: str | None, lineage: bool, file: str
) -> pd.DataFrame:
    sources = open_with_lineage(runs, mlflow_uri, lineage)
    return _frame(sources, file, is_several(runs))


def _frame(sources: Sequence[Source], file: str, several: bool) -> pd.DataFrame:
    import pyarrow as pa

    read = readable(sources, lambda source: list(parts_of(source, file)))
    table = pa.concat_tables(
        [named(part, source.name) if several else part for source, parts in read for part in parts]
    )
    del read
    # Each column is freed once it is converted, so that the data is not in memory twice.
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def parts_of(source: Source, file: str, as_text: bool = False) -> Iterator[Any]:
    """The tables of a source; the first one is empty and has the columns."""
    yield schema_of(file, as_text).empty_table()
    yield from source.tables(file, as_text)


def named(table: Any, name: str) -> Any:
    """The table with a first column ``run``."""
    import numpy as np
    import pyarrow as pa

    codes = pa.array(np.zeros(len(table), np.int32))
    return table.add_column(0, "run", pa.DictionaryArray.from_arrays(codes, pa.array([name])))


def _row(
    source: Source, options_of: Callable[[Config], Mapping[str, Any]], own_lower: set[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What is known of a run: its status, its config, its values."""
    status, reason = source.status()
    config = source.config()
    own_lower |= config.validation.own_lower_is_better if config else set()
    step, epoch, losses = _last_losses(source)
    stand: dict[str, Any] = {"source": source.place, "status": status or None, "reason": reason}
    stand |= {"epoch": epoch, "step": step}
    for ancestor in ancestors_of(source)[-1:]:
        stand["parent"] = str(ancestor)
    if isinstance(source, LedgerSource) and (changes := changes_of(source.directory)):
        stand["changes"] = "; ".join(map(str, changes))
    values = {f"loss/{name}/raw": raw for name, raw in losses.items()}
    return (
        stand,
        dict(options_of(config)) if config else {},
        values | _last_shares(source) | _last_metrics(source, own_lower) | _tests(source),
    )


def _tests(source: Source) -> dict[str, float]:
    """The values that ``nectargan test`` measured."""
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
    """Step, epoch and raw losses of the last recorded step."""
    if isinstance(source, LedgerSource):
        return last_step(source.directory)
    frame = losses_of(source)
    last = frame[frame["step"] == frame["step"].max()]
    if last.empty:
        return 0, 0, {}
    raw = dict(zip(last["loss"], last["raw"], strict=True))
    return int(last["step"].iloc[0]), int(last["epoch"].iloc[0]), raw


def _last_shares(source: Source) -> dict[str, float]:
    """The mean share of each loss in the last epoch with gradients; empty if there is none."""
    if isinstance(source, LedgerSource):
        means = last_epoch_means(source.directory.gradients)
    else:
        try:
            frame = gradients_of(source)
        except RunError:
            return {}
        at = frame["epoch" if frame["epoch"].any() else "step"]  # epochs may not be known
        last = frame[at == at.max()]
        means = last.groupby("loss", observed=True, sort=False)["share"].mean().to_dict()
    return {f"gradient/{loss}/share": share for loss, share in means.items()}


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
