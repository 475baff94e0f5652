"""Generators that runs logged to MLflow as models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nectargan.analysis.sources import MLFLOW
from nectargan.analysis.trackers import MLflowSource, tracking_uri
from nectargan.build_values import ValueMappings
from nectargan.config.schema import Config
from nectargan.credentials import without_credentials
from nectargan.errors import CheckpointError, RunError
from nectargan.loggers.mlflow.client import as_default, connect
from nectargan.runs.checkpoint import mappings_in
from nectargan.wording import one_line

MODELS = "models:/"


class LoggedModel(NamedTuple):
    """A generator from MLflow.

    Attributes:
        name: A short name.
        config: The config that it was trained with.
        forward: Maps ``(N, C, H, W)`` of any size to generated images, both float32 in [-1, 1].
        values: How the values of files become those of the network; ``None`` for plain 8-bit
            images.
    """

    name: str
    config: Config
    forward: Callable[[Tensor], Tensor]
    values: ValueMappings | None = None


def load_logged_model(source: str, device: torch.device) -> LoggedModel:
    """Downloads the generator of an MLflow run, or one of the model registry, and loads it.

    The MLflow that is asked is that in ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``. Only
    exported programs are loaded, which MLflow finds free of pickled objects.

    Args:
        source: ``mlflow:<run id>``, for the model that was logged last; ``models:/NAME/VERSION``,
            ``models:/NAME@ALIAS`` or ``models:/<model id>``.
        device: Where to compute.

    Raises:
        RunError: MLflow cannot be reached, or has no such run or model.
        CheckpointError: the model cannot be read, or NectarGAN did not log it.
    """
    uri = tracking_uri(None)
    run_id, model = _find(source, uri)
    source_run = MLflowSource(run_id, uri)
    config = source_run.config()
    if config is None:
        raise CheckpointError(f"'{source}' cannot be used: its MLflow run has no config.json.")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import artifacts

    with tempfile.TemporaryDirectory() as folder:
        try:
            with as_default(uri):
                path = artifacts.download_artifacts(
                    artifact_uri=model, dst_path=folder, tracking_uri=uri
                )
            program = _open(Path(path), device)
            values = mappings_in(_metadata_of(Path(path)), source)
        except CheckpointError:
            raise
        except Exception as error:
            # MLflow, its stores of artifacts and torch's reader may raise anything.
            reason = without_credentials(one_line(error))[:200].rstrip(".")
            raise CheckpointError(f"'{source}' cannot be read: {reason}.") from None

    def forward(batch: Tensor) -> Tensor:
        generated: Tensor = program((batch + 1) / 2)
        return generated * 2 - 1

    name = source_run.name if source.startswith(MLFLOW) else source.removeprefix(MODELS)
    return LoggedModel(name, config, forward, values)


def _metadata_of(folder: Path) -> dict[str, Any]:
    """What was noted with a model that was downloaded."""
    from mlflow.models import Model

    found = (Model.load(str(folder)).metadata or {}).get("value_mappings")
    return {"values": found}


def _find(source: str, uri: str) -> tuple[str, str]:
    """The run of a model, and the model's own address."""
    if source.startswith(MLFLOW):
        run_id = source.removeprefix(MLFLOW)
        MLflowSource(run_id, uri)  # says what is wrong
        client = connect(uri)
        models = _asked(source, _models_of_run, client, run_id)
        if not models:
            raise RunError(
                f"'{source}' has no model in MLflow: none was logged (logging.mlflow.log_model), "
                "or the run has not ended; name its run directory instead."
            )
        newest = max(models, key=lambda each: each.creation_timestamp)
        return run_id, f"{MODELS}{newest.model_id}"
    client = connect(uri)
    found: tuple[str, str] = _asked(source, _registered, client, source.removeprefix(MODELS))
    return found


def _models_of_run(client: Any, run_id: str) -> list[Any]:
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return [each for each in found if str(each.status).endswith("READY")]


def _registered(client: Any, name: str) -> tuple[str, str]:
    if "/" in name:
        version = client.get_model_version(*name.rsplit("/", 1))
    elif "@" in name:
        version = client.get_model_version_by_alias(*name.rsplit("@", 1))
    else:
        return str(client.get_logged_model(name).source_run_id), f"{MODELS}{name}"
    # That of the version itself would be asked of MLflow's default registry.
    address = f"{MODELS}{version.model_id}" if version.model_id else str(version.source)
    return str(version.run_id), address


def _asked(source: str, question: Callable[..., Any], client: Any, *arguments: str) -> Any:
    try:
        return question(client, *arguments)
    except Exception as error:
        # MLflow, its database driver and its network may raise anything.
        reason = without_credentials(one_line(error))[:200].rstrip(".")
        raise RunError(f"'{source}' cannot be found in MLflow: {reason}.") from None


def _open(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    import mlflow.pytorch

    files = sorted(folder.rglob("*.pt2"))
    if len(files) != 1:
        raise CheckpointError(
            "The model is no exported program (.pt2), which is what NectarGAN logs; one of "
            "another kind could run code of anybody's when it is loaded, and is not."
        )
    # It refuses pickled objects.
    program: Callable[[Tensor], Tensor] = mlflow.pytorch.load_model(str(folder))
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(torch.export.load(files[0]), device).module()
    return program
