"""Tries custom networks, losses, metrics and augmentations on one batch before a run.

So errors in them are reported early.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.errors import ConfigError
from nectargan.wording import one_line

Shape = tuple[int, int, int, int]


def try_generator(place: str, generator: nn.Module, shape: Shape, channels: int) -> None:
    """Checks that a generator turns a batch of images into images of the same size.

    Args:
        place: Name of the generator in messages, such as
            "train.generator.function 'my_package.MyNet'".
        generator: The generator, on the CPU, in training mode. It is not changed.
        shape: Shape of the input images, ``(N, C, H, W)``.
        channels: Number of channels of the generated images.

    Raises:
        ConfigError: If the generator fails, or returns anything else than a tensor of the right
            shape with a gradient.
    """
    wanted = (shape[0], channels, *shape[2:])
    output = _try_network(place, generator, [torch.zeros(shape)])
    sentence = (
        f"{place} returns {_described(output)} for images {shape}; it must return a tensor {wanted}"
    )
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        raise ConfigError(f"{sentence}.")
    if not output.requires_grad:
        raise ConfigError(f"{sentence} with a gradient.")


def try_discriminator(place: str, discriminator: nn.Module, shape: Shape, channels: int) -> None:
    """Checks that a discriminator returns logits, or a list of logits, for pairs of images.

    Args:
        place: Name of the discriminator in messages, as in `try_generator`.
        discriminator: The discriminator, on the CPU, in training mode. It is not changed.
        shape: Shape of the input images, ``(N, C, H, W)``.
        channels: Number of channels of the target images.

    Raises:
        ConfigError: If the discriminator fails, or returns anything else than logits with a
            gradient.
    """
    pair = [torch.zeros(shape), torch.zeros((shape[0], channels, *shape[2:]))]
    output = _try_network(place, discriminator, pair)
    logits = [output] if isinstance(output, Tensor) else output
    good = isinstance(logits, (list, tuple)) and bool(logits)
    if not good or not all(isinstance(each, Tensor) and each.requires_grad for each in logits):
        raise ConfigError(
            f"{place} returns {_described(output)} for images {shape} and {tuple(pair[1].shape)}; "
            "it must return a tensor of logits with a gradient, or a list of such tensors."
        )


def try_features(place: str, discriminator: nn.Module, shape: Shape, channels: int) -> None:
    """Checks that a discriminator has a method ``features(x, y)`` for feature matching.

    The method must return one list of tensors per scale: the feature maps of the layers, and the
    logits as the last element.

    Args:
        place: Name of the discriminator in messages, as in `try_generator`.
        discriminator: The discriminator, on the CPU, in training mode. It is not changed.
        shape: Shape of the input images, ``(N, C, H, W)``.
        channels: Number of channels of the target images.

    Raises:
        ConfigError: If there is no such method, or if it fails or returns anything else.
    """
    features = getattr(discriminator, "features", None)
    wanted = "one list per scale with the feature maps of the layers and then the logits"
    if not callable(features):
        raise ConfigError(
            f"{place} has no features to match; it must have a method features(x, y) that returns "
            f"{wanted}."
        )
    pair = [torch.zeros(shape), torch.zeros((shape[0], channels, *shape[2:]))]
    with _left_as_it_was(discriminator):
        scales = _call(f"{place}, in its features(x, y),", features, pair)
    if not (isinstance(scales, (list, tuple)) and scales and all(map(_are_maps, scales))):
        raise ConfigError(f"{place} must return from features(x, y) {wanted}.")


def _are_maps(maps: object) -> bool:
    return (
        isinstance(maps, (list, tuple))
        and len(maps) > 1
        and all(isinstance(each, Tensor) for each in maps)
    )


def try_loss(place: str, function: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """Checks that a loss returns a tensor with a gradient.

    Args:
        place: Name of the loss in messages.
        function: The loss.
        inputs: The arguments to call it with.

    Raises:
        ConfigError: If the loss fails or returns anything else.
    """
    value = _call(place, function, inputs)
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise ConfigError(f"{place} must return a tensor with a gradient.")


def try_balancer(place: str, balancer: Any) -> None:
    """Checks that a rule returns a weight for each loss.

    Args:
        place: Name of the rule in messages.
        balancer: A `nectargan.losses.balancing.Balancer`. It is not changed.

    Raises:
        ConfigError: If it fails or returns anything else.
    """
    losses = balancer.losses
    values = dict(zip(losses, torch.ones(len(losses)), strict=True))
    random = torch.get_rng_state()
    try:
        rule = copy.deepcopy(balancer)
        rule.start_step(1, {"epoch": 1.0, "step": 1.0})
        factors = rule.factors(losses, torch.eye(len(losses)).expand(2, -1, -1), values)
        for name, factor in factors.items():
            if not factor.isfinite():
                raise ValueError(f"it returns the weight {factor.item()} for {name}")
    except Exception as error:
        # The custom code may raise any exception.
        raise ConfigError(f"{place} cannot be used: {one_line(error)[:200].rstrip('.')}.") from None
    finally:
        torch.set_rng_state(random)


def try_metric(place: str, function: Callable[..., Any], images: Tensor) -> None:
    """Checks that a metric returns a value for each of two images.

    Args:
        place: The name of the metric in error messages.
        function: The metric.
        images: Two images ``(2, C, H, W)`` in [0, 1].

    Raises:
        ConfigError: If the metric fails or returns anything but a tensor ``(2,)`` or a scalar.
    """
    try:
        with torch.no_grad():
            value = function(images, images.flip(0))
    except Exception as error:
        # The custom code may raise any exception.
        raise ConfigError(
            f"{place} fails on two tensors of shape {tuple(images.shape)}: {one_line(error)[:200]}."
        ) from None
    if not isinstance(value, Tensor) or value.shape not in ((2,), ()):
        raise ConfigError(
            f"{place} returns {_shape_or_type(value)} for 2 images; it must return a tensor (2,)."
        )


def try_augmentation(place: str, augmentation: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Checks that an augmentation keeps the shape of images.

    Args:
        place: The name of the augmentation in error messages.
        augmentation: Has the methods of `nectargan.dataset.augmentation.Augmentation`.
        shapes: The shapes ``(N, C, H, W)`` of the images that get the same parameters.

    Raises:
        ConfigError: If the augmentation fails or returns anything else.
    """
    try:
        params = tuple(augmentation.draw(*shapes[0]))
        results = [augmentation.apply(torch.rand(shape), *params) for shape in shapes]
    except Exception as error:
        # The custom code may raise any exception.
        reason = one_line(error)[:200]
        raise ConfigError(f"{place} fails on images {shapes[0]}: {reason}.") from None
    for shape, result in zip(shapes, results, strict=True):
        if not isinstance(result, Tensor) or tuple(result.shape) != shape:
            raise ConfigError(
                f"{place} returns {_shape_or_type(result)} for images of shape {shape}; it must "
                "return a tensor of the same shape."
            )


def _shape_or_type(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _try_network(place: str, network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"{place} has no parameters to train.")
    with _left_as_it_was(network):
        return _call(place, network, inputs)


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Restores the buffers of a network and torch's random state after the ``with`` block."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[]):
        yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _call(place: str, function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    try:
        return function(*inputs)
    except Exception as error:
        # The custom code may raise any exception.
        reason = one_line(error)[:200] or type(error).__name__
        raise ConfigError(f"{place} fails on {_described(inputs)}: {reason}.") from None


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, (list, tuple)) and all(isinstance(each, Tensor) for each in value):
        shapes = list(dict.fromkeys(tuple(each.shape) for each in value))
        if len(shapes) == 1:
            return f"{len(value)} tensors of shape {shapes[0]}"
        return f"tensors {', '.join(map(str, shapes))}"
    return type(value).__name__
