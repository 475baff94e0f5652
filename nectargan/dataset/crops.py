"""Random crops, flips and quarter turns. They are drawn on the CPU and applied on the device.

Any combination of them is described by three integers: pixel (i, j) of the result is pixel
``first + i * down + j * right`` of the image, with its pixels numbered row by row. Only these three
integers per image are copied to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

Crops = npt.NDArray[np.int64]


def draw_crops(
    count: int,
    load_size: Sequence[Any] | npt.NDArray[np.int64],
    crop_size: tuple[int, int],
    chances: Sequence[float],
    seed: Sequence[int],
) -> Crops:
    """Draws one crop for each of ``count`` images.

    Args:
        count: Number of images.
        load_size: (height, width) of the images; numbers, or arrays with one number per image.
        crop_size: (height, width) of the crops; square if there are to be quarter turns.
        chances: The probabilities of a horizontal flip, a vertical flip and a rotation by one, two
            or three quarter turns, each in [0, 1].
        seed: Seed of the random numbers. A different chance does not change the positions of the
            crops or the draws of the other chances.

    Returns:
        An int64 array ``(count, 3)`` with first, down and right of each crop.
    """
    (height, width), (load_height, load_width) = crop_size, load_size
    rng = np.random.default_rng(seed)
    # All numbers are always drawn, so that one setting does not change the draws of another.
    top = rng.integers(load_height - height + 1, size=count)
    left = rng.integers(load_width - width + 1, size=count)
    h_flip, v_flip, turn = rng.random((3, count)) < np.asarray(chances)[:, None]
    quarters = np.where(turn, rng.integers(1, 4, size=count), 0)

    first = top * load_width + left
    down = np.full(count, load_width)
    right = np.ones(count, dtype=np.int64)
    # A flipped crop starts at the opposite edge and goes in the opposite direction.
    first, right = np.where(h_flip, first + (width - 1) * right, first), _sign(h_flip) * right
    first, down = np.where(v_flip, first + (height - 1) * down, first), _sign(v_flip) * down
    for quarter in range(3):
        # A counterclockwise turn: the first row of the result is the last column of the image.
        turned = quarters > quarter
        first = np.where(turned, first + (width - 1) * right, first)
        down, right = np.where(turned, -right, down), np.where(turned, down, right)
    return np.stack([first, down, right], axis=1)


def crop_images(images: Tensor, crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops each image on its device.

    Args:
        images: ``(N, C, H, W)``, contiguous, of any dtype.
        crops: ``(N, 3)``, int64, from `draw_crops`.
        size: (height, width) of the crops.

    Returns:
        ``(N, C, height, width)``.
    """
    n, channels = images.shape[:2]
    pixels = _pixels(crops, size).unsqueeze(1).expand(-1, channels, -1)
    cropped = bits(images).flatten(2).gather(2, pixels)
    return cropped.view(images.dtype).view(n, channels, *size)


def crop_array(
    image: npt.NDArray[Any], crop: npt.NDArray[np.int64], size: tuple[int, int]
) -> npt.NDArray[Any]:
    """Crops one image without copying it.

    Args:
        image: ``(H, W, C)``.
        crop: ``(3,)``, from `draw_crops`.
        size: (height, width) of the crop.

    Returns:
        A view ``(height, width, C)`` that must not be written to.
    """
    first, down, right = crop.tolist()
    pixels = np.ascontiguousarray(image).reshape(-1, image.shape[2])
    along, across = pixels.strides
    strides = (down * along, right * along, across)
    return as_strided(pixels[first:], (*size, image.shape[2]), strides, writeable=False)


def crop_flat(flat: Tensor, crops: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops images of different sizes on their device.

    Args:
        flat: ``(C, pixels)``: the pixels of all images, one image after the other.
        crops: ``(N, 3)``, int64, from `draw_crops`, with the number of pixels before the image
            added to the first number of each.
        size: (height, width) of the crops.

    Returns:
        ``(N, C, height, width)``, contiguous.
    """
    pixels = _pixels(crops, size).flatten().expand(len(flat), -1)
    cropped = bits(flat).gather(1, pixels).view(len(flat), len(crops), *size)
    return cropped.transpose(0, 1).contiguous().view(flat.dtype)


def bits(images: Tensor) -> Tensor:
    """The same bits in a dtype that torch can select from: int16 for uint16."""
    return images.view(torch.int16) if images.dtype == torch.uint16 else images


def _pixels(crops: Tensor, size: tuple[int, int]) -> Tensor:
    """The number of each pixel of each crop, ``(N, height * width)``."""
    first, down, right = crops.view(len(crops), 3, 1, 1).unbind(1)
    i = torch.arange(size[0], device=crops.device).view(1, -1, 1)
    j = torch.arange(size[1], device=crops.device)
    return ((first + i * down) + j * right).flatten(1)


def _sign(flip: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.where(flip, -1, 1)
