"""A trained generator as a file for other programs, compared with the network before it is kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nectargan.build import height_and_width
from nectargan.errors import ExportError
from nectargan.files import replacing
from nectargan.inference.exported import (
    INPUT,
    METADATA_FILE,
    OUTPUT,
    Format,
    open_exported,
    quiet,
    read_safetensors,
)
from nectargan.inference.model import Model
from nectargan.models.image_to_image import ImageToImage, Values, network_sizes
from nectargan.models.norms import InstanceNorm2d
from nectargan.runs.checkpoint import generator_of
from nectargan.runs.describe import run_metadata
from nectargan.version import __version__
from nectargan.wording import counted, one_line

# How far the values in [0, 1] may be from those of the network.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
_RANGES: dict[Values, str] = {"float": "float32 in [0, 1]", "uint8": "uint8 from 0 to 255"}
_HALF_A_STEP = 0.5 / 255


class Comparison(NamedTuple):
    """How well a file agrees with the network.

    Attributes:
        difference: The largest one, of values in [0, 1].
        sizes: Heights and widths that were tried.
        batches: Batch sizes that were tried, each at each size.
    """

    difference: float
    sizes: Sequence[tuple[int, int]]
    batches: Sequence[int]

    def __str__(self) -> str:
        sizes = " and ".join(f"{height} x {width}" for height, width in self.sizes)
        batches = " and ".join(map(str, self.batches))
        return f"{self.difference:.1e} at {sizes}, batches of {batches}"


def export_model(
    model: Model,
    path: Path,
    kind: Format,
    images: Tensor,
    *,
    values: Values = "float",
    precision: str = "fp32",
    extra: dict[str, str] | None = None,
) -> Comparison:
    """Writes a model to a file, and keeps it only if it does what the network does.

    An ONNX model and a ``.pt2`` take batches ``(N, C, H, W)`` of any number and size: they pad and
    crop inside. A safetensors file has the weights, for `load_model`.

    Args:
        model: What to export, in fp32 on the CPU.
        path: The file, which is replaced.
        kind: Its format.
        images: Images ``(N, C, H, W)``, float32 in [0, 1], two or more, to compare on: as they are,
            and cut to another size.
        values: What the images hold that the file takes and makes.
        precision: "fp32", or "fp16" for weights and computation in 16 bits; images stay float32.
        extra: More metadata.

    Raises:
        ExportError: the network cannot be exported, or what was made of it differs from it by more
            than `TOLERANCES`. Nothing is written then.
        OSError: the file cannot be written.
    """
    network = _network_of(model)
    program = ImageToImage(_in_precision(network, precision), values).eval()
    metadata = {**metadata_of(model, values, precision), **(extra or {})}
    with replacing(path) as part:
        try:
            with torch.no_grad(), quiet():
                _WRITERS[kind](program, _example(images, values), metadata, part)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            # torch's exporters raise whatever the network's operators make them raise.
            raise ExportError(
                f"The generator of '{model.name}' cannot be exported: {one_line(error)[:300]}"
            ) from None
        run = _runner(part, kind)
        return compare(run, ImageToImage(network).eval(), images, values, precision)


def metadata_of(model: Model, values: Values, precision: str) -> dict[str, str]:
    """What is noted in an exported file: the model's name, its epoch and checkpoint, channels,
    sizes, the range of the values, the commit that it was trained at, its config as JSON."""
    load = model.config.dataloader.load
    height, width = height_and_width(load.crop_size)
    multiple, smallest = network_sizes(_network_of(model))
    facts = run_metadata(model.config, model.run, live=False) if model.run else None
    commit = facts.tags.get("git.commit") if facts else None
    return {
        "name": model.name,
        "nectargan_version": __version__,
        **({"git_commit": commit} if commit else {}),
        **({"checkpoint": model.checkpoint.name} if model.checkpoint else {}),
        **({"epoch": str(model.epoch)} if model.epoch is not None else {}),
        "values": values,
        "range": _RANGES[values],
        "precision": precision,
        "input": f"(N, {load.input_nc}, H, W)",
        "output": f"(N, {load.output_nc}, H, W)",
        "in_channels": str(load.input_nc),
        "out_channels": str(load.output_nc),
        "training_height": str(height),
        "training_width": str(width),
        "multiple": str(multiple),
        "smallest": str(smallest),
        **({"value_mappings": json.dumps(model.values.to_dict())} if model.values else {}),
        "config": model.config.model_dump_json(),
    }


def export_program(program: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The graph of a module from ``(N, C, H, W)`` to the same, with N, H and W free."""
    with sizes_of_one_are_free():
        made = torch.export.export(program, (example,), dynamic_shapes=_free_sides())
    made.example_inputs = None  # pictures of somebody
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # with paths of this machine
    return made


def _free_sides() -> tuple[dict[int, Any]]:
    dim = torch.export.Dim
    return ({0: dim("batch"), 2: dim("height"), 3: dim("width")},)


def sizes_of_one_are_free() -> AbstractContextManager[object]:
    """A side that shrinks to one pixel in the middle of the network stays free; by default, torch
    takes a 1 for a constant, and the model would take no image of the smallest size."""
    from torch.fx.experimental import _config

    changes: dict[str, Any] = {"backed_size_oblivious": True}
    # torch adds this function to the module when it is imported.
    context: AbstractContextManager[object] = _config.patch(changes)  # type: ignore[attr-defined]
    return context


