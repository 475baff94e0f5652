"""`Model`: a generator that was trained, wherever it is kept, ready to be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nectargan.build_values import ValueMappings
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ConfigError, DataError
from nectargan.images.mapping import ValueMapping
from nectargan.inference.exported import (
    IMAGE_SUFFIXES,
    Format,
    epoch_of,
    open_exported,
    read_safetensors,
)
from nectargan.models.padding import fitting_side, padded
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import (
    check_generator_trust,
    generator_of,
    load_checkpoint,
    mappings_in,
)
from nectargan.shell import expanded
from nectargan.trainers.devices import (
    autocast,
    memory_format,
    place,
    resolve_device,
    resolve_precision,
)

if TYPE_CHECKING:
    from nectargan.inference.pixels import PixelGenerator

_8_BITS = ("uint8", "int8")


@dataclass(frozen=True, eq=False)
class Model:
    """A trained generator; `load_model` makes one.

    Attributes:
        name: A short name, for tables.
        source: What it was loaded from, as the user named it.
        run: The run directory that it is in, where it is in one.
        checkpoint: The file that it was read from, where there is one.
        config: The config that it was trained with.
        epoch: Epochs it was trained for; ``None`` where that is not known.
        device: Where it computes.
        precision: "fp32", "bf16" or "fp16".
        forward: Maps ``(N, in_channels, H, W)``, of a size that it takes, to ``(N, out_channels, H,
            W)``; both float32 in [-1, 1] on the device.
        network: The generator if it is an `nn.Module`; else ``None``.
        multiple: Both sides must be a multiple of this number of pixels; `generate` pads.
        smallest: The least that a side can have, in pixels; `generate` pads.
        has_8_bits: Whether images pass through 8 bits, as in a file exported for uint8.
        values: How the values of files become those of the network, and back; ``None`` for a model
            of plain 8-bit images.
    """

    name: str
    source: str
    run: RunDirectory | None
    checkpoint: Path | None
    config: Config
    epoch: int | None
    device: torch.device
    precision: str
    forward: Callable[[Tensor], Tensor]
    network: nn.Module | None = None
    multiple: int = 1
    smallest: int = 1
    has_8_bits: bool = False
    values: ValueMappings | None = None

    @property
    def in_channels(self) -> int:
        """Channels of the images that it takes, 1 to 64; up to 4: grey, grey and alpha, RGB,
        RGBA."""
        return self.config.dataloader.load.input_nc

    @property
    def out_channels(self) -> int:
        """Channels of the generated images."""
        return self.config.dataloader.load.output_nc

    @property
    def input_values(self) -> ValueMapping | None:
        """The mapping of the images that it takes."""
        return None if self.values is None else self.values.input

    @property
    def output_values(self) -> ValueMapping | None:
        """The mapping of the generated images."""
        return None if self.values is None else self.values.target

    def __call__(self, images: Any) -> Any:
        """Generates an image for an image, or a list for a list, of any size and the same kind.

        Args:
            images: A PIL image, converted as in training, its alpha kept; a path, whose image is
                read likewise; a NumPy array ``(H, W, in_channels)``, ``(N, H, W, in_channels)`` or,
                for one channel, ``(H, W)``; a tensor ``(in_channels, H, W)`` or
                ``(N, in_channels, H, W)``; or a list of these. Arrays and tensors hold uint8 or
                uint16 over its whole range, or floats in [0, 1]. What does not fit into memory is
                generated in tiles. Of a model of other than plain 8-bit images, arrays and tensors
                hold values in the units of its inputs.

        Returns:
            The same kind, type and range; a PIL image for a path; a list for a list. Of a model of
            other than plain 8-bit images: values in the units of its targets, and an array for a
            path or a PIL image.

        Raises:
            DataError: it is no image, or has other channels.
        """
        from nectargan.inference.images import generate_images

        return generate_images(images, self._generate_pixels, self)

    @cached_property
    def _generate_pixels(self) -> PixelGenerator:
        from nectargan.inference.pixels import PixelGenerator

        return PixelGenerator(self)

    @torch.no_grad()
    def generate(self, batch: Tensor) -> Tensor:
        """Generated images for a batch.

        An image of a size that the network does not take is mirrored at its lower and right border
        as far as need be, and what is made of that is cut off again.

        Args:
            batch: ``(N, in_channels, H, W)``, float32 in [-1, 1], of any size, on any device.

        Returns:
            ``(N, out_channels, H, W)``, float32 in [-1, 1], on the model's device.

        Raises:
            DataError: ``batch`` has another shape.
        """
        if batch.dim() != 4 or batch.shape[1] != self.in_channels or not batch.numel():
            raise DataError(
                f"A batch of shape {tuple(batch.shape)} was given; '{self.name}' takes "
                f"(N, {self.in_channels}, H, W)."
            )
        height, width = batch.shape[-2:]
        fitting = [fitting_side(side, self.multiple, self.smallest) for side in (height, width)]
        made = self.forward(padded(batch.to(self.device), fitting[0], fitting[1]))
        return made.float()[..., :height, :width]


def load_model(
    source: str | PathLike[str],
    *,
    checkpoint: str | PathLike[str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    dropout: bool = False,
    trust: bool = False,
) -> Model:
    """Loads something that was trained, to be used::

        model = load_model("runs/facades_v1")
        model("photo.jpg").save("generated.png")

    Args:
        source: A run directory, for its best checkpoint if there is one, else its last; a
            checkpoint; what ``nectargan export`` wrote: ``.onnx``, ``.pt2``, ``.safetensors``;
            ``mlflow:<run id>``, for the model that the run logged; or ``models:/NAME/VERSION``.
            MLflow is that in ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``. Only a ``.pt2`` of
            somebody you trust: torch reads it with pickle.
        checkpoint: Another checkpoint of the run: "best", "last", the name of a file in
            ``checkpoints``, or a path.
        device: "auto" (CUDA, else MPS, else CPU), "cpu", "mps", "cuda" or "cuda:N".
        precision: "fp32", "bf16" or "fp16"; "auto" is bf16 where CUDA has it. As in training if it
            is left out, but "fp32" instead of "auto" for targets of more than 8 bits.
        dropout: Keep dropout on, as the paper does; it draws from torch's random numbers.
        trust: Import a generator that is none of NectarGAN's, whoever made the run; see
            `nectargan.load_generator`.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        ConfigError: this machine has no such device, or an exported model cannot do what is asked.
        ExportError: an ONNX model needs onnxruntime, which is not installed.
        RunError: the generator would have to be imported, and is not trusted.
    """
    named = os.fspath(source)
    if named.startswith(("mlflow:", "models:/")):
        return _of_mlflow(named, checkpoint, device, precision, dropout)
    path = _checkpoint_of(Path(expanded(named)), checkpoint)
    kind = IMAGE_SUFFIXES.get(path.suffix)
    if kind in ("onnx", "pt2"):
        return _of_exported(path, kind, named, device, precision, dropout)
    content = read_safetensors(path) if kind else load_checkpoint(path)
    if not trust:
        check_generator_trust(content, path, "pass trust=True (--trust in a command)")
    config = ConfigManager(content["config"]).data
    values = mappings_in(content, path)
    where, how = _place(device, precision or precision_for(config, values))
    run = RunDirectory(path.absolute().parent.parent)
    in_run = run.config.exists()
    chosen = checkpoint is not None or not Path(expanded(named)).is_dir()
    name = run.resolve().name if in_run else path.stem
    return Model(
        name=f"{name}/{path.stem}" if in_run and chosen else name,
        source=named,
        run=run if in_run else None,
        checkpoint=path,
        config=config,
        epoch=content["epoch"],
        device=where,
        precision=how,
        values=values,
        **_of_network(generator_of(content, path), config, where, how, dropout),
    )


def _checkpoint_of(path: Path, chosen: str | PathLike[str] | None) -> Path:
    """The file to read."""
    if path.is_file():
        if chosen is not None:
            raise CheckpointError(f"'{path}' is a file; a checkpoint is chosen in a run directory.")
        return path
    run = RunDirectory(path)
    found = run.list_checkpoints()
    if not found:
        if not path.is_dir():
            raise CheckpointError(f"'{path}' is neither a run directory nor a checkpoint.")
        raise CheckpointError(f"'{path}' holds no checkpoint.")
    best = run.best_checkpoint
    if chosen is None:
        return best if best.is_file() else found[-1]
    if os.fspath(chosen) == "last":
        return found[-1]
    places = (run.checkpoints / chosen, run.checkpoints / f"{os.fspath(chosen)}.pt", Path(chosen))
    for each in places:
        if each.is_file():
            return each
    names = ", ".join(sorted(each.name for each in run.checkpoints.glob("*.pt")))
    raise CheckpointError(f"'{run}' has no checkpoint '{chosen}'; there are {names}.")


def _of_exported(
    path: Path, kind: Format, source: str, device: str, precision: str | None, dropout: bool
) -> Model:
    """An exported model that is a program of its own."""
    if dropout:
        raise ConfigError(f"'{path}' is an exported model, which has no dropout.")
    anywhere = kind == "onnx" and device == "auto"
    exported = open_exported(path, kind, None if anywhere else _device(device))
    computes_in = exported.metadata.get("precision", "fp32")
    if precision not in (None, "auto", computes_in):
        raise ConfigError(
            f"precision is '{precision}', but '{path}' was exported to compute in {computes_in}."
        )
    return Model(
        name=path.stem,
        source=source,
        run=None,
        checkpoint=path,
        config=ConfigManager(exported.config).data,
        epoch=epoch_of(exported.metadata),
        device=exported.device,
        precision=computes_in,
        forward=exported.forward,
        multiple=int(exported.metadata.get("multiple", 1)),
        smallest=int(exported.metadata.get("smallest", 1)),
        has_8_bits=exported.metadata.get("values") == "uint8",
        values=mappings_in({"values": exported.values}, path),
    )


def _of_mlflow(
    source: str,
    checkpoint: str | PathLike[str] | None,
    device: str,
    precision: str | None,
    dropout: bool,
) -> Model:
    """A model that a run logged to MLflow."""
    from nectargan.inference.mlflow_models import load_logged_model

    if dropout or checkpoint is not None or precision not in (None, "auto", "fp32"):
        raise ConfigError(
            f"'{source}' is an exported model: it has one checkpoint, computes in fp32 and has no "
            "dropout; name the run directory for another."
        )
    where = _device(device)
    logged = load_logged_model(source, where)
    return Model(
        name=logged.name,
        source=source,
        run=None,
        checkpoint=None,
        config=logged.config,
        epoch=None,
        device=where,
        precision="fp32",
        forward=logged.forward,
        values=logged.values,
    )


def _device(name: str) -> torch.device:
    """Where to compute."""
    try:
        return resolve_device(name)
    except ConfigError as error:
        raise ConfigError(str(error).replace("common.device", "device", 1)) from None


def precision_for(config: Config, values: ValueMappings | None) -> str:
    """The precision of a model if the user names none: that of the training, but "fp32" in place of
    "auto" for values of more than 8 bits, of which bf16 has no more."""
    how = config.common.precision
    return "fp32" if how == "auto" and values and values.target.dtype not in _8_BITS else how


def _place(device: str, precision: str) -> tuple[torch.device, str]:
    """Where and how to compute."""
    where = _device(device)
    allowed = ("auto", "fp32", "bf16", "fp16")
    if precision not in allowed:
        raise ConfigError(f"precision is '{precision}'; allowed: {', '.join(allowed)}.")
    return where, resolve_precision(precision, where)


def _of_network(
    network: nn.Module, config: Config, device: torch.device, precision: str, dropout: bool
) -> Mapping[str, Any]:
    """What `Model` knows of a network, which is brought to the device."""
    # In the same order as in training, so that the same kernels give the same bits.
    place(network, device, memory_format(device, precision, config.dataloader.batch_size))
    network.eval()
    for module in network.modules():
        if dropout and isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.train()

    def forward(batch: Tensor) -> Tensor:
        with autocast(device, precision):
            generated: Tensor = network(batch)
        return generated

    return {
        "forward": forward,
        "network": network,
        "multiple": getattr(network, "multiple", 1),
        "smallest": getattr(network, "smallest", 1),
    }
