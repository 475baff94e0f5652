"""The U-Net generator of pix2pix.

Source: Isola et al. 2017, "Image-to-image translation with conditional adversarial networks",
section 6.1.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nectargan.errors import ModelError, check_choice
from nectargan.models.blocks import (
    BLOCKS,
    INITS,
    PADDINGS,
    UPSAMPLE_TYPES,
    check_dropout,
    check_whole,
    init_weights,
)
from nectargan.models.norms import NORMS

_WIDEST = 8  # times `features`
_DROPOUT_BLOCKS = 3


class UnetGenerator(nn.Module):
    """A U-Net that generates an image of the same size.

    It halves the image n_downs + 2 times: at the first level and the bottleneck, which have no
    norm, and at n_downs levels with norm between them. The channels double from ``features`` to
    8 * ``features``. Each level but the bottleneck has a skip connection to the up block of the
    same size. With the defaults, a 256 x 256 image is reduced to 1 x 1. With ``norm="batch"``, this
    is the network of the paper with 54,413,955 parameters.

    Args:
        input_nc: Channels of the input image.
        output_nc: Channels of the generated image.
        features: Channels of the first level.
        n_downs: Number of levels between the first one and the bottleneck, 0 or more.
        block_type: "UnetBlock" or "ResidualUnetBlock".
        upsample_type: "Transposed", "Bilinear", "Nearest" or "PixelShuffle"; see `UnetBlock`.
        norm: "instance" (no affine weights) or "batch".
        dropout: Dropout probability in the first three up blocks (fewer in a smaller network; never
            in the output block); 0 for none.
        padding: "zeros" or "reflect", in down blocks and after an interpolation.
        init: Initialization of the weights; see `init_weights`.

    Raises:
        ModelError: If an argument is out of range or an unknown name.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        features: int = 64,
        n_downs: int = 6,
        block_type: str = "UnetBlock",
        upsample_type: str = "Transposed",
        norm: str = "instance",
        dropout: float = 0.5,
        padding: str = "zeros",
        init: str = "normal",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_whole(owner, "input_nc", input_nc, 1)
        check_whole(owner, "output_nc", output_nc, 1)
        check_whole(owner, "features", features, 1)
        check_whole(owner, "n_downs", n_downs, 0)
        check_choice(ModelError, owner, "block_type", block_type, BLOCKS)
        check_choice(ModelError, owner, "upsample_type", upsample_type, UPSAMPLE_TYPES)
        check_choice(ModelError, owner, "norm", norm, NORMS)
        check_choice(ModelError, owner, "padding", padding, PADDINGS)
        check_choice(ModelError, owner, "init", init, INITS)
        check_dropout(owner, dropout)

        self.n_downs = n_downs
        block = BLOCKS[block_type]
        last = n_downs + 1
        widths = [features * min(2**level, _WIDEST) for level in range(n_downs + 2)]
        # A norm cancels a bias, so only the two levels without norm have one. With batch norm they
        # have none either, as in the network of the paper.
        bias_without_norm = norm == "instance"

        self.downs = nn.ModuleList()
        for level, (nc_in, nc_out) in enumerate(zip([input_nc, *widths], widths, strict=False)):
            normed = 0 < level < last
            self.downs.append(
                block(
                    nc_in,
                    nc_out,
                    activate=level > 0,
                    norm=norm if normed else None,
                    bias=bias_without_norm and not normed,
                    padding=padding,
                )
            )

        outs = [*reversed(widths[:-1]), output_nc]
        ins = [widths[-1], *(2 * width for width in outs[:-1])]
        self.ups = nn.ModuleList()
        for level, (nc_in, nc_out) in enumerate(zip(ins, outs, strict=True)):
            output = level == last
            self.ups.append(
                block(
                    nc_in,
                    nc_out,
                    up=True,
                    norm=None if output else norm,
                    bias=output,
                    upsample_type=upsample_type,
                    padding=padding,
                    dropout=dropout if level < _DROPOUT_BLOCKS and not output else 0.0,
                )
            )
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
        return torch.tanh(self.level(0, x))

    def level(self, number: int, x: Tensor) -> Tensor:
        """What a level and those below it make of a map; level 0 reads the image.

        Args:
            number: From 0 to `deepest`.
            x: ``(N, C, h, w)``, 2 ** ``number`` times smaller than the image.

        Returns:
            ``(N, C', h, w)``.
        """
        x = self.downs[number](x)
        if number < self.deepest:
            x = torch.cat((self.level(number + 1, x), x), dim=1)
        result: Tensor = self.ups[-1 - number](x)
        return result

    @property
    def deepest(self) -> int:
        """The number of the bottleneck's level."""
        return self.n_downs + 1

    def reach(self, number: int) -> int:
        """From how many pixels away others change a generated pixel, at most, if what `level` makes
        at ``number`` is given; 1 more than `deepest`: if nothing is given."""
        return int(4 * 2**number)

    @property
    def multiple(self) -> int:
        """Both sides of an image must be a multiple of this number of pixels."""
        return int(2 ** (self.n_downs + 2))

    @property
    def smallest(self) -> int:
        """The smallest side of an image, in pixels."""
        return self.multiple

    def check_size(self, height: int, width: int) -> None:
        """Raises `ModelError` if the network cannot take images of this size, in pixels.

        An accepted size can be trained on at any batch size, because the smallest map that is
        normalized is 2 x 2.
        """
        multiple = self.multiple
        if all(side >= multiple and side % multiple == 0 for side in (height, width)):
            return
        fits = " or ".join(f"{h} x {w}" for h, w in fitting_sizes(height, width, multiple))
        deepest = _deepest(height, width)
        advice = f", or n_downs of at most {deepest} for this size" if deepest >= 0 else ""
        raise ModelError(
            f"The generator cannot take images of {height} x {width} (height x width): with "
            f"n_downs={self.n_downs} both sides must be a multiple of {multiple}, "
            f"the nearest being {fits}{advice}."
        )


def fitting_sizes(height: int, width: int, multiple: int) -> list[tuple[int, int]]:
    """The nearest smaller and larger sizes whose sides are positive multiples of ``multiple``.

    Returns:
        One or two pairs (height, width); one if both sizes are equal.
    """

    def fit(side: int, rounded_up: int) -> int:
        return max((side + rounded_up) // multiple, 1) * multiple

    return sorted({(fit(height, extra), fit(width, extra)) for extra in (0, multiple - 1)})


def _deepest(height: int, width: int) -> int:
    """The largest n_downs that takes images of this size; negative if there is none."""
    common = math.gcd(height, width)
    return (common & -common).bit_length() - 3
