"""Leaves invalid pixels out of the losses.

Where a pixel is invalid, input, target and generated image are all 0, the middle of [-1, 1]. So
nothing that is computed from an image depends on the values there, and no gradient flows to them.
The losses that compare images pixel by pixel are means over the valid pixels. All other losses,
those of the discriminator and of VGG among them, see the zeros as part of the image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from nectargan.distributed import ALONE, World
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.losses import LaplacianLoss, SobelLoss

PER_PIXEL = (nn.L1Loss, nn.MSELoss, SobelLoss, LaplacianLoss)


class WeightedPixels(nn.Module):
    """A loss per pixel as a mean with weights.

    Args:
        function: A loss of one of the classes `PER_PIXEL`.

    Attributes:
        function: The same loss.
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function
        self._map = as_map(function)

    def forward(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Computes the loss between images ``(N, C, H, W)``, a scalar.

        Args:
            x: Generated images.
            y: Their targets.
            weights: ``(N, 1, H, W)``, see `pixel_weights`.
        """
        costs: Tensor = self._map(x, y)
        return (costs * weights).mean()


def as_map(function: nn.Module) -> nn.Module:
    """A loss of one of the classes `PER_PIXEL` in the form that returns a map."""
    form = copy.copy(function)  # shares the tensors on the device
    form.reduction = "none"  # type: ignore[assignment]  # an attribute of nn.Module may be a tensor
    return form


def weigh_pixels(losses: Mapping[str, LMLoss]) -> None:
    """Replaces the losses per pixel by `WeightedPixels`."""
    for loss in losses.values():
        if isinstance(loss.function, PER_PIXEL):
            loss.function = WeightedPixels(cast(nn.Module, loss.function))


def pixel_weights(mask: Tensor, world: World = ALONE) -> Tensor:
    """Weights with mean 1 for the valid pixels, and 0 for the others.

    Args:
        mask: ``(N, 1, H, W)``, bool: where pixels are valid.
        world: The processes that share the batch; the mean is that of all.

    Returns:
        ``(N, 1, H, W)``, float32; 0 everywhere if no pixel is valid.
    """
    valid = mask.float()
    mean = valid.mean()
    if world.size > 1:
        world.all_reduce(mean.mul_(world.part))
    return valid / mean.clamp_min(torch.finfo(torch.float32).tiny)


def without_invalid(images: Tensor, weights: Tensor | None = None) -> Tensor:
    """``images`` with 0 where the weight of a pixel is 0; the same images without weights."""
    return images if weights is None else torch.where(weights > 0, images, 0.0)
