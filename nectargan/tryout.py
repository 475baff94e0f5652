"""Networks and losses of one's own, tried out once before the run: what cannot be used is told in a
sentence, not in the middle of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.errors import ConfigError

Shape = tuple[int, int, int, int]


def try_generator(place: str, generator: nn.Module, shape: Shape, channels: int) -> None:
    """Raises `ConfigError` unless a generator makes an image of an image.

    Args:
        place: What messages call it: "train.generator.function 'my_package.MyNet'".
        generator: In training mode.
        shape: Of the input images, ``(N, C, H, W)``.
        channels: Of the generated images.
    """
    wanted = (shape[0], channels, *shape[2:])
    output = _tried(place, generator, [torch.zeros(shape)])
    told = f"{place} makes {_told(output)} of images {shape}; it must make a tensor {wanted}"
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        raise ConfigError(f"{told}.")
    if not output.requires_grad:
        raise ConfigError(f"{told} with a gradient.")


def try_discriminator(place: str, discriminator: nn.Module, shape: Shape, channels: int) -> None:
    """Raises `ConfigError` unless a discriminator makes logits, or a list of them, of two images.

    Args:
        place: As in `try_generator`.
        discriminator: In training mode.
        shape: Of the input images, ``(N, C, H, W)``.
        channels: Of the images that are judged.
    """
    pair = [torch.zeros(shape), torch.zeros((shape[0], channels, *shape[2:]))]
    output = _tried(place, discriminator, pair)
    logits = [output] if isinstance(output, Tensor) else output
    good = isinstance(logits, (list, tuple)) and bool(logits)
    if not good or not all(isinstance(each, Tensor) and each.requires_grad for each in logits):
        raise ConfigError(
            f"{place} makes {_told(output)} of images {shape} and {tuple(pair[1].shape)}; it must "
            "make a tensor of logits with a gradient, or a list of such tensors."
        )


def try_features(place: str, discriminator: nn.Module, shape: Shape, channels: int) -> None:
    """Raises `ConfigError` unless a discriminator has a method ``features(x, y)`` that makes a list
    of tensors for each scale: the maps of its layers, and the logits last.

    Args:
        place: As in `try_generator`.
        discriminator: In training mode.
        shape: Of the input images, ``(N, C, H, W)``.
        channels: Of the images that are judged.
    """
    features = getattr(discriminator, "features", None)
    wanted = "for each scale a list of the maps of its layers and, last, the logits"
    if not callable(features):
        raise ConfigError(
            f"{place} has no features to match: it needs a method features(x, y) that returns "
            f"{wanted}."
        )
    pair = [torch.zeros(shape), torch.zeros((shape[0], channels, *shape[2:]))]
    with _left_as_it_was(discriminator):
        scales = _called(f"{place}, in its features(x, y),", features, pair)
    if not (isinstance(scales, (list, tuple)) and scales and all(map(_are_maps, scales))):
        raise ConfigError(f"{place} must return from features(x, y) {wanted}.")


def _are_maps(maps: object) -> bool:
    return (
        isinstance(maps, (list, tuple))
        and len(maps) > 1
        and all(isinstance(each, Tensor) for each in maps)
    )


def try_loss(place: str, function: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """Raises `ConfigError` unless a loss makes a tensor with a gradient of its inputs."""
    value = _called(place, function, inputs)
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise ConfigError(f"{place} must return a tensor with a gradient.")


def _tried(place: str, network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"{place} has no parameters to train.")
    with _left_as_it_was(network):
        return _called(place, network, inputs)


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """A forward pass within the ``with`` block changes neither the network nor torch's random
    numbers."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[]):
        yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _called(place: str, function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    try:
        return function(*inputs)
    except Exception as error:
        # Foreign code may raise anything.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"{place} fails on {_told(inputs)}: {reason}.") from None


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, (list, tuple)) and all(isinstance(each, Tensor) for each in value):
        shapes = list(dict.fromkeys(tuple(each.shape) for each in value))
        if len(shapes) == 1:
            return f"{len(value)} tensors of shape {shapes[0]}"
        return f"tensors {', '.join(map(str, shapes))}"
    return type(value).__name__
