"""The generator of pix2pix: a U-Net (Isola et al. 2017, "Image-to-image translation with
conditional adversarial networks", section 6.1.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nectargan.errors import ModelError
from nectargan.models.blocks import (
    BLOCKS,
    INITS,
    PADDINGS,
    UPSAMPLE_TYPES,
    check_choice,
    check_dropout,
    check_whole,
    init_weights,
)
from nectargan.models.norms import NORMS

_WIDEST = 8  # times `features`
_DROPOUT_BLOCKS = 3


class UnetGenerator(nn.Module):
    """U-Net from an image to an image of the same size.

    It halves the image n_downs + 2 times: a first level and a bottleneck, both without norm, and
    n_downs levels with norm between them. Channels double from ``features`` to 8 * ``features``.
    Every level but the bottleneck is handed on to its counterpart on the way up. With the
    defaults a 256 x 256 image goes down to 1 x 1; with ``norm="batch"`` too, this is the paper's
    network of 54,413,955 parameters.

    Args:
        input_nc: Channels of the input image.
        output_nc: Channels of the generated image.
        features: Channels of the first level.
        n_downs: Levels between the first one and the bottleneck, 0 or more.
        block_type: "UnetBlock" or "ResidualUnetBlock".
        upsample_type: "Transposed", "Bilinear", "Nearest" or "PixelShuffle"; see `UnetBlock`.
        norm: "instance" (no affine weights) or "batch".
        dropout: Chance to drop a value, while training, in the three blocks that follow the
            bottleneck (fewer if the network has fewer; never in the output). 0 for none.
        padding: "zeros" or "reflect" at the borders, on the way down and after an interpolation.
        init: Weights at the start; see `init_weights`.

    Raises:
        ModelError: an argument is out of its range or an unknown name.
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
        check_choice(owner, "block_type", block_type, BLOCKS)
        check_choice(owner, "upsample_type", upsample_type, UPSAMPLE_TYPES)
        check_choice(owner, "norm", norm, NORMS)
        check_choice(owner, "padding", padding, PADDINGS)
        check_choice(owner, "init", init, INITS)
        check_dropout(owner, dropout)

        self.n_downs = n_downs
        block = BLOCKS[block_type]
        last = n_downs + 1
        widths = [features * min(2**level, _WIDEST) for level in range(n_downs + 2)]
        # A norm would undo a bias. The two levels without one get theirs, but not beside batch
        # norm: the paper's network has none there.
        lone_bias = norm == "instance"

        self.downs = nn.ModuleList()
        for level, (nc_in, nc_out) in enumerate(zip([input_nc, *widths], widths, strict=False)):
            normed = 0 < level < last
            self.downs.append(
                block(
                    nc_in,
                    nc_out,
                    activate=level > 0,
                    norm=norm if normed else None,
                    bias=lone_bias and not normed,
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
            x: Input images ``(N, input_nc, H, W)`` in [-1, 1], of a size that `check_size` takes.

        Returns:
            Images ``(N, output_nc, H, W)`` in [-1, 1].

        Raises:
            ModelError: it cannot take images of this size, see `check_size`.
        """
        # Not part of the graph: a compiled or exported network has one size, or a rule for it.
        if not torch.compiler.is_compiling():
            self.check_size(*x.shape[-2:])
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.ups:
            x = up(x)
            if skips:
                x = torch.cat((x, skips.pop()), dim=1)
        return torch.tanh(x)

    @property
    def multiple(self) -> int:
        """Both sides of an image must be a multiple of this number of pixels."""
        return int(2 ** (self.n_downs + 2))

    @property
    def smallest(self) -> int:
        """The least that a side can have, in pixels."""
        return self.multiple

    def check_size(self, height: int, width: int) -> None:
        """Raises `ModelError` unless the network takes images of this size, in pixels.

        A size that passes can be trained on at any batch size, 1 included: the smallest map that
        meets a norm is 2 x 2.
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
    """The nearest sizes, smaller and larger, whose sides are positive multiples of ``multiple``.

    Returns:
        One or two pairs (height, width); one where both coincide.
    """

    def fit(side: int, rounded_up: int) -> int:
        return max((side + rounded_up) // multiple, 1) * multiple

    return sorted({(fit(height, extra), fit(width, extra)) for extra in (0, multiple - 1)})


def _deepest(height: int, width: int) -> int:
    """The largest n_downs that takes this size; negative where none does."""
    common = math.gcd(height, width)
    return (common & -common).bit_length() - 3
