"""The generator of a run as a model in MLflow."""

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
_MOST_CHARACTERS = 5000  # of the description of a registered model, in MLflow's tables
_NO_NAME = re.compile(r"[/:.%\"']")  # what MLflow allows in no name of a model


def log_model(
    run: RunClient,
    directory: RunDirectory,
    export: ModelExport,
    datasets: Sequence[DatasetMetadata],
    tracking_uri: str,
    register: str | None,
) -> None:
    """Logs the generator to a run, once for each step that its weights may be from.

    It is saved as an exported program: loading it needs torch alone and runs no code of ours. One
    that cannot be exported is left out with a warning.

    Args:
        run: The run.
        directory: The run directory.
        export: Makes the model.
        datasets: What the run reads.
        tracking_uri: Of the run's store.
        register: Name in the model registry under which it becomes a version.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run([*export.command, folder])
        except subprocess.CalledProcessError as error:
            reason = one_line(error.stderr)[-300:] or f"exit code {error.returncode}"
            log.warning("The generator cannot be logged as a model: %s", reason)
            return
        about = json.loads((Path(folder) / export.about_file).read_text("utf-8"))
        told = run.client.get_run(run.run_id)
        tags = told.data.tags
        if tags.get(_STEP_TAG, tags.get(_EARLIER_STEP_TAG)) == str(about["step"]):
            return
        model = run.client.create_logged_model(
            told.info.experiment_id,
            _NO_NAME.sub("_", directory.resolve().name),
            source_run_id=run.run_id,
            model_type="image-to-image",
            params={"step": str(about["step"]), "checkpoint": about["checkpoint"]},
        )
        path = Path(folder) / export.model_folder
        _say_whose(path, model, run.run_id)
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
    """Runs a program to its end; it does not outlive this call, however that ends."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # The same modules as here, wherever they were found.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    said = None
    try:
        while said is None:
            # In short waits, so that a thread that is to end can.
            with suppress(subprocess.TimeoutExpired):
                _, said = process.communicate(timeout=1.0)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command), stderr=said)


def _say_whose(path: Path, model: Any, run_id: str) -> None:
    """Writes into a saved model which model of which run it is."""
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
    """Shows the validation of a step beside the model, with the data set that it is of. The points
    are those that the run has: MLflow keeps each once."""
    from mlflow.entities import Metric

    of = next((each for each in datasets if each.context == "validation"), None)
    source = {"dataset_name": of.name, "dataset_digest": of.digest} if of else {}
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
        and returns images alike.

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
    # A store may refuse a longer one.
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
    # Without it the page of the model calls it "Not registered".
    versions = [{"name": name, "version": str(version.version)}]
    run.client.set_logged_model_tags(model_id, {_VERSIONS_TAG: json.dumps(versions)})
