"""The MLflow sink writes one MLflow run per run directory."""

from __future__ import annotations

import json
import logging
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from nectargan.credentials import public_address
from nectargan.defaults import MLFLOW_EVERY_N_STEPS
from nectargan.loggers.mlflow.check import IMAGES, PICTURES, Check, check_run, stored
from nectargan.loggers.mlflow.client import RunClient, connect
from nectargan.loggers.mlflow.metadata import DatasetMetadata, Draw, RunMetadata
from nectargan.loggers.mlflow.model import log_model
from nectargan.loggers.mlflow.run import RunFinder
from nectargan.loggers.mlflow.run_file import read_run_file
from nectargan.loggers.mlflow.system_metrics import SystemMetrics
from nectargan.record.points import Point
from nectargan.record.run_directory import RunDirectory, RunStatus
from nectargan.wording import one_line

log = logging.getLogger("nectargan")

CHANGED_TAG = "changed_parameters"
_THUMBNAIL = 1024  # pixels in the image grid; with 256, as MLflow does it, details are lost


class MLflowSink:
    """Sends the record of a run to MLflow, in synchronous batches.

    Args:
        tracking_uri: Server or database.
        experiment: Name of the experiment; created if it does not exist.
        directory: The run directory. The MLflow run gets its name; the config and the CSV files
            in it become artifacts.
        metadata: What is logged besides the points.
        every_n_steps: Steps between two points of a loss; each is the mean of these steps.
        group: Name of a parent run under which the run is listed; created if it does not exist.
        system_metrics: Whether to log the use of CPU, memory, disk and GPU.
        register_model: Name under which the model of ``metadata`` is registered.

    Attributes:
        run_id: The id of the MLflow run; ``None`` before `open`.
    """

    name = "MLflow"
    takes_means = True

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        directory: str | PathLike[str],
        metadata: RunMetadata | None = None,
        every_n_steps: int = MLFLOW_EVERY_N_STEPS,
        group: str | None = None,
        system_metrics: bool = False,
        register_model: str | None = None,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.tracking_uri = tracking_uri
        self.run_id: str | None = None
        self._experiment = experiment
        self._directory = RunDirectory(directory).resolve()
        self._metadata = RunMetadata() if metadata is None else metadata
        self._group = group
        self._register_model = register_model
        self._wants_system = system_metrics and find_spec("psutil") is not None
        self._system: SystemMetrics | None = None
        self._run: Any = None
        self._last_time = 0

    @property
    def reference(self) -> dict[str, str] | None:
        """Id and address of the MLflow run; ``None`` before `open`."""
        if self.run_id is None:
            return None
        return {"run_id": self.run_id, "uri": public_address(self.tracking_uri)}

    def open(self, first_step: int) -> int | None:
        """Creates the MLflow run, or continues that of an earlier process.

        If a process is killed, MLflow may have points after the checkpoint from which the run is
        resumed. MLflow has no public function to delete points. In this case everything is sent to
        a new run, and the old run is deleted; MLflow can restore it.
        """
        client = connect(self.tracking_uri)
        finder = RunFinder(client, self.tracking_uri, self._experiment, self._directory)
        run: Any = finder.find()
        begin: int | None = None
        old: Any = None
        if run is not None:
            check = check_run(client, run, self._directory, self.every_n_steps, first_step)
            if check.differs or check.is_old:
                run, old = None, run
                log.warning("%s", _new_run_reason(check, old.info.run_id))
            elif check.lacks:
                begin = 0
        elif read_run_file(self._directory):
            log.warning("MLflow has no run of '%s'; everything is sent again.", self._directory)
        if run is None:
            begin = 0
            note = {"mlflow.note.content": self._metadata.note} if self._metadata.note else {}
            run = finder.create({**self._metadata.tags, **note}, self._group, old)
        else:
            # Always, because an earlier process may have died before it wrote the cursor.
            finder.claim(run)
        finder.set_aside_old(run)
        self.run_id = str(run.info.run_id)
        self._run = RunClient(client, self.run_id)
        self._log_params()
        self._log_datasets(self._metadata.datasets)
        self._draw(self._metadata.first_pictures)
        self._run.keep(self._directory.config)
        if self._wants_system:
            self._system = SystemMetrics(self.tracking_uri, self.run_id)
            self._system.keep_going()
        return begin

    def has_everything(self, status: RunStatus) -> bool:
        """Compares the MLflow run with the ledger, point by point."""
        client = connect(self.tracking_uri)
        finder = RunFinder(client, self.tracking_uri, self._experiment, self._directory)
        run = finder.find()
        if run is None or run.info.status != status:
            return False
        finder.note_place(run)
        check = check_run(client, run, self._directory, self.every_n_steps)
        return not check.differs and not check.lacks

    def _log_params(self) -> None:
        """Logs new parameters. A parameter cannot be changed in MLflow, so a tag lists the changed
        ones with their new values."""
        from mlflow.entities import Param, RunTag

        data = self._run.client.get_run(self.run_id).data
        mine = {key: str(value) for key, value in self._metadata.params.items()}
        new = [Param(key, value) for key, value in mine.items() if key not in data.params]
        self._run.log("params", new)
        pairs = [(key, data.params.get(key, value), value) for key, value in mine.items()]
        changed = "; ".join(f"{key}: {old} → {now}" for key, old, now in pairs if old != now)
        if changed != data.tags.get(CHANGED_TAG, ""):
            self._run.log("tags", [RunTag(CHANGED_TAG, changed or "none any more")])

    def _log_datasets(self, datasets: Sequence[DatasetMetadata]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=each.name,
                    digest=each.digest,
                    source_type="local",
                    source=json.dumps({"uri": each.path}),
                    profile=json.dumps(dict(each.profile)),
                ),
                [InputTag("mlflow.data.context", each.context)],
            )
            for each in datasets
        ]
        if inputs:
            # MLflow stores the same input of a run once, even if it is sent again.
            self._run.client.log_inputs(self.run_id, inputs)

    def _draw(self, pictures: Mapping[str, Draw]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, draw in pictures.items():
                try:
                    draw(Path(folder) / name)
                except Exception as error:
                    # A missing figure must not block the sink.
                    log.warning("%s cannot be drawn for MLflow: %s", name, one_line(error)[:200])
                self._run.keep(Path(folder) / name)

    def write(self, points: Sequence[Point]) -> None:
        """Logs points with their times in the ledger; sending a batch again changes nothing."""
        from mlflow.entities import Metric

        metrics = [Metric(p.series, p.value, p.time, p.step) for p in stored(points)]
        self._run.log("metrics", metrics)
        self._last_time = max(self._last_time, *(point.time for point in points))
        if self._system is not None:
            self._system.keep_going()

    def tag(self, key: str, value: str) -> None:
        """Sets a tag."""
        self._run.tag(key, value)

    def add_file(self, kind: str, path: Path, step: int) -> None:
        """Adds an image to the image grid.

        The name of the file depends only on kind and step, so an image that is sent again, for
        example by a resumed run, replaces the first one. `MlflowClient.log_image` would use a
        random name.
        """
        from PIL import Image

        if kind not in PICTURES:
            return
        mark = uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {step}")
        name = f"{kind}+step+{step}+timestamp+{step}+{mark}"
        with tempfile.TemporaryDirectory() as folder:
            try:
                with Image.open(path) as picture:
                    picture.save(Path(folder) / f"{name}.png")
                    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
                    picture.save(Path(folder) / f"{name}+compressed.webp")
            except OSError as error:
                log.warning("'%s' cannot be sent to MLflow: %s", path, one_line(error)[:200])
                return
            for file in sorted(Path(folder).iterdir()):
                self._run.keep(file, IMAGES)
        self._run.tag("mlflow.loggedImages", "True")

    def close(self, status: RunStatus, reason: str) -> None:
        """Uploads the files of the run and sets the status; a tag contains the reason."""
        if self._system is not None:
            self._system.stop()
        run = self._directory
        for file in (
            *(run.config, run.losses, run.gradients, run.metrics, run.loss_tags, run.report),
        ):
            self._run.keep(file)
        if reason or "reason" in self._run.client.get_run(self.run_id).data.tags:
            self._run.tag("reason", reason)  # a resumed run may have that of its earlier end
        self._run.client.set_terminated(self.run_id, status, self._last_time or None)
        # What follows takes time and may be interrupted, so the status is set before.
        self._draw(self._metadata.last_pictures)
        if status == "FINISHED" and self._metadata.export is not None:
            log_model(
                self._run,
                self._directory,
                self._metadata.export,
                self._metadata.datasets,
                self.tracking_uri,
                self._register_model,
            )


def _new_run_reason(check: Check, run_id: str) -> str:
    what = f"other points than the CSV files ({check.differs})"
    if not check.differs:
        what = "single steps from an earlier version instead of means"
    return (
        f"MLflow has {what}, and points cannot be deleted: everything is sent to a new run, and "
        f"run {run_id} is deleted (MLflow can restore it)."
    )
