"""What networks see in images, from which LPIPS, DISTS, FID and KID are computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import CheckpointError
from nectargan.frozen import Frozen
from nectargan.metrics.backbones import InceptionV3, alexnet_layers, taps, vgg16_layers
from nectargan.metrics.weights import ALEXNET, INCEPTION, VGG16, WeightFile, find_weights
from nectargan.wording import one_line

INCEPTION_SIDE = 299
MOST_COLORS = 4  # channels of an image: gray or RGB, perhaps with alpha
# After the last ReLU of each block.
_ALEXNET_TAPS = (1, 4, 7, 9, 11)
_VGG16_TAPS = (3, 8, 15, 22, 29)


class LPIPSFeatures(Frozen):
    """The features of LPIPS (Zhang et al. 2018): after five layers, each pixel of length 1.

    Args:
        net: "alex" or "vgg".
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        self.net = net
        self.features = alexnet_layers() if net == "alex" else vgg16_layers(_MaxPooling)
        self._taps = _ALEXNET_TAPS if net == "alex" else _VGG16_TAPS
        self.register_buffer("shift", _channels(-0.030, -0.088, -0.188), persistent=False)
        self.register_buffer("scale", _channels(0.458, 0.448, 0.450), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Five tensors ``(N, C, h, w)`` of images ``(N, 1 to 4, H, W)`` in [0, 1]."""
        x = (2 * rgb(images) - 1 - self.shift) / self.scale
        return [
            each / (each.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
            for each in taps(self.features, x, self._taps)
        ]


class DISTSFeatures(Frozen):
    """The features of DISTS (Ding et al. 2020): the images, and VGG16 with smooth poolings."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg16_layers(_L2Pooling)
        self.register_buffer("mean", _channels(0.485, 0.456, 0.406), persistent=False)
        self.register_buffer("std", _channels(0.229, 0.224, 0.225), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Six tensors ``(N, C, h, w)`` of images ``(N, 1 to 4, H, W)`` in [0, 1]."""
        images = rgb(images)
        normalized = (images - self.mean) / self.std
        return [images, *taps(self.features, normalized, _VGG16_TAPS)]


class InceptionFeatures(InceptionV3):
    """The features of FID and KID: of images as they are in a file, in 8 bits, scaled to 299 x 299
    by bilinear interpolation with antialiasing."""

    num_features = 2048

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 2048)`` of images ``(N, 1 to 4, H, W)``, floats in [0, 1] or uint8."""
        if images.dtype != torch.uint8:
            images = images.mul(255).round().clamp(0, 255)
        x = F.interpolate(
            rgb(images).float(),
            size=(INCEPTION_SIDE, INCEPTION_SIDE),
            mode="bilinear",
            antialias=True,
        )
        return super().forward((x - 128) / 128)


class Network(NamedTuple):
    """A network of metrics.

    Attributes:
        make: Makes it, without weights.
        file: Its weights.
    """

    make: Callable[[], Frozen]
    file: WeightFile


NETWORKS = {
    "lpips_alexnet": Network(lambda: LPIPSFeatures("alex"), ALEXNET),
    "lpips_vgg16": Network(lambda: LPIPSFeatures("vgg"), VGG16),
    "dists_vgg16": Network(DISTSFeatures, VGG16),
    "inception": Network(InceptionFeatures, INCEPTION),
}


class LoadedNetwork(NamedTuple):
    """A network that is ready.

    Attributes:
        see: From images ``(N, 1 to 4, H, W)`` in [0, 1] to its features of them.
        file: Name of the file of its weights.
        digest: SHA-256 of that file, in hexadecimal.
    """

    see: Frozen
    file: str
    digest: str


def load_network(name: str, folder: Path | None, device: torch.device) -> LoadedNetwork:
    """A network of `NETWORKS` with its weights; see `find_weights`.

    Raises:
        CheckpointError: the weights cannot be had, or read.
    """
    make, file = NETWORKS[name]
    found = find_weights(file, folder)
    with torch.random.fork_rng(devices=[]):  # the first weights, which are replaced, are drawn
        network = make()
    network.load(_read(found.path), str(found.path))
    return LoadedNetwork(network.to(device), found.path.name, found.digest)


def rgb(images: Tensor) -> Tensor:
    """Images of 1 to 4 channels as ``(N, 3, H, W)``: grey three times, alpha left out."""
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def _channels(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Of a damaged file, torch.load may raise anything.
        raise CheckpointError(f"'{path}' holds no weights: {one_line(error)[:100]}.") from None


class _MaxPooling(nn.MaxPool2d):
    def __init__(self) -> None:
        super().__init__(2)


class _L2Pooling(nn.Module):
    """The root of the smoothed squares, every second one (Henaff and Simoncelli 2015)."""

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
        kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
        squares = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
        return (squares + 1e-12).sqrt()