def _network_of(model: Model) -> nn.Module:
    if model.network is None:
        raise ExportError(
            f"'{model.source}' is an exported model already; name the run or the checkpoint that "
            "it was made of."
        )
    return model.network


def _in_precision(network: nn.Module, precision: str) -> nn.Module:
    return copy.deepcopy(network).half() if precision == "fp16" else network


def _example(images: Tensor, values: Values) -> Tensor:
    return images.mul(255).round().to(torch.uint8) if values == "uint8" else images


# --- formats -------------------------------------------------------------------------------------


def _write_onnx(program: nn.Module, example: Tensor, metadata: dict[str, str], path: Path) -> None:
    made = torch.onnx.export(
        export_program(_with_norms_in_two_steps(program), example),
        dynamo=True,
        external_data=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=_free_sides(),  # for their names
        verbose=False,
    )
    assert made is not None  # noqa: S101 - with dynamo=True
    made.model.metadata_props.update(metadata)
    made.model.producer_name, made.model.producer_version = "nectargan", __version__
    made.save(str(path), external_data=False)


class _InstanceNorm(nn.Module):
    """Instance norm with means over rows first, then over columns.

    onnxruntime adds up all pixels of a channel one after the other: at 256 x 256 its own instance
    norm loses two digits, and takes longer.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x.float()
        centred = centred - _mean_of_pixels(centred)
        normed = centred * (_mean_of_pixels(centred.square()) + self.eps).rsqrt()
        return normed.to(x.dtype)


def _mean_of_pixels(x: Tensor) -> Tensor:
    return x.mean(3, keepdim=True).mean(2, keepdim=True)


def _with_norms_in_two_steps(program: nn.Module) -> nn.Module:
    program = copy.deepcopy(program)
    for module in list(program.modules()):
        for name, child in module.named_children():
            if isinstance(child, InstanceNorm2d) and not (
                child.affine or child.track_running_stats
            ):
                setattr(module, name, _InstanceNorm(child.eps))
    return program


def _write_pt2(program: nn.Module, example: Tensor, metadata: dict[str, str], path: Path) -> None:
    made = export_program(program, example)
    with path.open("wb") as file:
        torch.export.save(made, file, extra_files={METADATA_FILE: json.dumps(metadata)})


def _write_safetensors(
    program: nn.Module, example: Tensor, metadata: dict[str, str], path: Path
) -> None:
    from safetensors.torch import save

    generator = program.get_submodule("generator")
    weights = {key: value.contiguous() for key, value in generator.state_dict().items()}
    path.write_bytes(save(weights, metadata))


_WRITERS: dict[Format, Callable[[nn.Module, Tensor, dict[str, str], Path], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "safetensors": _write_safetensors,
}


# --- comparison ----------------------------------------------------------------------------------


def _runner(path: Path, kind: Format) -> Callable[[Tensor], Tensor]:
    """What computes with the file, on the CPU, as whoever loads it does."""
    if kind != "safetensors":
        return open_exported(path, kind, torch.device("cpu")).run
    return ImageToImage(generator_of(read_safetensors(path), path).eval())


@torch.no_grad()
def compare(
    run: Callable[[Tensor], Tensor],
    network: ImageToImage,
    images: Tensor,
    values: Values = "float",
    precision: str = "fp32",
) -> Comparison:
    """Compares what was exported with the network, at two sizes and two batch sizes.

    Args:
        run: Maps images to generated images, both with values as ``values`` says.
        network: The network to compare with, in eval mode, from floats to floats.
        images: ``(N, C, H, W)``, float32 in [0, 1], two or more.
        values: What ``run`` takes and makes.
        precision: "fp32" or "fp16", which says how much is accepted.

    Raises:
        ExportError: they differ by more than `TOLERANCES`.
    """
    height, width = images.shape[-2:]
    sizes = [(height, width), (max(height - height // 4 - 1, 1), max(width - width // 3, 1))]
    batches = [1, len(images)]
    worst = 0.0
    for high, wide in sizes:
        for batch in batches:
            given = _example(images[:batch, :, :high, :wide].contiguous(), values)
            wanted = network(given / 255 if values == "uint8" else given)
            difference = _difference(run(given), wanted)
            if not difference <= TOLERANCES[precision]:  # also a NaN
                raise ExportError(
                    f"The exported model differs from the network by {difference:.2g} on "
                    f"{counted(batch, 'image')} of {high} x {wide}, in [0, 1]; at most "
                    f"{TOLERANCES[precision]:g} is accepted, so it was not kept."
                )
            worst = max(worst, difference)
    return Comparison(worst, sizes, batches)


def _difference(made: Tensor, wanted: Tensor) -> float:
    """The largest difference of values in [0, 1]; rounding to a uint8 is none."""
    if made.shape != wanted.shape:
        return float("inf")
    if made.dtype != torch.uint8:
        return (made - wanted).abs().max().item()
    return max((made / 255 - wanted).abs().max().item() - _HALF_A_STEP, 0.0)
