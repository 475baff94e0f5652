"""The generator of a run as a model in MLflow."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nectargan.errors import NectarGANError
from nectargan.loggers.mlflow_client import RunClient, as_default, one_line
from nectargan.loggers.mlflow_facts import ExportedModel

log = logging.getLogger("nectargan")

MODEL_NAME = "generator"

_VERSIONS_TAG = "mlflow.modelVersions"
_MODEL_TAG, _STEP_TAG = "nectargan.model", "nectargan.model_step"


def log_model(
    run: RunClient,
    export: Callable[[], ExportedModel | None],
    tracking_uri: str,
    register: str | None,
) -> None:
    """Logs a model to a run, once for each step that its weights may be from.

    It is saved as an exported program: loading it needs torch alone and runs no code of ours. One
    that cannot be exported is left out with a warning.

    Args:
        run: The run.
        export: Makes the model; ``None`` if there is none.
        tracking_uri: Of the run's store.
        register: Name in the model registry under which it becomes a version.
    """
    try:
        exported = export()
    except NectarGANError as error:
        log.warning("The generator cannot be logged as a model: %s", error)
        return
    told = run.client.get_run(run.run_id)
    if exported is None or told.data.tags.get(_STEP_TAG) == str(exported.step):
        return
    with tempfile.TemporaryDirectory() as folder:
        model = run.client.create_logged_model(
            told.info.experiment_id,
            MODEL_NAME,
            source_run_id=run.run_id,
            model_type="image-to-image",
            params={"step": str(exported.step), "checkpoint": exported.checkpoint},
        )
        path = Path(folder) / "model"
        try:
            _save(exported, path, model, run.run_id)
        except Exception as error:
            # Exporting runs the whole of torch's compiler front end, which may raise anything.
            run.client.finalize_logged_model(model.model_id, "FAILED")
            log.warning("The generator cannot be logged as a model: %s", one_line(error)[:300])
            return
        run.client.log_model_artifacts(model.model_id, str(path))
    run.client.finalize_logged_model(model.model_id, "READY")
    _link(run, model.model_id, exported.step)
    if register is not None:
        _register(run, model.model_id, register, tracking_uri)
    run.tag(_MODEL_TAG, model.model_id)
    run.tag(_STEP_TAG, str(exported.step))


def _save(exported: ExportedModel, path: Path, model: Any, run_id: str) -> None:
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        generated = exported.module(torch.from_numpy(exported.example)).numpy()

    def spec(images: Any) -> Schema:
        return Schema([TensorSpec(np.dtype("float32"), (-1, *images.shape[1:]))])

    mlflow.pytorch.save_model(
        exported.module,
        str(path),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
        signature=ModelSignature(spec(exported.example), spec(generated)),
        input_example=exported.example,
        serialization_format="pt2",
        # Told, because MLflow would load the model in another process to find them out.
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
    )


def _link(run: RunClient, model_id: str, step: int) -> None:
    from mlflow.entities import LoggedModelOutput

    run.client.log_outputs(run.run_id, [LoggedModelOutput(model_id, step)])


def _register(run: RunClient, model_id: str, name: str, tracking_uri: str) -> None:
    from mlflow.exceptions import MlflowException

    with as_default(tracking_uri):
        try:
            run.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = run.client.create_model_version(
            name, f"models:/{model_id}", run_id=run.run_id, model_id=model_id
        )
    # Without it the page of the model calls it "Not registered".
    versions = [{"name": name, "version": str(version.version)}]
    run.client.set_logged_model_tags(model_id, {_VERSIONS_TAG: json.dumps(versions)})
