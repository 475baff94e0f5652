"""Reads a run from TensorBoard or MLflow, as tables with the columns of the ledgers."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nectargan.analysis.sources import MLFLOW, LedgerSource, read_config
from nectargan.analysis.tables import schema_of
from nectargan.credentials import public_address, without_credentials
from nectargan.errors import RunError
from nectargan.loggers.mlflow.check import INFINITE
from nectargan.loggers.mlflow.client import check_reachable, connect
from nectargan.loggers.mlflow.store import DATABASE, TRACKING_URI, database_of, find_store
from nectargan.output import printable
from nectargan.record.loss_tags import read_loss_tags
from nectargan.record.points import GRADIENT_SERIES
from nectargan.record.run_directory import EVENT_FILES, GRADIENTS_FILE, LOSSES_FILE, RunDirectory
from nectargan.wording import one_line

if TYPE_CHECKING:
    from nectargan.config.schema import Config

# Earlier versions called the weights ``weight/<name>``, and a resumed run may have both.
_LOSS = re.compile(r"loss/(?P<name>.+)/(?P<value>raw|weighted|weight)|weight/(?P<weighed>.+)")
_BY_LOSS = {LOSSES_FILE: _LOSS, GRADIENTS_FILE: GRADIENT_SERIES}


class Series(NamedTuple):
    """The points of one series as arrays ``(points,)``, sorted by step."""

    steps: Any  # int64
    times: Any  # int64, Unix time in milliseconds
    values: Any  # float32


class TensorBoardSource:
    """A directory with event files, without the points that a resumed run has replaced."""

    def __init__(self, directory: Path) -> None:
        # The sink writes its files to a folder of the run directory.
        self._home = RunDirectory(directory.resolve().parent)
        is_ours = directory.resolve() == self._home.tensorboard
        self.name = printable(self._home.name if is_ours else directory.resolve().name)
        self.place = printable(str(directory))
        self._directory = directory

    @cached_property
    def _series(self) -> dict[str, Series]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        if not any(self._directory.glob(EVENT_FILES)):
            raise RunError(f"'{self.place}' has no event files of TensorBoard.")
        # Every scalar, and as few as possible of the large summaries.
        sizes = {"scalars": 0, "images": 1, "histograms": 1, "compressedHistograms": 1}
        events = EventAccumulator(str(self._directory), size_guidance=sizes).Reload()
        series = {}
        for tag in events.Tags()["scalars"]:
            points = events.Scalars(tag)
            series[tag] = _series(
                [point.step for point in points],
                [round(point.wall_time * 1000) for point in points],
                [point.value for point in points],
            )
        return series

    def tables(
        self, file: str, as_text: bool = False, columns: Sequence[str] = ()
    ) -> Iterator[Any]:
        """The series with the columns of the ledger."""
        yield _table_of(file, as_text, self._series, self.place)

    def config(self) -> Config | None:
        """The config of the run directory that contains the event files, if there is one."""
        return LedgerSource(self._home).config()

    def status(self) -> tuple[str, str]:
        """The status of that run directory."""
        return LedgerSource(self._home).status()

    def tags(self) -> dict[str, list[str]] | None:
        """The tags of that run directory."""
        return LedgerSource(self._home).tags()


class MLflowSource:
    """A run on an MLflow server or in a database of MLflow.

    Args:
        run_id: The id of the run.
        uri: Server or database; see `tracking_uri`.

    Raises:
        RunError: MLflow cannot be reached, or it does not have this run.
    """

    def __init__(self, run_id: str, uri: str | None = None) -> None:
        uri = tracking_uri(uri)
        self._uri = public_address(uri)
        self._id = run_id
        self.place = MLFLOW + run_id
        database = database_of(uri)
        # MLflow would create a database that does not exist.
        if database is not None and not database.is_file():
            raise RunError(f"MLflow cannot be reached at '{self._uri}': there is no such file.")
        check_reachable(uri)
        self._client = connect(uri)
        self._run = self._ask("get_run", run_id)
        self.name = str(self._run.info.run_name or self.place)

    def _ask(self, method: str, *arguments: object) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return getattr(self._client, method)(*arguments)
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER"):
                reason = f"it has no run '{self._id}'"
            else:
                reason = without_credentials(one_line(error))[:200].rstrip(".")
            raise RunError(
                f"'{self.place}' cannot be read from MLflow at '{self._uri}': {reason}."
            ) from None

    @cached_property
    def _series(self) -> dict[str, Series]:
        series = {}
        for key in self._run.data.metrics:
            history = self._ask("get_metric_history", self._id, key)
            history.sort(key=lambda metric: (metric.step, metric.timestamp))
            series[key] = _series(
                [metric.step for metric in history],
                [metric.timestamp for metric in history],
                [metric.value for metric in history],
            )
        return _with_infinities(series)

    def tables(
        self, file: str, as_text: bool = False, columns: Sequence[str] = ()
    ) -> Iterator[Any]:
        """The series with the columns of the ledger."""
        yield _table_of(file, as_text, self._series, self.place)

    def config(self) -> Config | None:
        """The config among the run's artifacts."""
        with tempfile.TemporaryDirectory() as folder:
            path = self._artifact(RunDirectory(folder).config)
            return read_config(path) if path else None

    def status(self) -> tuple[str, str]:
        """The status in MLflow and the tag with its reason."""
        return str(self._run.info.status), str(self._run.data.tags.get("reason", ""))

    def tags(self) -> dict[str, list[str]] | None:
        """The tags among the run's artifacts."""
        with tempfile.TemporaryDirectory() as folder:
            path = self._artifact(RunDirectory(folder).loss_tags)
            return read_loss_tags(path) if path else None

    def _artifact(self, path: Path) -> Path | None:
        """Downloads the artifact with the name of ``path`` to its folder; ``None`` if there is
        none."""
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        if path.name not in [each.path for each in self._ask("list_artifacts", self._id)]:
            return None
        return Path(self._ask("download_artifacts", self._id, path.name, str(path.parent)))


