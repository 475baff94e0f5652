"""The ResNet generator of CycleGAN (Zhu et al. 2017, appendix 7.2).

It goes back to Johnson et al. 2016, "Perceptual losses for real-time style transfer and
super-resolution".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nectargan.errors import ModelError, check_choice
from nectargan.models.blocks import (
    INITS,
    PADDINGS,
    UPSAMPLE_TYPES,
    check_dropout,
    check_whole,
    init_weights,
    upsampling,
)
from nectargan.models.convolutions import PaddedConv2d
from nectargan.models.norms import NORMS

_ENDS = 7  # side of the first and the last kernel
_PER_LEVEL = 3  # layers that lead to a level: a convolution, a norm and a ReLU


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with norm and a ReLU between them, added to their input.

    Args:
        channels: Channels of input and output ``(N, channels, H, W)``.
        norm: A key of `NORMS`.
        bias: Whether the convolutions have a bias.
        padding: "zeros" or "reflect".
        dropout: Dropout probability between the convolutions.
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
    """Generates an image of the same size, with residual blocks at a quarter of the size.

    The layers are a 7 x 7 convolution; n_downs 3 x 3 convolutions with stride 2, each of which
    doubles the channels; n_blocks residual blocks; n_downs layers that double the size; a 7 x 7
    convolution and tanh. Each convolution but the last one is followed by a norm and a ReLU. It has
    11,378,179 parameters with the defaults, and 7,837,699 with n_blocks=6.

    Args:
        input_nc: Channels of the input image.
        output_nc: Channels of the generated image.
        features: Channels of the first layer.
        n_downs: Number of layers that halve the size, 0 or more.
        n_blocks: Number of residual blocks.
        upsample_type: "Transposed" (3 x 3, stride 2), or one of the other kinds of `upsampling`.
        norm: "instance" (no affine weights) or "batch".
        dropout: Dropout probability in each residual block; 0 for none.
        padding: "reflect" or "zeros"; in the layers that double the size see `upsampling`.
        init: Initialization of the weights; see `init_weights`.

    Raises:
        ModelError: If an argument is out of range or an unknown name.
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
        check_choice(ModelError, owner, "upsample_type", upsample_type, UPSAMPLE_TYPES)
        check_choice(ModelError, owner, "norm", norm, NORMS)
        check_dropout(owner, dropout)
        check_choice(ModelError, owner, "padding", padding, PADDINGS)
        check_choice(ModelError, owner, "init", init, INITS)

        self.n_downs = n_downs
        self._n_blocks = n_blocks
        # Instance norm cancels these biases, but the published networks have them, and so the
        # numbers of parameters agree.
        bias = norm == "instance"

        def normed(channels: int) -> list[nn.Module]:
            return [NORMS[norm](channels), nn.ReLU(inplace=True)]

        layers = [
            PaddedConv2d(input_nc, features, _ENDS, bias=bias, padding=padding),
            *normed(features),
        ]
        width = features
        for _ in range(n_downs):
            # The code of both papers always pads these layers with zeros.
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
        self._per_up = 3 if upsample_type in ("Transposed", "PixelShuffle") else 4
        layers.append(PaddedConv2d(width, output_nc, _ENDS, padding=padding))
        self.layers = nn.Sequential(*layers)
        init_weights(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Generates images.

        Args:
            x: Input images ``(N, input_nc, H, W)`` in [-1, 1].

        Returns:
            Images ``(N, output_nc, H, W)`` in [-1, 1].

        Raises:
            ModelError: If the network cannot take images of this size; see `check_size`.
        """
        # Not in a compiled or exported graph, whose size is fixed or checked by its own rules.
        if not torch.compiler.is_compiling():
            self.check_size(*x.shape[-2:])
        return torch.tanh(self.layers[-1](self.level(0, self.layers[:_PER_LEVEL](x))))

    def level(self, number: int, x: Tensor) -> Tensor:
        """What a level and those below it make of a map; level 0 is that of the image's size.

        Args:
            number: From 0 to `deepest`, which has the residual blocks.
            x: ``(N, C, h, w)``, 2 ** ``number`` times smaller than the image.

        Returns:
            ``(N, C, h, w)``.
        """
        before = _PER_LEVEL * (number + 1)
        after = len(self.layers) - 1 - self._per_up * number
        if number == self.deepest:
            blocks: Tensor = self.layers[before:after](x)
            return blocks
        x = self.level(number + 1, self.layers[before : before + _PER_LEVEL](x))
        result: Tensor = self.layers[after - self._per_up : after](x)
        return result

    @property
    def deepest(self) -> int:
        """The number of the level with the residual blocks."""
        return self.n_downs

    def reach(self, number: int) -> int:
        """From how many pixels away others change a generated pixel, at most, if what `level` makes
        at ``number`` is given; 1 more than `deepest`: if nothing is given."""
        if number > self.deepest:
            return int((4 + 2 * self._n_blocks) * 2**self.deepest) + _ENDS // 2
        return int(4 * 2**number)

    @property
    def multiple(self) -> int:
        """Both sides of an image must be a multiple of this number of pixels."""
        return int(2**self.n_downs)

    @property
    def smallest(self) -> int:
        """The smallest side of an image, in pixels."""
        # A norm needs more than one pixel. The reflection padding of the first convolution needs
        # four pixels to reflect three.
        return max(2 * self.multiple, (_ENDS + 1) // 2)

    def check_size(self, height: int, width: int) -> None:
        """Raises `ModelError` if the network cannot take images of this size, in pixels.

        An accepted size can be trained on at any batch size.
        """
        multiple, smallest = self.multiple, self.smallest
        if all(side >= smallest and side % multiple == 0 for side in (height, width)):
            return
        raise ModelError(
            f"The generator cannot take images of {height} x {width} (height x width): with "
            f"n_downs={self.n_downs} both sides must be a multiple of {multiple}, and at least "
            f"{smallest}."
        )
