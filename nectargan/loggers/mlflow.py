"""The MLflow sink: one MLflow run per run directory."""

from __future__ import annotations

import json
import logging
import math
import os
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nectargan.credentials import without_credentials
from nectargan.errors import RunError
from nectargan.files import replacing
from nectargan.loggers.base import Point, RunStatus
from nectargan.loggers.epoch_files import EXAMPLES
from nectargan.loggers.ledger import LOSSES_FILE, METRICS_FILE

log = logging.getLogger("nectargan")

RUN_FILE = "mlflow_run.json"

_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
# What MLflow answers when it will never take something, in contrast to an outage.
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
_MARK_TAG = "nectargan.mark"
_FILES = ("config.json", LOSSES_FILE, METRICS_FILE)


def default_tracking_uri(output_directory: Path) -> str:
    """The store that needs no server: ``mlflow.db``, SQLite, in the output directory."""
    return f"sqlite:///{(output_directory.resolve() / 'mlflow.db').as_posix()}"


def remember_run(directory: Path, known: Mapping[str, str] | None) -> None:
    """Writes down which MLflow run is that of a run directory, if the directory does not say so
    itself any more; raises OSError."""
    path = directory / RUN_FILE
    if known is not None and not path.exists():
        _write_json(path, {"mark": "", "run_id": known["run_id"]})


def check_reachable(tracking_uri: str) -> None:
    """Raises `RunError` unless a server or database answers."""
    try:
        _client(tracking_uri).search_experiments(max_results=1)
    except Exception as error:
        # MLflow, its database driver and its network may raise anything.
        reason = without_credentials(" ".join(str(error).split()))[:200]
        uri = without_credentials(tracking_uri)
        raise RunError(f"MLflow cannot be reached at '{uri}': {reason}.") from None


def _client(tracking_uri: str) -> Any:
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    if tracking_uri.startswith("http"):
        # MLflow's own defaults block a call for up to four minutes; we come back anyway.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri)


