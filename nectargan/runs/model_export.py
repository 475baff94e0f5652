"""The generator of a run, saved as a model of MLflow: a program of its own.

    python -m nectargan.runs.model_export RUN FOLDER

`torch.export` changes global state of torch for as long as it works. Within the process that
trains, on a thread of a sink, it changed the last digits of what was trained at the same time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.build import height_and_width
from nectargan.credentials import without_credentials
from nectargan.errors import CheckpointError, NectarGANError
from nectargan.models.image_to_image import ImageToImage
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import check_generator_trust, generator_of, load_checkpoint

_TOLERANCE = 1e-4


def save_model(directory: RunDirectory, folder: Path) -> None:
    """Writes ``folder/model``, which MLflow can load, and ``folder/about.json`` about it.

    Takes the best checkpoint of a run, else the last. Batch, height and width are free, as far as
    the network takes them.

    Raises:
        CheckpointError: there is none, or the model that was saved does not do what the network
            does.
        RunError: the generator would have to be imported, and is not trusted.
    """
    best, checkpoints = directory.best_checkpoint, directory.list_checkpoints()
    if not checkpoints:
        raise CheckpointError(f"'{directory}' holds no checkpoint.")
    path = best if best.exists() else checkpoints[-1]
    content = load_checkpoint(path)
    check_generator_trust(content, path)
    model = ImageToImage(generator_of(content, path)).eval()
    load = content["config"]["dataloader"]["load"]
    height, width = height_and_width(load["crop_size"])
    # A smooth ramp: the data may be gone by now.
    ramp = torch.linspace(0, 1, height * width).view(1, 1, height, width)
    example = ramp.expand(2, load["input_nc"], -1, -1).contiguous()
    _save(model, example, folder / "model")
    _compare(model, example, folder / "model")
    about = {
        "step": content["step"],
        "checkpoint": path.name,
        "input": [load["input_nc"], height, width],
        "multiple": getattr(model.generator, "multiple", 1),
    }
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _save(model: nn.Module, example: Tensor, path: Path) -> None:
    import mlflow.pytorch
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        generated = model(example)

    def spec(images: Tensor) -> Schema:
        return Schema([TensorSpec(np.dtype("float32"), (-1, images.shape[1], -1, -1))])

    with _sizes_of_one_are_free():
        mlflow.pytorch.save_model(
            model,
            str(path),
            signature=ModelSignature(spec(example), spec(generated)),
            input_example=example.numpy(),
            serialization_format="pt2",
            # Told, because MLflow would load the model in another process to find them out.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )


def _sizes_of_one_are_free() -> AbstractContextManager[object]:
    """A side that shrinks to one pixel in the middle of the network stays free; by default, torch
    takes a 1 for a constant, and the model would take no image of the smallest size."""
    from torch.fx.experimental import _config

    changes: Mapping[str, Any] = {"backed_size_oblivious": True}
    context: AbstractContextManager[object] = _config.patch(changes)  # type: ignore[attr-defined]
    return context


def _compare(model: ImageToImage, example: Tensor, path: Path) -> None:
    """Raises `CheckpointError` unless the saved model gives what the network gives, at the size
    that it was made with and at the smallest."""
    import mlflow.pytorch

    saved = mlflow.pytorch.load_model(str(path))
    smallest = getattr(model.generator, "smallest", None)
    small = example[:1, :, :smallest, :smallest]
    for images in (example, *([small] if smallest else [])):
        with torch.no_grad():
            difference = (saved(images) - model(images)).abs().max().item()
        if not difference <= _TOLERANCE:
            raise CheckpointError(
                f"the exported model differs from the network by {difference:.2g} on images of "
                f"{images.shape[2]} x {images.shape[3]}"
            )


if __name__ == "__main__":
    try:
        save_model(RunDirectory(sys.argv[1]), Path(sys.argv[2]))
    except NectarGANError as error:
        sys.exit(without_credentials(str(error)))
