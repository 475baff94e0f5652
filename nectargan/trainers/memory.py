"""Checks that a run fits into memory before its networks are built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import psutil
import torch
from torch import Tensor, nn

from nectargan import cgroups
from nectargan.build import build_discriminator, build_generator, height_and_width
from nectargan.config.network_options import OwnNetwork
from nectargan.config.schema import Config
from nectargan.errors import ConfigError

# float32: the weight, its gradient, and the two moments of Adam.
_BYTES_PER_PARAMETER = 16
WHAT_TO_LOWER = (
    "dataloader.batch_size, dataloader.load.crop_size, train.generator.features or "
    "train.discriminator.base_channels"
)


class Need(NamedTuple):
    """The minimum needs of a training step.

    Attributes:
        parameters: Number of parameters of both networks.
        activations: Bytes of the tensors that the forward passes save for the backward passes.
        flops: Floating-point operations of the convolutions, forward and backward.
    """

    parameters: int
    activations: int
    flops: float

    @property
    def bytes(self) -> int:
        """Total bytes: weights, gradients, optimizers and activations."""
        return _BYTES_PER_PARAMETER * self.parameters + self.activations


def check_memory(need: Need, config: Config, device: torch.device) -> None:
    """Raises `ConfigError` if a training step cannot fit into the memory of ``device``, or a pair
    of resized images into the memory of this machine.

    Other memory, such as the workspace of convolutions, is not counted. So a run that passes this
    check may still be too large.
    """
    _check_images(config)
    limit = device_memory(device)
    if need.bytes <= limit:
        return
    raise ConfigError(
        f"A step of this run needs at least {gib(need.bytes)} ({sizes_of(need, config)}), and "
        f"{'this machine' if device.type == 'cpu' else device} has {gib(limit)}; lower "
        f"{WHAT_TO_LOWER}."
    )


def _check_images(config: Config) -> None:
    load = config.dataloader.load
    height, width = height_and_width(load.load_size or load.crop_size)
    # Both images as arrays, and one of them also as the image that it is copied from.
    need = height * width * (load.input_nc + load.output_nc + min(load.input_nc, load.output_nc))
    limit = device_memory(torch.device("cpu"))
    if need > limit:
        raise ConfigError(
            f"A pair of images of {height} x {width} pixels (dataloader.load.load_size) needs at "
            f"least {gib(need)}, and this machine has {gib(limit)}; lower it."
        )


def sizes_of(need: Need, config: Config) -> str:
    """Describes the sizes on which the memory of a run depends."""
    batch = config.dataloader.batch_size
    height, width = height_and_width(config.dataloader.load.crop_size)
    return (
        f"{need.parameters:,} parameters, batches of {batch} pair{'s' * (batch > 1)} of "
        f"{height} x {width} pixels"
    )


def needed_memory(config: Config, precision: str, processes: int = 1) -> Need:
    """Counts the parameters, activations and operations of a step.

    This takes milliseconds and no memory: the networks run on torch's "meta" device, which only
    computes shapes. For a custom network that cannot run there, only the parameters are counted.

    Args:
        config: The config of the run.
        precision: "fp32", "bf16" or "fp16"; the last two halve the activations.
        processes: Number of processes that share a batch.
    """
    load, train = config.dataloader.load, config.train
    parts = train.accumulate
    size = (config.dataloader.batch_size // parts // processes, *height_and_width(load.crop_size))
    source = torch.empty(size[0], load.input_nc, *size[1:], device="meta")
    target = torch.empty(size[0], load.output_nc, *size[1:], device="meta")
    generator = _pass(build_generator, config, isinstance(train.generator, OwnNetwork), source)
    discriminator = _pass(
        build_discriminator, config, isinstance(train.discriminator, OwnNetwork), source, target
    )
    # The activations of G are kept until its update, together with those of two passes of D.
    kept = generator.kept + 2 * discriminator.kept
    return Need(
        generator.parameters + discriminator.parameters,
        kept if precision == "fp32" else kept // 2,
        # A backward pass costs two forward passes. D has three passes, the last one without the
        # gradients of its weights. In parts, G generates once more for the update of D.
        parts * ((3 + (parts > 1)) * generator.flops + 8 * discriminator.flops),
    )


class _Pass(NamedTuple):
    """The parameters of a network; saved bytes and operations of its forward pass."""

    parameters: int
    kept: int
    flops: float


def _pass(
    build: Callable[[Config], nn.Module], config: Config, is_own: bool, *inputs: Tensor
) -> _Pass:
    try:
        with torch.device("meta"):
            network = build(config)
        count = sum(parameter.numel() for parameter in network.parameters())
        return _Pass(count, _kept_bytes(network, *inputs), _flops(network, *inputs))
    except Exception:
        # A custom network may need values, not only shapes. Then it is really built.
        if not is_own:
            raise
    with torch.random.fork_rng(devices=[]):
        network = build(config)
    return _Pass(sum(parameter.numel() for parameter in network.parameters()), 0, math.inf)


def _flops(network: nn.Module, *inputs: Tensor) -> float:
    """Floating-point operations of a network's convolutions in a forward pass."""
    found = []

    def count(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        # Each weight is multiplied once per pixel of the smaller image.
        pixels = arguments[0] if isinstance(layer, nn.ConvTranspose2d) else output
        weights = cast("Tensor", layer.weight).numel()
        found.append(2.0 * weights * pixels.numel() / pixels.shape[1])

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(count)
    network(*inputs)
    return sum(found)


def _kept_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd saves in a forward pass. Each storage counts once; parameters do not."""
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor  # keeps the storage alive, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(*inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def device_memory(device: torch.device) -> int:
    """Memory of a device in bytes; for the CPU, the limit of this process if it is lower."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(min(psutil.virtual_memory().total, cgroups.memory_limit()))


def gib(count: int) -> str:
    """A number of bytes in GiB, with the unit."""
    gib = count / 2**30
    return f"{gib:.2f} GiB" if gib < 10 else f"{gib:,.0f} GiB"