def tracking_uri(uri: str | None) -> str:
    """The MLflow to read from: ``uri``, else ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``.

    Raises:
        RunError: there is none of them, or it is not an address.
    """
    here = Path("runs")
    if uri or os.environ.get(TRACKING_URI) or (here / DATABASE).exists():
        return find_store(uri, here).uri
    raise RunError(
        "No MLflow server was given; use --mlflow-uri, set MLFLOW_TRACKING_URI, or change to a "
        "directory with 'runs/mlflow.db'."
    )


def _series(steps: list[int], times: list[int], values: list[float]) -> Series:
    """A series with one point per step: the last one, which a resumed run has sent again."""
    step = np.asarray(steps, np.int64)
    time, value = np.asarray(times, np.int64), np.asarray(values, np.float64).astype(np.float32)
    is_last = np.append(step[1:] != step[:-1], True)[: len(step)]
    return Series(step[is_last], time[is_last], value[is_last])


def _with_infinities(series: dict[str, Series]) -> dict[str, Series]:
    """Merges infinite values, which MLflow has in separate series, into their series."""
    for key in [key for key in series if key.startswith(INFINITE)]:
        steps, times, signs = series.pop(key)
        key = key.removeprefix(INFINITE)
        finite = series.get(key, Series(steps[:0], times[:0], signs[:0]))
        infinite = Series(steps, times, signs * np.float32(np.inf))
        parts = zip(finite, infinite, strict=True)
        together = Series(*(np.concatenate(part) for part in parts))
        order = np.argsort(together.steps, kind="stable")
        series[key] = Series(*(part[order] for part in together))
    return series


def _table_of(file: str, as_text: bool, series: Mapping[str, Series], place: str) -> Any:
    import pyarrow as pa

    schema = schema_of(file, as_text)
    rows = _values_by_loss(series, file) if file in _BY_LOSS else _metrics(series)
    if file == GRADIENTS_FILE and rows.empty:
        raise RunError(f"'{place}' has no gradients: they were not recorded.")
    rows["epoch"] = _epochs(series.get("epoch"), rows["step"].to_numpy(np.int64))
    rows = rows.sort_values(["step", schema.names[3]])
    # From NumPy arrays, where NaN is a value. pandas would give it as a missing value.
    columns = [pa.array(rows[column].to_numpy()) for column in schema.names]
    return pa.table(columns, schema.names).cast(schema_of(file)).cast(schema)


def _values_by_loss(series: Mapping[str, Series], file: str) -> Any:
    """The rows of ``losses.csv`` or ``gradients.csv``, without epochs."""
    import pandas as pd

    pattern, columns = _BY_LOSS[file], schema_of(file).names[4:]
    parts: dict[str, dict[str, Any]] = {}
    for key, points in series.items():
        if match := pattern.fullmatch(key):
            found = match.groupdict()
            value = found["value"] or "weight"
            frame = pd.DataFrame({value: points.values, "time": points.times}, index=points.steps)
            mine = parts.setdefault(found["name"] or found["weighed"], {})
            mine[value] = frame.combine_first(mine[value]) if value in mine else frame
    frames = [pd.DataFrame(columns=["step", "time", "loss", *columns])]
    for name, values in parts.items():
        frame = pd.concat([each[value] for value, each in values.items()], axis=1)
        times = pd.concat([each["time"] for each in values.values()])
        frame["time"] = times[~times.index.duplicated()]
        frame = frame.reindex(columns=["time", *columns])
        frames.append(frame.rename_axis("step").reset_index().assign(loss=name))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def _metrics(series: Mapping[str, Series]) -> Any:
    import pandas as pd

    frames = [pd.DataFrame(columns=["step", "time", "metric", "value"])]
    for key, (steps, times, values) in series.items():
        if not any(pattern.fullmatch(key) for pattern in _BY_LOSS.values()):
            frames.append(
                pd.DataFrame({"step": steps, "time": times, "metric": key, "value": values})
            )
    return pd.concat(frames[1:] or frames, ignore_index=True)


def _epochs(series: Series | None, steps: Any) -> Any:
    """The epoch of each step, from the last point of the series ``epoch`` at or before the step.

    Steps before the first point get the epoch of that point. Without the series all epochs are 0.
    """
    if series is None or not len(series.steps):
        return np.zeros(len(steps), np.int64)
    at = np.searchsorted(series.steps, steps, side="right") - 1
    return series.values.astype(np.int64)[np.maximum(at, 0)]
