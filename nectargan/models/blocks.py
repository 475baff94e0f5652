"""Parts that the networks share: argument checks, weight initialization, upsampling, blocks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from nectargan.errors import ModelError
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


def check_dropout(owner: str, dropout: object) -> None:
    """Raises `ModelError` unless ``dropout`` is a probability in [0, 1)."""
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ModelError(f"{owner}: dropout is {dropout!r}; it must be at least 0 and below 1.")


@torch.no_grad()
def init_weights(module: nn.Module, init: str = "normal", std: float = 0.02) -> None:
    """Initializes the weights of a network in place.

    The weights for the four sub-pixels of a `SubPixelConv2d` are always equal at first ("ICNR",
    Aitken et al. 2017). It then starts as nearest-neighbor upsampling, without a checkerboard
    pattern.

    Args:
        module: The network.
        init: "normal" as in Isola et al. 2017, section 6.2: convolution weights are drawn from
            N(0, std), the scales of affine norms from N(1, std), and biases are 0. "default" keeps
            the initialization of torch.
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
    """Adds spectral normalization to a convolution (Miyato et al. 2018).

    The weight, as a matrix ``(out_channels, -1)``, is divided by its largest singular value. Each
    forward pass in training mode improves the estimate of this value.
    """
    spectral_norm(convolution)
    norms = cast("dict[str, nn.ModuleList]", convolution.parametrizations)["weight"]
    norms[0] = _InFullPrecision(norms[0])
    return convolution


class _InFullPrecision(nn.Module):
    """Runs a parametrization without autocast.

    In 16 bits the estimate of the singular value would be inaccurate, and torch's parametrization
    mixes dtypes under autocast.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, weight: Tensor) -> Tensor:
        device = weight.device.type
        has_autocast = torch.amp.is_autocast_available(device)  # false on "meta"
        with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
            normed: Tensor = self.inner(weight)
        return normed

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The assigned weight is the weight before the division."""
        return weight


class SubPixelConv2d(nn.Conv2d):
    """A 3 x 3 convolution to 4 times the channels, followed by a pixel shuffle (Shi et al. 2016).

    Args:
        in_channels: Channels of the input ``(N, in_channels, H, W)``.
        out_channels: Channels of the output ``(N, out_channels, 2H, 2W)``.
        bias: Whether to add a bias, one for each of the four sub-pixels of a channel.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, 4 * out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(super().forward(x), 2)


def upsampling(
    kind: str, in_channels: int, out_channels: int, bias: bool, padding: str = "zeros"
) -> list[nn.Module]:
    """Makes the layers that double height and width.

    Args:
        kind: One of `UPSAMPLE_TYPES`.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bias: Whether the convolution has a bias.
        padding: One of `PADDINGS`, for "Bilinear" and "Nearest". The other kinds always pad with
            zeros.
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
    """An activation, a convolution that halves or doubles the size, a norm and dropout.

    The activation comes first, as in the paper: a skip connection then carries the output of the
    convolution, and each of the two blocks that read it applies its own activation. It is
    LeakyReLU(0.2) in down blocks and ReLU in up blocks.

    Args:
        in_channels: Channels of the input ``(N, in_channels, H, W)``.
        out_channels: Channels of the output, ``(N, out_channels, H/2, W/2)`` going down and
            ``(N, out_channels, 2H, 2W)`` going up.
        up: Whether to double the size instead of halving it.
        activate: Whether to start with the activation; False for the block that reads the image.
        norm: A key of `NORMS`, or None for no norm.
        bias: Whether the convolution has a bias.
        upsample_type: "Transposed" (4 x 4, stride 2), "Bilinear" or "Nearest" (2 x, then a 3 x 3
            convolution), or "PixelShuffle" (`SubPixelConv2d`).
        padding: "zeros" or "reflect"; in up blocks see `upsampling`.
        dropout: Dropout probability.
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
        # Never in place, because the input is also used by a skip connection or a shortcut.
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
    """A `UnetBlock` plus a linear shortcut: resampling and a 1 x 1 convolution.

    The shortcut has no activation and no norm, so gradients have a linear path through every level
    (He et al. 2016, "Identity mappings in deep residual networks"). It averages 2 x 2 pixels in
    down blocks and interpolates bilinearly in up blocks. The arguments are those of `UnetBlock`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, up: bool = False, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, up=up, **options)
        project = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        # Both orders give the same result; this one runs the 1 x 1 convolution on fewer pixels.
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
