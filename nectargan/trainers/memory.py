"""Whether a run fits into the memory that there is, found out before anything is built."""

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

# float32: the weight, its gradient, and Adam's two moments.
_BYTES_PER_PARAMETER = 16
WHAT_TO_LOWER = (
    "dataloader.batch_size, dataloader.load.crop_size, train.generator.features or "
    "train.discriminator.base_channels"
)


class Need(NamedTuple):
    """What one training step takes at least.

    Attributes:
        parameters: Number of parameters of both networks.
        activations: Bytes of what the forward passes keep for the backward ones.
        flops: Floating-point operations of the convolutions, forward and backward.
    """

    parameters: int
    activations: int
    flops: float

    @property
    def bytes(self) -> int:
        """Bytes altogether: weights, gradients, optimisers and activations."""
        return _BYTES_PER_PARAMETER * self.parameters + self.activations


def check_memory(need: Need, config: Config, device: torch.device) -> None:
    """Raises `ConfigError` if a training step cannot fit into the memory of ``device``, or a pair
    of resized images into that of this machine.

    What a step takes besides, such as the workspace of a convolution, is not counted, so a run
    that passes may still be too large.
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
    height, width = height_and_width(load.load_size)
    # Both as arrays, and the second one as the image that it is copied from.
    need = height * width * (load.input_nc + load.output_nc + min(load.input_nc, load.output_nc))
    limit = device_memory(torch.device("cpu"))
    if need > limit:
        raise ConfigError(
            f"A pair of images of {height} x {width} pixels (dataloader.load.load_size) needs at "
            f"least {gib(need)}, and this machine has {gib(limit)}; lower it."
        )


def sizes_of(need: Need, config: Config) -> str:
    """The sizes of a run on which its memory depends, in words."""
    batch = config.dataloader.batch_size
    height, width = height_and_width(config.dataloader.load.crop_size)
    return (
        f"{need.parameters:,} parameters, batches of {batch} pair{'s' * (batch > 1)} of "
        f"{height} x {width} pixels"
    )


def needed_memory(config: Config, precision: str) -> Need:
    """Counts the parameters of both networks and what a step keeps for its backward passes.

    Takes milliseconds and no memory: the networks are built and run on torch's "meta" device,
    which knows shapes alone. Of one's own that cannot be run there, only the parameters count.

    Args:
        config: The run.
        precision: "fp32"; with "bf16" and "fp16" activations take half.
    """
    load, train = config.dataloader.load, config.train
    size = (config.dataloader.batch_size, *height_and_width(load.crop_size))
    source = torch.empty(size[0], load.input_nc, *size[1:], device="meta")
    target = torch.empty(size[0], load.output_nc, *size[1:], device="meta")
    generator = _pass(build_generator, config, isinstance(train.generator, OwnNetwork), source)
    discriminator = _pass(
        build_discriminator, config, isinstance(train.discriminator, OwnNetwork), source, target
    )
    # G's activations live until its update, while D sees the real pairs and the generated ones.
    kept = generator.kept + 2 * discriminator.kept
    return Need(
        generator.parameters + discriminator.parameters,
        kept if precision == "fp32" else kept // 2,
        # A backward pass is two forward ones. D makes three passes, the last without its weights.
        3 * generator.flops + 8 * discriminator.flops,
    )


class _Pass(NamedTuple):
    """A forward pass: parameters of the network, bytes that are kept, operations."""

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
        if not is_own:
            raise
    # One's own may need numbers, not shapes alone; then it is built, and tried, as for training.
    with torch.random.fork_rng(devices=[]):
        network = build(config)
    return _Pass(sum(parameter.numel() for parameter in network.parameters()), 0, math.inf)


def _flops(network: nn.Module, *inputs: Tensor) -> float:
    """Floating-point operations of a network's convolutions in a forward pass."""
    found = []

    def count(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        # Each weight meets each pixel once: of the input if that is the smaller one.
        pixels = arguments[0] if isinstance(layer, nn.ConvTranspose2d) else output
        weights = cast("Tensor", layer.weight).numel()
        found.append(2.0 * weights * pixels.numel() / pixels.shape[1])

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(count)
    network(*inputs)
    return sum(found)


def _kept_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass; each storage counts once, no parameter does."""
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor  # held, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(*inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def device_memory(device: torch.device) -> int:
    """Bytes of memory that a device has; for the CPU, the machine or this process's share."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(min(psutil.virtual_memory().total, cgroups.memory_limit()))


def gib(count: int) -> str:
    """A number of bytes in GiB, with the unit."""
    gib = count / 2**30
    return f"{gib:.2f} GiB" if gib < 10 else f"{gib:,.0f} GiB"
