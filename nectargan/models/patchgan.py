"""PatchGAN and PixelGAN, the discriminators of pix2pix (Isola et al. 2017, section 6.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nectargan.errors import ModelError, check_choice
from nectargan.models.blocks import (
    INITS,
    PADDINGS,
    check_whole,
    init_weights,
    with_spectral_norm,
)
from nectargan.models.convolutions import PaddedConv2d, in_fast_order
from nectargan.models.norms import NORMS


class PatchGANDiscriminator(nn.Module):
    """Decides for each patch of a pair of images whether it is real or generated.

    It has ``n_layers`` convolutions with stride 2 and then two with stride 1, all 4 x 4. A patch is
    70 x 70 pixels for n_layers=3 (2.77 M parameters with the defaults) and 16 x 16 for n_layers=1.
    With n_layers=0 it is the PixelGAN of the paper: three 1 x 1 convolutions.

    Args:
        in_channels: Channels of both images together.
        base_channels: Channels of the first layer. They double with every layer.
        n_layers: Number of convolutions with stride 2.
        max_channels: Largest number of channels of a layer.
        norm: "instance" (no affine weights) or "batch"; the first and last layer have no norm.
        padding: "zeros" or "reflect".
        init: Initialization of the weights; see `init_weights`.
        spectral_norm: Whether to apply spectral normalization (Miyato et al. 2018) to the
            convolutions.

    Raises:
        ModelError: If an argument is out of range or an unknown name.
    """

    def __init__(
        self,
        in_channels: int = 6,
        base_channels: int = 64,
        n_layers: int = 3,
        max_channels: int = 512,
        norm: str = "instance",
        padding: str = "zeros",
        init: str = "normal",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_whole(owner, "in_channels", in_channels, 2)
        check_whole(owner, "base_channels", base_channels, 1)
        check_whole(owner, "n_layers", n_layers, 0)
        check_whole(owner, "max_channels", max_channels, 1)
        check_choice(ModelError, owner, "norm", norm, NORMS)
        check_choice(ModelError, owner, "padding", padding, PADDINGS)
        check_choice(ModelError, owner, "init", init, INITS)

        self.n_layers = n_layers
        self._kernel = 4 if n_layers else 1
        self._strides = [2] * n_layers + [1, 1] if n_layers else [1, 1, 1]
        hidden = len(self._strides) - 1
        widths = [min(base_channels * 2**layer, max_channels) for layer in range(hidden)]

        layers: list[nn.Module] = []
        ends = zip([in_channels, *widths], [*widths, 1], self._strides, strict=True)
        for layer, (nc_in, nc_out, stride) in enumerate(ends):
            normed = 0 < layer < hidden
            layers.append(PaddedConv2d(nc_in, nc_out, self._kernel, stride, not normed, padding))
            if normed:
                layers.append(NORMS[norm](nc_out))
            if layer < hidden:
                layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers)
        init_weights(self, init)
        if spectral_norm:
            for convolution in self.layers:
                if isinstance(convolution, nn.Conv2d):
                    with_spectral_norm(convolution)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes the logits of the pairs (x, y).

        Args:
            x: Input images ``(N, C, H, W)`` in [-1, 1].
            y: Real or generated images ``(N, in_channels - C, H, W)`` in [-1, 1].

        Returns:
            Logits ``(N, 1, H', W')``, one per patch; a high value means real.
        """
        logits: Tensor = self.layers(in_fast_order(torch.cat((x, y), dim=1)))
        return logits

    def features(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        """Computes the features of the pairs (x, y), for feature matching.

        Args:
            x: Input images, as in `forward`.
            y: Real or generated images, as in `forward`.

        Returns:
            One list per scale, here a single one: the maps after each activation, and then the
            logits.
        """
        maps, out = [], torch.cat((x, y), dim=1)
        for layer in self.layers:
            out = layer(out)
            if isinstance(layer, nn.LeakyReLU):
                maps.append(out)
        return [[*maps, out]]

    @property
    def receptive_field(self) -> int:
        """Side of the patch that a logit depends on, in pixels."""
        field = 1
        for stride in reversed(self._strides):
            field = (field - 1) * stride + self._kernel
        return field

    def check_size(self, height: int, width: int) -> None:
        """Raises `ModelError` if images of this size, in pixels, are too small.

        An accepted size can be trained on at any batch size, because each norm gets more than one
        pixel.
        """
        # Each convolution with stride 2 halves the size, rounding down; each of the two with stride
        # 1 reduces it by one pixel. A PixelGAN needs two pixels only because of its norm.
        smallest = 3 * 2**self.n_layers if self.n_layers else 2
        if min(height, width) < smallest:
            raise ModelError(
                f"The discriminator cannot take images of {height} x {width} (height x width): "
                f"with n_layers={self.n_layers} they must be at least {smallest} x {smallest}."
            )


class PixelDiscriminator(PatchGANDiscriminator):
    """Decides for each pixel of a pair of images whether it is real or generated.

    It is the PixelGAN of the paper: three 1 x 1 convolutions, which see colors but no texture.

    Args:
        in_channels: Channels of both images together.
        base_channels: Channels of the first layer; the second layer has twice as many.
        norm: "instance" (no affine weights) or "batch".
        init: Initialization of the weights; see `init_weights`.
        spectral_norm: Whether to apply spectral normalization to the convolutions.

    Raises:
        ModelError: If an argument is out of range or an unknown name.
    """

    def __init__(
        self,
        in_channels: int = 6,
        base_channels: int = 64,
        norm: str = "instance",
        init: str = "normal",
        spectral_norm: bool = False,
    ) -> None:
        check_whole(type(self).__name__, "base_channels", base_channels, 1)
        super().__init__(
            in_channels,
            base_channels,
            n_layers=0,
            max_channels=2 * base_channels,
            norm=norm,
            init=init,
            spectral_norm=spectral_norm,
        )
