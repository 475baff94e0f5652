"""The loss functions of NectarGAN v0.2.3 that differ from the current ones.

Migrated configs use them, because their weights were tuned for them; see `config.migration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.losses.losses import LaplacianLoss, SobelLoss, check_same_shape, full_precision
from nectargan.losses.vgg import VGG19Features

_UNDER_THE_ROOT = 1e-6


class _GreyFilterLoss(nn.Module, ABC):
    """L1 distance between the filter responses of two images converted to gray (channel means).

    Borders are padded with zeros, so the border of an image acts as an edge.
    """

    @abstractmethod
    def response(self, padded: Tensor) -> Tensor:
        """The response ``(N, 1, H, W)`` to an image ``(N, 1, H + 2, W + 2)``."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes the loss between ``x`` and ``y``, both ``(N, C, H, W)``: a scalar, float32 or
        wider."""
        check_same_shape(type(self).__name__, x, y)
        return F.l1_loss(self._of_grey(x), self._of_grey(y))

    def _of_grey(self, images: Tensor) -> Tensor:
        grey = full_precision(images).mean(dim=1, keepdim=True)
        return self.response(F.pad(grey, (1, 1, 1, 1)))


class GreySobelLoss(_GreyFilterLoss):
    """L1 distance between gradient magnitudes ``sqrt(gx^2 + gy^2 + 1e-6)``.

    The Sobel kernels are not divided by 8, so the loss is about eight times a `SobelLoss`.
    """

    def response(self, padded: Tensor) -> Tensor:
        """The gradient magnitude."""
        along_x, along_y = SobelLoss().derivatives(padded)
        return (64 * (along_x.square() + along_y.square()) + _UNDER_THE_ROOT).sqrt()


class GreyLaplacianLoss(_GreyFilterLoss):
    """L1 distance between the Laplacians (five-point stencil) of the gray images."""

    def response(self, padded: Tensor) -> Tensor:
        """The Laplacian."""
        return LaplacianLoss().derivatives(padded)[0]


class ShallowVGGLoss(nn.Module):
    """L1 distance between VGG19 features of relu1_2, relu2_2 and relu3_3, each with weight 1.

    The network gets images in [-1, 1], without the normalization of ImageNet.

    Args:
        weights: File with torchvision's state dict. If None, ``train.vgg_weights`` of the config is
            used; if that is not set either, torch.hub downloads the file.
    """

    reads_vgg_weights = True
    layers = ("relu1_2", "relu2_2", "relu3_3")

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.network = VGG19Features(self.layers, weights)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes the loss between ``x`` and ``y``, both ``(N, C, H, W)`` in [-1, 1].

        C is at least 3; only the first three channels are used.

        Returns:
            A scalar, float32.
        """
        check_same_shape(type(self).__name__, x, y)
        with torch.no_grad():
            wanted = self.network(y[:, :3])
        generated = self.network(x[:, :3])
        terms = [
            F.l1_loss(full_precision(generated[layer]), full_precision(wanted[layer]))
            for layer in self.layers
        ]
        return torch.stack(terms).sum()
