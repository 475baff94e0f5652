"""The MLflow sink: one MLflow run per run directory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nectargan.loggers.base import EXAMPLES_FOLDER, Point, RunStatus
from nectargan.loggers.ledger import LOSSES_FILE, METRICS_FILE

_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
_FILES = ("config.json", LOSSES_FILE, METRICS_FILE)


def default_tracking_uri(output_directory: Path) -> str:
    """The store that needs no server: ``mlflow.db``, SQLite, in the output directory."""
    return f"sqlite:///{(output_directory.resolve() / 'mlflow.db').as_posix()}"


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

    def open(self) -> None:
        """Makes the run, under its experiment, and logs the parameters."""
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        if self.tracking_uri.startswith("http"):
            # MLflow's own defaults block a call for up to four minutes; we come back anyway.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self.tracking_uri)
        if self.run_id is None:
            run = self._client.create_run(
                self._experiment_id(), run_name=self._directory.name, tags=self._tags
            )
            self.run_id = run.info.run_id
        params = [Param(key, value) for key, value in self._params.items()]
        for i in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=params[i : i + _PARAMS_PER_CALL])
        config = self._directory / _FILES[0]
        if config.exists():
            self._client.log_artifact(self.run_id, str(config))

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

        Infinities stay in the CSV alone: MLflow would store them as 1.8e308.
        """
        from mlflow.entities import Metric

        metrics = [Metric(p.series, p.value, p.time, p.step) for p in points]
        metrics = [metric for metric in metrics if not math.isinf(metric.value)]
        for i in range(0, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[i : i + _METRICS_PER_CALL])

    def add_example(self, picture: Path, step: int) -> None:
        """Keeps the grid as an artifact."""
        self._client.log_artifact(self.run_id, str(picture), EXAMPLES_FOLDER)

    def close(self, status: RunStatus) -> None:
        """Uploads the files as they are at the end, and sets the status."""
        for name in _FILES:
            path = self._directory / name
            if path.exists():
                self._client.log_artifact(self.run_id, str(path))
        self._client.set_terminated(self.run_id, status)
