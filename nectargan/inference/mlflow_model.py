"""The generator of a run, saved as a model of MLflow: a program of its own.

    python -m nectargan.inference.mlflow_model RUN FOLDER

`torch.export` changes global state of torch for as long as it works. Within the process that
trains, on a thread of a sink, it changed the last digits of what was trained at the same time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.build import height_and_width
from nectargan.config.config_manager import ConfigManager
from nectargan.credentials import without_credentials
from nectargan.errors import CheckpointError, NectarGANError
from nectargan.inference.card import describe_training
from nectargan.inference.export import compare, sizes_of_one_are_free
from nectargan.models.image_to_image import ImageToImage
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import check_generator_trust, generator_of, load_checkpoint


def save_model(directory: RunDirectory, folder: Path) -> None:
    """Writes ``folder/model``, which MLflow can load, and ``folder/about.json`` about it.

    Takes the best checkpoint of a run, else the last. Batch, height and width are free.

    Raises:
        CheckpointError: there is none.
        ExportError: the model that was saved does not do what the network does.
        RunError: the generator would have to be imported, and is not trusted.
    """
    best, checkpoints = directory.best_checkpoint, directory.list_checkpoints()
    if not checkpoints:
        raise CheckpointError(f"'{directory}' holds no checkpoint.")
    path = best if best.exists() else checkpoints[-1]
    content = load_checkpoint(path)
    check_generator_trust(content, path)
    model = ImageToImage(generator_of(content, path)).eval()
    config = ConfigManager(content["config"]).data
    channels = config.dataloader.load.input_nc
    height, width = height_and_width(config.dataloader.load.crop_size)
    # A smooth ramp: the data may be gone by now.
    ramp = torch.linspace(0, 1, height * width).view(1, 1, height, width)
    example = ramp.expand(2, channels, -1, -1).contiguous()
    _save(model, example, folder / "model", content.get("values"))
    compare(_saved(folder / "model"), model, example)
    about = {
        "step": content["step"],
        "checkpoint": path.name,
        "input": [channels, height, width],
        "card": describe_training(config, directory, content["epoch"]),
    }
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _save(
    model: nn.Module, example: Tensor, path: Path, values: dict[str, Any] | None = None
) -> None:
    import mlflow.pytorch
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        generated = model(example)

    def spec(images: Tensor) -> Schema:
        return Schema([TensorSpec(np.dtype("float32"), (-1, images.shape[1], -1, -1))])

    with sizes_of_one_are_free():
        mlflow.pytorch.save_model(
            model,
            str(path),
            signature=ModelSignature(spec(example), spec(generated)),
            input_example=example.numpy(),
            serialization_format="pt2",
            metadata=None if values is None else {"value_mappings": values},
            # Told, because MLflow would load the model in another process to find them out.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )


def _saved(path: Path) -> Callable[[Tensor], Tensor]:
    import mlflow.pytorch

    loaded: Callable[[Tensor], Tensor] = mlflow.pytorch.load_model(str(path))
    return loaded


if __name__ == "__main__":
    try:
        save_model(RunDirectory(sys.argv[1]), Path(sys.argv[2]))
    except NectarGANError as error:
        sys.exit(without_credentials(str(error)))
