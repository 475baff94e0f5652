"""Logs the generator of a run as an MLflow model."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nectargan.credentials import public_address
from nectargan.loggers.mlflow.client import RunClient, as_default
from nectargan.loggers.mlflow.metadata import DatasetMetadata, ModelExport
from nectargan.record.ledger import MetricRow, read_rows
from nectargan.record.run_directory import RunDirectory
from nectargan.wording import one_line

log = logging.getLogger("nectargan")

_VERSIONS_TAG = "mlflow.modelVersions"
_NOTE_TAG = "mlflow.note.content"
_STEP_TAG, _EARLIER_STEP_TAG = "model_step", "nectargan.model_step"
_MOST_CHARACTERS = 5000  # in the description of a registered model, a limit of MLflow
_NO_NAME = re.compile(r"[/:.%\"']")  # not allowed in the name of a model


def log_model(
    run: RunClient,
    directory: RunDirectory,
    export: ModelExport,
    datasets: Sequence[DatasetMetadata],
    tracking_uri: str,
    register: str | None,
) -> None:
    """Logs the generator to a run, unless the run has the model of the same step.

    The model is saved as a `torch.export` program, which can be loaded without NectarGAN. If the
    generator cannot be exported, it is left out with a warning.

    Args:
        run: The run.
        directory: The run directory.
        export: How to export the model.
        datasets: The data sets of the run.
        tracking_uri: Server or database of the run.
        register: Name in the model registry under which the model becomes a new version.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run([*export.command, folder])
        except subprocess.CalledProcessError as error:
            reason = one_line(error.stderr)[-300:] or f"exit code {error.returncode}"
            log.warning("The generator cannot be logged as a model: %s", reason)
            return
        about = json.loads((Path(folder) / export.about_file).read_text("utf-8"))
        logged = run.client.get_run(run.run_id)
        tags = logged.data.tags
        if tags.get(_STEP_TAG, tags.get(_EARLIER_STEP_TAG)) == str(about["step"]):
            return
        model = run.client.create_logged_model(
            logged.info.experiment_id,
            _NO_NAME.sub("_", directory.resolve().name),
            source_run_id=run.run_id,
            model_type="image-to-image",
            params={"step": str(about["step"]), "checkpoint": about["checkpoint"]},
        )
        path = Path(folder) / export.model_folder
        _add_ids(path, model, run.run_id)
        run.client.log_model_artifacts(model.model_id, str(path))
    run.client.finalize_logged_model(model.model_id, "READY")
    _link(run, model.model_id, about["step"])
    _log_metrics(run, model.model_id, directory, about["step"], datasets)
    note = _note(directory.resolve().name, model.model_id, about, tracking_uri)
    run.client.set_logged_model_tags(model.model_id, {_NOTE_TAG: note})
    if register is not None:
        _register(run, model.model_id, register, note, tracking_uri)
    run.tag(_STEP_TAG, str(about["step"]))


def _run(command: Sequence[str]) -> None:
    """Runs a command. If this call is interrupted, the command is killed."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # The command finds the same modules as this process.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    stderr = None
    try:
        while stderr is None:
            # Waits for a short time only, so that this thread can be interrupted.
            with suppress(subprocess.TimeoutExpired):
                _, stderr = process.communicate(timeout=1.0)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command), stderr=stderr)


def _add_ids(path: Path, model: Any, run_id: str) -> None:
    """Writes the ids of the logged model and of its run into a saved model."""
    from mlflow.models import Model

    saved = Model.load(str(path))
    saved.artifact_path, saved.run_id = model.artifact_location, run_id
    saved.model_id = saved.model_uuid = model.model_id
    saved.save(str(path / "MLmodel"))


def _link(run: RunClient, model_id: str, step: int) -> None:
    from mlflow.entities import LoggedModelOutput

    run.client.log_outputs(run.run_id, [LoggedModelOutput(model_id, step)])


def _log_metrics(
    run: RunClient,
    model_id: str,
    directory: RunDirectory,
    step: int,
    datasets: Sequence[DatasetMetadata],
) -> None:
    """Links the validation metrics of a step with the model and the data set. The run has these
    points already; MLflow does not store them twice."""
    from mlflow.entities import Metric

    data = next((each for each in datasets if each.context == "validation"), None)
    source = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
    rows = [
        row
        for row in read_rows(directory.metrics, MetricRow)
        if row.step == step and row.metric.startswith("val/")
    ]
    run.log(
        "metrics",
        [
            Metric(row.metric, row.value, row.time, row.step, model_id=model_id, **source)
            for row in rows
        ],
    )


def _note(name: str, model_id: str, about: dict[str, Any], tracking_uri: str) -> str:
    channels, height, width = about["input"]
    usage = textwrap.dedent(f"""\
        The generator of run {name}, from its checkpoint {about["checkpoint"]}. It takes images
        `(N, {channels}, H, W)`, float32 in [0, 1], of any size ({height} x {width} in training),
        and returns images of the same kind and size.

        ```python
        import mlflow
        import torch

        mlflow.set_tracking_uri({public_address(tracking_uri)!r})
        model = mlflow.pytorch.load_model("models:/{model_id}")
        images = torch.rand(1, {channels}, {height}, {width})
        generated = model(images)
        ```
        """)
    note = f"{usage}\n{about['card']}\n"
    # MLflow may reject a longer description.
    return note if len(note) <= _MOST_CHARACTERS else usage


def _register(run: RunClient, model_id: str, name: str, note: str, tracking_uri: str) -> None:
    from mlflow.exceptions import MlflowException

    with as_default(tracking_uri):
        try:
            run.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = run.client.create_model_version(
            name, f"models:/{model_id}", run_id=run.run_id, model_id=model_id, description=note
        )
    # Without this tag, the page of the model says "Not registered".
    versions = [{"name": name, "version": str(version.version)}]
    run.client.set_logged_model_tags(model_id, {_VERSIONS_TAG: json.dumps(versions)})
