"""The ResNet generator (Johnson et al. 2016, "Perceptual losses for real-time style transfer and
super-resolution"), in the form that CycleGAN uses (Zhu et al. 2017, appendix 7.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nectargan.errors import ModelError
from nectargan.models.blocks import (
    INITS,
    PADDINGS,
    UPSAMPLE_TYPES,
    check_choice,
    check_dropout,
    check_whole,
    init_weights,
    upsampling,
)
from nectargan.models.convolutions import PaddedConv2d
from nectargan.models.norms import NORMS

_ENDS = 7  # side of the first and the last kernel


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with norm and a ReLU between them, added to their input.

    Args:
        channels: Channels of input and output ``(N, channels, H, W)``.
        norm: A key of `NORMS`.
        bias: Give the convolutions a bias.
        padding: "zeros" or "reflect".
        dropout: Chance of each value to be dropped, between the convolutions, while training.
    """

    def __init__(
        self, channels: int, norm: str, bias: bool, padding: str, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.main = nn.Sequential(
            PaddedConv2d(channels, channels, 3, bias=bias, padding=padding),
            NORMS[norm](channels),
            nn.ReLU(inplace=True),
            *([nn.Dropout(dropout)] if dropout else []),
            PaddedConv2d(channels, channels, 3, bias=bias, padding=padding),
            NORMS[norm](channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.main(x)
        return x + residual


class ResnetGenerator(nn.Module):
    """From an image to an image of the same size, through residual blocks at a quarter of it.

    A 7 x 7 convolution; n_downs 3 x 3 convolutions of stride 2, each of which doubles the channels;
    n_blocks residual blocks; as many layers back up; a 7 x 7 convolution and tanh. All but the last
    are followed by a norm and a ReLU. With the defaults it has 11,378,179 parameters, and 7,837,699
    with n_blocks=6.

    Args:
        input_nc: Channels of the input image.
        output_nc: Channels of the generated image.
        features: Channels of the first layer.
        n_downs: Layers that halve the size, 0 or more.
        n_blocks: Residual blocks.
        upsample_type: "Transposed" (3 x 3, stride 2), or as in `upsampling`.
        norm: "instance" (no affine weights) or "batch".
        dropout: Chance to drop a value, while training, in each residual block; 0 for none.
        padding: "reflect" or "zeros" at the borders; see `upsampling` for the way up.
        init: Weights at the start; see `init_weights`.

    Raises:
        ModelError: an argument is out of its range or an unknown name.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        features: int = 64,
        n_downs: int = 2,
        n_blocks: int = 9,
        upsample_type: str = "Transposed",
        norm: str = "instance",
        dropout: float = 0.0,
        padding: str = "reflect",
        init: str = "normal",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_whole(owner, "input_nc", input_nc, 1)
        check_whole(owner, "output_nc", output_nc, 1)
        check_whole(owner, "features", features, 1)
        check_whole(owner, "n_downs", n_downs, 0)
        check_whole(owner, "n_blocks", n_blocks, 1)
        check_choice(owner, "upsample_type", upsample_type, UPSAMPLE_TYPES)
        check_choice(owner, "norm", norm, NORMS)
        check_dropout(owner, dropout)
        check_choice(owner, "padding", padding, PADDINGS)
        check_choice(owner, "init", init, INITS)

        self.n_downs = n_downs
        # Instance norm undoes these biases, but the published networks have them, and are compared
        # by their number of parameters.
        bias = norm == "instance"

        def normed(channels: int) -> list[nn.Module]:
            return [NORMS[norm](channels), nn.ReLU(inplace=True)]

        layers = [
            PaddedConv2d(input_nc, features, _ENDS, bias=bias, padding=padding),
            *normed(features),
        ]
        width = features
        for _ in range(n_downs):
            # Zeros at these borders in the code of both papers, whatever the padding elsewhere.
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=bias), *normed(2 * width)]
            width *= 2
        layers += [ResidualBlock(width, norm, bias, padding, dropout) for _ in range(n_blocks)]
        for _ in range(n_downs):
            if upsample_type == "Transposed":
                layers.append(
                    nn.ConvTranspose2d(
                        width, width // 2, 3, 2, padding=1, output_padding=1, bias=bias
                    )
                )
            else:
                layers += upsampling(upsample_type, width, width // 2, bias, padding)
            width //= 2
            layers += normed(width)
        layers.append(PaddedConv2d(width, output_nc, _ENDS, padding=padding))
        self.layers = nn.Sequential(*layers)
        init_weights(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Generates images.

        Args:
            x: Input images ``(N, input_nc, H, W)`` in [-1, 1], of a size that `check_size` takes.

        Returns:
            Images ``(N, output_nc, H, W)`` in [-1, 1].

        Raises:
            ModelError: it cannot take images of this size, see `check_size`.
        """
        # Not part of the graph: a compiled or exported network has one size, or a rule for it.
        if not torch.compiler.is_compiling():
            self.check_size(*x.shape[-2:])
        return torch.tanh(self.layers(x))

    @property
    def multiple(self) -> int:
        """Both sides of an image must be a multiple of this number of pixels."""
        return int(2**self.n_downs)

    @property
    def smallest(self) -> int:
        """The least that a side can have, in pixels."""
        # A norm needs more than one pixel, and the first convolution four to mirror three of them.
        return max(2 * self.multiple, (_ENDS + 1) // 2)

    def check_size(self, height: int, width: int) -> None:
        """Raises `ModelError` unless the network takes images of this size, in pixels, at any batch
        size."""
        multiple, smallest = self.multiple, self.smallest
        if all(side >= smallest and side % multiple == 0 for side in (height, width)):
            return
        raise ModelError(
            f"The generator cannot take images of {height} x {width} (height x width): with "
            f"n_downs={self.n_downs} both sides must be a multiple of {multiple}, and at least "
            f"{smallest}."
        )
