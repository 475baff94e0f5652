"""The loss functions of NectarGAN v0.2.3 that differ from ours, for configs of that version.

With weights that were tuned there, a run goes on meaning what it meant; see `config.migration`.
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
    """L1 between what filters find in the grey versions (channel means) of two images.

    Borders are filled with zeros, so the frame of an image counts as an edge.
    """

    @abstractmethod
    def response(self, padded: Tensor) -> Tensor:
        """The response ``(N, 1, H, W)`` to an image ``(N, 1, H + 2, W + 2)``."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of ``x`` against ``y``, both ``(N, C, H, W)``; a scalar, float32 or wider."""
        check_same_shape(type(self).__name__, x, y)
        return F.l1_loss(self._of_grey(x), self._of_grey(y))

    def _of_grey(self, images: Tensor) -> Tensor:
        grey = full_precision(images).mean(dim=1, keepdim=True)
        return self.response(F.pad(grey, (1, 1, 1, 1)))


class GreySobelLoss(_GreyFilterLoss):
    """L1 between gradient magnitudes: ``sqrt(gx^2 + gy^2 + 1e-6)`` with Sobel's kernels, not
    divided by 8. A weight has about eight times the effect that it has on `SobelLoss`."""

    def response(self, padded: Tensor) -> Tensor:
        """The gradient magnitude."""
        along_x, along_y = SobelLoss().derivatives(padded)
        return (64 * (along_x.square() + along_y.square()) + _UNDER_THE_ROOT).sqrt()


class GreyLaplacianLoss(_GreyFilterLoss):
    """L1 between the Laplacians (five-point stencil) of the grey images."""

    def response(self, padded: Tensor) -> Tensor:
        """The Laplacian."""
        return LaplacianLoss().derivatives(padded)[0]


class ShallowVGGLoss(nn.Module):
    """L1 between VGG19 features of relu1_2, relu2_2 and relu3_3, each with weight 1.

    The images, in [-1, 1], go into the network as they are, without ImageNet's normalisation.

    Args:
        weights: File with torchvision's state dict; None: ``train.vgg_weights``, else through
            torch.hub.
    """

    reads_vgg_weights = True
    layers = ("relu1_2", "relu2_2", "relu3_3")

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.network = VGG19Features(self.layers, weights)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of ``x`` against ``y``, both ``(N, 3, H, W)`` in [-1, 1]; of more channels the
        first three count. A scalar, float32."""
        check_same_shape(type(self).__name__, x, y)
        with torch.no_grad():
            wanted = self.network(y[:, :3])
        made = self.network(x[:, :3])
        terms = [
            F.l1_loss(full_precision(made[layer]), full_precision(wanted[layer]))
            for layer in self.layers
        ]
        return torch.stack(terms).sum()
