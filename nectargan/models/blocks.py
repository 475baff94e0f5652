"""What both networks are made of: argument checks, weight initialisation, U-Net blocks."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from nectargan.errors import ModelError, did_you_mean
from nectargan.models.convolutions import DoublingConvTranspose2d, HalvingConv2d, PaddedConv2d
from nectargan.models.norms import NORMS

PADDINGS = ("zeros", "reflect")
INITS = ("normal", "default")
UPSAMPLE_TYPES = ("Transposed", "Bilinear", "Nearest", "PixelShuffle")


def check_whole(owner: str, name: str, value: object, least: int) -> None:
    """Raises `ModelError` unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ModelError(
            f"{owner}: {name} is {value!r}; it must be a whole number of at least {least}."
        )


def check_choice(owner: str, name: str, value: object, allowed: Collection[str]) -> None:
    """Raises `ModelError` unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ModelError(f"{owner}: {name} is {value!r}.{did_you_mean(str(value), allowed)}")


def check_dropout(owner: str, dropout: object) -> None:
    """Raises `ModelError` unless ``dropout`` is a chance of less than 1."""
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ModelError(f"{owner}: dropout is {dropout!r}; it must be at least 0 and below 1.")


@torch.no_grad()
def init_weights(module: nn.Module, init: str = "normal", std: float = 0.02) -> None:
    """Draws the weights of a network in place.

    The four sub-pixels of a `SubPixelConv2d` always begin alike ("ICNR", Aitken et al. 2017), so
    that it begins as nearest-neighbour upsampling, without a checkerboard.

    Args:
        module: The network.
        init: "normal", as in Isola et al. 2017, section 6.2: convolution weights become N(0, std),
            the scale of affine norms N(1, std), all biases 0. "default" keeps what torch drew.
        std: Standard deviation of "normal".
    """
    for layer in module.modules():
        if isinstance(layer, SubPixelConv2d):
            first = layer.weight[::4].clone()
            if init == "normal":
                first.normal_(0.0, std)
            layer.weight.copy_(first.repeat_interleave(4, dim=0))
        elif init == "default":
            continue
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.weight.normal_(0.0, std)
        elif isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d)) and layer.affine:
            layer.weight.normal_(1.0, std)
        else:
            continue
        if layer.bias is not None and init == "normal":
            layer.bias.zero_()


def with_spectral_norm(convolution: nn.Conv2d) -> nn.Conv2d:
    """A convolution whose weight, as a matrix ``(out_channels, -1)``, is divided by its largest
    singular value (Miyato et al. 2018); each training pass refines the estimate of it."""
    spectral_norm(convolution)
    norms = cast("dict[str, nn.ModuleList]", convolution.parametrizations)["weight"]
    norms[0] = _InFullPrecision(norms[0])
    return convolution


class _InFullPrecision(nn.Module):
    """A parametrization outside autocast: in 16 bits the estimate would be coarse, and torch's own
    mixes both number formats there."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, weight: Tensor) -> Tensor:
        device = weight.device.type
        has_autocast = torch.amp.is_autocast_available(device)  # the device "meta" has none
        with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
            normed: Tensor = self.inner(weight)
        return normed

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned is the weight before the division."""
        return weight


class SubPixelConv2d(nn.Conv2d):
    """A 3 x 3 convolution to four times the channels, which become 2 x 2 pixels (Shi et al. 2016).

    Args:
        in_channels: Channels of the input ``(N, in_channels, H, W)``.
        out_channels: Channels of the output ``(N, out_channels, 2H, 2W)``.
        bias: Add a bias, one for each of the four sub-pixels of a channel.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, 4 * out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(super().forward(x), 2)


def upsampling(
    kind: str, in_channels: int, out_channels: int, bias: bool, padding: str = "zeros"
) -> list[nn.Module]:
    """The layers that double height and width.

    Args:
        kind: One of `UPSAMPLE_TYPES`.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Give the convolution a bias.
        padding: One of `PADDINGS`, for a convolution that follows an interpolation; one that makes
            pixels itself has zeros.
    """
    if kind == "Transposed":
        return [DoublingConvTranspose2d(in_channels, out_channels, bias=bias)]
    if kind == "PixelShuffle":
        return [SubPixelConv2d(in_channels, out_channels, bias=bias)]
    if kind == "Nearest":
        resize = nn.Upsample(scale_factor=2, mode="nearest")
    else:
        resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return [resize, PaddedConv2d(in_channels, out_channels, 3, bias=bias, padding=padding)]


class UnetBlock(nn.Module):
    """Activation, convolution by half or double the size, norm, dropout; in this order.

    The activation comes first, as in the paper, so that a skip connection carries what the
    convolution made and each of its two readers applies its own: LeakyReLU(0.2) on the way down,
    ReLU on the way up.

    Args:
        in_channels: Channels of the input ``(N, in_channels, H, W)``.
        out_channels: Channels of the output, ``(N, out_channels, H/2, W/2)`` going down and
            ``(N, out_channels, 2H, 2W)`` going up.
        up: Double the size instead of halving it.
        activate: Begin with the activation; False for the block that reads the image.
        norm: A key of `NORMS`, or None for no norm.
        bias: Give the convolution a bias.
        upsample_type: "Transposed" (4 x 4, stride 2), "Bilinear" or "Nearest" (2 x, then a 3 x 3
            convolution), or "PixelShuffle" (`SubPixelConv2d`).
        padding: "zeros" or "reflect" at the borders; see `upsampling` for the way up.
        dropout: Chance of each value to be dropped while training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        up: bool = False,
        activate: bool = True,
        norm: str | None = None,
        bias: bool = False,
        upsample_type: str = "Transposed",
        padding: str = "zeros",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        # Never in place: the input is a skip connection too, and the shortcut of a residual block.
        if activate:
            layers.append(nn.ReLU() if up else nn.LeakyReLU(0.2))
        if not up:
            layers.append(HalvingConv2d(in_channels, out_channels, bias=bias, padding=padding))
        else:
            layers += upsampling(upsample_type, in_channels, out_channels, bias, padding)
        if norm is not None:
            layers.append(NORMS[norm](out_channels))
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x)
        return out


class ResidualUnetBlock(UnetBlock):
    """A `UnetBlock` plus a linear shortcut around it: resampling and a 1 x 1 convolution.

    The shortcut reads the input before its activation and passes no norm, so gradients have a
    linear way through every level (He et al. 2016, "Identity mappings in deep residual networks").
    It averages 2 x 2 pixels going down and interpolates going up. Same arguments as `UnetBlock`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, up: bool = False, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, up=up, **options)
        project = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        # Both orders give the same map; the 1 x 1 convolution runs where there are fewer pixels.
        if up:
            resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.shortcut = nn.Sequential(project, resize)
        else:
            self.shortcut = nn.Sequential(nn.AvgPool2d(2), project)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        return super().forward(x) + shortcut


BLOCKS: dict[str, type[UnetBlock]] = {
    "UnetBlock": UnetBlock,
    "ResidualUnetBlock": ResidualUnetBlock,
}