class MLflowSink:
    """Sends a run's record to MLflow, in synchronous batches.

    Args:
        tracking_uri: Server or database.
        experiment: Name of the experiment; made if there is none.
        directory: The run directory; its name is the run's. The config, the CSV files and the
            examples in it become artifacts.
        params: The run's parameters.
        tags: The run's tags.
        every_n_steps: Steps from one point of a loss to the next.

    Attributes:
        run_id: The id of the MLflow run, once there is one.
    """

    name = "MLflow"

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        directory: Path,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        every_n_steps: int = 50,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.tracking_uri = tracking_uri
        self.run_id: str | None = None
        self._experiment = experiment
        self._directory = directory.resolve()
        self._params = {key: str(value) for key, value in (params or {}).items()}
        self._tags = dict(tags or {})
        self._client: Any = None
        self._late_tags: deque[tuple[str, str]] = deque()
        self._last_steps: dict[str, int] = {}
        self._nonfinite: dict[str, set[int]] = {}

    def open(self, first_step: int) -> None:
        """Makes the run under its experiment, or goes on with the one of an earlier process."""
        self._client = _client(self.tracking_uri)
        if self.run_id is None:
            self.run_id = self._find()
        if self.run_id is None:
            self.run_id = self._create()
        else:
            # Whatever the cursor says: an earlier process may have died before it wrote it.
            self._client.update_run(self.run_id, status="RUNNING")
            self._note_what_is_there()
        self._log_params()
        self._keep(self._directory / _FILES[0])

    def _find(self) -> str | None:
        """The id of the run directory's MLflow run, if an earlier process made one."""
        try:
            known = json.loads((self._directory / RUN_FILE).read_text(encoding="utf-8"))
            mark, run_id = str(known["mark"]), known["run_id"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if run_id is None:
            # It died between the two lines of `_create`: its run has the mark among its tags.
            query = f"tags.`{_MARK_TAG}` = '{mark}'"
            found = self._client.search_runs([self._experiment_id()], query)
            run_id = found[0].info.run_id if found else None
        return None if run_id is None else str(run_id)

    def _create(self) -> str:
        path, mark = self._directory / RUN_FILE, uuid.uuid4().hex
        _write_json(path, {"mark": mark, "run_id": None})
        tags = {**self._tags, _MARK_TAG: mark}
        run = self._client.create_run(
            self._experiment_id(), run_name=self._directory.name, tags=tags
        )
        _write_json(path, {"mark": mark, "run_id": run.info.run_id})
        return str(run.info.run_id)

    def _note_what_is_there(self) -> None:
        """Remembers the last step of each key: there is no public way to delete a point."""
        keys = self._client.get_run(self.run_id).data.metrics
        for key in keys:
            history = self._client.get_metric_history(self.run_id, key)
            self._last_steps[key] = max(metric.step for metric in history)

    def _log_params(self) -> None:
        """Logs new parameters. A changed one keeps its first value, and gets a tag: MLflow lets
        nobody change a parameter."""
        from mlflow.entities import Param, RunTag

        there = self._client.get_run(self.run_id).data.params
        params = [Param(key, value) for key, value in self._params.items() if key not in there]
        self._log("params", params, _PARAMS_PER_CALL)
        changed = [
            RunTag(f"changed.{key}", value)
            for key, value in self._params.items()
            if there.get(key, value) != value
        ]
        self._log("tags", changed, _PARAMS_PER_CALL)

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            try:
                return str(
                    self._client.create_experiment(self._experiment, self._artifact_location())
                )
            except MlflowException:
                # Another run made it in the same moment; if not, the look-up says what is wrong.
                experiment = self._client.get_experiment_by_name(self._experiment)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _artifact_location(self) -> str | None:
        """``mlartifacts`` beside an SQLite file; MLflow's own default would be under whatever
        directory the process happens to run in."""
        if not self.tracking_uri.startswith("sqlite:///"):
            return None
        database = Path(self.tracking_uri.removeprefix("sqlite:///")).resolve()
        return (database.parent / "mlartifacts" / self._experiment).as_uri()

    def write(self, points: Sequence[Point]) -> None:
        """Logs the points with the ledger's times, so that a batch sent twice adds nothing.

        Infinities stay in the CSV: MLflow would store them as 1.8e308. It gets the series
        ``nonfinite/<name>`` instead, how often the loss was NaN or infinite so far. Steps that the
        run had of a series when it was resumed are not sent again.
        """
        from mlflow.entities import Metric

        metrics = [
            Metric(p.series, p.value, p.time, p.step)
            for p in [*points, *self._counts_of_nonfinite(points)]
            if not math.isinf(p.value) and p.step > self._last_steps.get(p.series, -1)
        ]
        self._log("metrics", metrics, _METRICS_PER_CALL)
        self._send_tags()

    def tag(self, key: str, value: str) -> None:
        """Sets a tag, soon. The one method that may be called from any thread."""
        self._late_tags.append((key, value))

    def _send_tags(self) -> None:
        while self._late_tags:
            self._client.set_tag(self.run_id, *self._late_tags[0])
            self._late_tags.popleft()

    def _log(self, kind: str, entities: Sequence[Any], per_call: int) -> None:
        """Logs metrics, params or tags. One that MLflow refuses is left out, with a warning, and
        takes along nothing else that comes in the same call."""
        from mlflow.exceptions import MlflowException

        for i in range(0, len(entities), per_call):
            part = entities[i : i + per_call]
            try:
                self._client.log_batch(self.run_id, **{kind: part})
            except MlflowException as error:
                if error.error_code not in _REFUSED:
                    raise
                if len(part) > 1:
                    self._log(kind, part, (len(part) + 1) // 2)
                    continue
                reason = " ".join(str(error).split())[:200]
                log.warning("MLflow refuses %s '%s': %s", kind, part[0].key, reason)

    def _counts_of_nonfinite(self, points: Sequence[Point]) -> list[Point]:
        """How often each loss was NaN or infinite up to a step, for each step in which it was."""
        counts = []
        for point in points:
            kind, _, name = point.series.partition("/")
            name, _, value = name.rpartition("/")
            if kind == "loss" and value == "raw" and not math.isfinite(point.value):
                # By step: the same points may come again after a failure.
                steps = self._nonfinite.setdefault(name, set())
                steps.add(point.step)
                count = float(sum(step <= point.step for step in steps))
                counts.append(Point(f"nonfinite/{name}", count, point.step, point.time))
        return counts

    def add_file(self, kind: str, path: Path, step: int) -> None:
        """Keeps a picture as an artifact."""
        if kind == EXAMPLES:
            self._keep(path, kind)

    def close(self, status: RunStatus, reason: str) -> None:
        """Uploads the files as they are at the end, and sets the status, its reason as a tag."""
        for name in _FILES:
            self._keep(self._directory / name)
        self._send_tags()
        if reason:
            self._client.set_tag(self.run_id, "reason", reason)
        self._client.set_terminated(self.run_id, status)

    def _keep(self, path: Path, folder: str | None = None) -> None:
        """Uploads a file, if it is there; one that MLflow refuses is left out with a warning."""
        from mlflow.exceptions import MlflowException

        if not path.exists():
            return
        try:
            self._client.log_artifact(self.run_id, str(path), folder)
        except MlflowException as error:
            if error.error_code not in (*_REFUSED, "PERMISSION_DENIED"):
                raise
            log.warning("MLflow refuses '%s': %s", path.name, " ".join(str(error).split())[:200])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")
