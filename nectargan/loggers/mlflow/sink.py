"""The MLflow sink: one MLflow run per run directory."""

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
from nectargan.loggers.mlflow.run import RunFinder, read_run_file
from nectargan.loggers.mlflow.system_metrics import SystemMetrics
from nectargan.record.points import Point
from nectargan.record.run_directory import RunDirectory, RunStatus
from nectargan.wording import one_line

log = logging.getLogger("nectargan")

CHANGED_TAG = "changed_parameters"
_THUMBNAIL = 1024  # pixels in the image grid; details are lost at the 256 of MLflow


class MLflowSink:
    """Sends a run's record to MLflow, in synchronous batches.

    Args:
        tracking_uri: Server or database.
        experiment: Name of the experiment; made if there is none.
        directory: The run directory; its name is the run's. The config and the CSV files in it
            become artifacts.
        metadata: What the run is told besides its points.
        every_n_steps: Steps from one point of a loss, their mean, to the next.
        group: Name of a parent run, made or found, to list the run under.
        system_metrics: Whether the use of this machine is logged as well.
        register_model: Name in the model registry for the model of ``metadata``.

    Attributes:
        run_id: The id of the MLflow run, once there is one.
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
        """Id and place of the MLflow run; ``None`` before there is one."""
        if self.run_id is None:
            return None
        return {"run_id": self.run_id, "uri": public_address(self.tracking_uri)}

    def open(self, first_step: int) -> int | None:
        """Makes the run under its experiment, or goes on with the one of an earlier process.

        There is no public way to delete a point. So if MLflow has one that the ledger has not, of a
        process that was killed past the checkpoint that the run goes on from, everything is sent to
        a new run; the old one is moved to the deleted ones.
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
                log.warning("%s", _why_anew(check, old.info.run_id))
            elif check.lacks:
                begin = 0
        elif read_run_file(self._directory):
            log.warning("MLflow has no run of '%s': a new one gets everything.", self._directory)
        if run is None:
            begin = 0
            note = {"mlflow.note.content": self._metadata.note} if self._metadata.note else {}
            run = finder.create({**self._metadata.tags, **note}, self._group, old)
        else:
            # Whatever the cursor says: an earlier process may have died before it wrote it.
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
        """Asks MLflow, point by point."""
        client = connect(self.tracking_uri)
        finder = RunFinder(client, self.tracking_uri, self._experiment, self._directory)
        run = finder.find()
        if run is None or run.info.status != status:
            return False
        finder.note_place(run)
        check = check_run(client, run, self._directory, self.every_n_steps)
        return not check.differs and not check.lacks

    def _log_params(self) -> None:
        """Logs new parameters. A changed one keeps its first value, and a tag says what it is now:
        MLflow lets nobody change a parameter."""
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
            # The same input of the same run is kept once, however often it is sent.
            self._run.client.log_inputs(self.run_id, inputs)

    def _draw(self, pictures: Mapping[str, Draw]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, draw in pictures.items():
                try:
                    draw(Path(folder) / name)
                except Exception as error:
                    # A missing figure must not block the sink.
                    log.warning("MLflow gets no %s: %s", name, one_line(error)[:200])
                self._run.keep(Path(folder) / name)

    def write(self, points: Sequence[Point]) -> None:
        """Logs the points with the ledger's times, so that a batch sent twice adds nothing."""
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
        """Adds a picture to the image grid, under its kind.

        MLflow's own call would give it another random name each time. This name depends on kind and
        step alone: a picture that is sent again, by a resumed run say, replaces the first.
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
                log.warning("MLflow gets no '%s': %s", path, one_line(error)[:200])
                return
            for file in sorted(Path(folder).iterdir()):
                self._run.keep(file, IMAGES)
        self._run.tag("mlflow.loggedImages", "True")

    def close(self, status: RunStatus, reason: str) -> None:
        """Uploads what is known at the end, and sets the status, its reason as a tag."""
        if self._system is not None:
            self._system.stop()
        run = self._directory
        for file in (run.config, run.losses, run.metrics, run.loss_tags):
            self._run.keep(file)
        if reason:
            self._run.tag("reason", reason)
        self._run.client.set_terminated(self.run_id, status, self._last_time or None)
        # The rest takes its time, and may be cut off: the status is true already.
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


def _why_anew(check: Check, run_id: str) -> str:
    what = f"other points than the CSV files ({check.differs})"
    if not check.differs:
        what = "single steps of an earlier version in place of means"
    return (
        f"MLflow has {what}, and takes nothing back: everything is sent to a new run, and run "
        f"{run_id} is moved to the deleted ones."
    )
