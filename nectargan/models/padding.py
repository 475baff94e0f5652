"""Padding of images of any size to sizes that a network takes.

The functions can be exported with the network; during an export, the side of an image is symbolic.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


def fitting_side(side: int, multiple: int, smallest: int) -> int:
    """The smallest length of at least ``side`` pixels that a network takes."""
    steps = (side + multiple - 1) // multiple
    # `max` would compare the values, and the exported network would keep the result as a constant.
    most = torch.sym_max(steps, -(-smallest // multiple))  # type: ignore[no-untyped-call]  # untyped in torch
    return cast("int", most * multiple)


def padded(images: Tensor, height: int, width: int) -> Tensor:
    """Pads images ``(N, C, H, W)`` by reflection below and on the right to ``(height, width)``.

    If an image is too small for one reflection, it is reflected repeatedly; a side of one pixel is
    repeated. The padding is only on these two sides, so that pixels keep their positions in the
    grids of the network.
    """
    for dim, size in ((2, height), (3, width)):
        side = images.shape[dim]
        if torch.compiler.is_compiling() or side != size:
            images = images.index_select(dim, mirrored(side, size, images.device))
    return images


def mirrored(side: int, size: int, device: torch.device) -> Tensor:
    """The indices of ``size`` pixels in a row of ``side`` pixels that is reflected at both ends."""
    # A tensor, because the ONNX exporter cannot divide by a symbolic number.
    period = (2 * torch.arange(side, device=device)[-1:]).clamp(min=1)
    places = torch.arange(size, device=device).remainder(period)
    return torch.minimum(places, period - places)
