"""Reads pairs of images with Pillow, in 8 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from nectargan.dataset.decoding import in_mode, read_image
from nectargan.dataset.pairs import Pair
from nectargan.errors import DataError


def read_plain(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Reads A and B as they are displayed, in their original mode and size."""
    if pair.b is not None:
        return read_image(pair.a), read_image(pair.b)
    whole = read_image(pair.a)
    width, height = whole.size
    if width % 2:
        raise DataError(f"{pair.a}: the width {width} is odd; it must be two equal halves")
    half = width // 2
    return whole.crop((0, 0, half, height)), whole.crop((half, 0, width, height))


def plain_array(
    image: Image.Image, mode: str, size: tuple[int, int] | None, resampling: Image.Resampling
) -> npt.NDArray[np.uint8]:
    """Converts and resizes an image to a uint8 array ``(H, W, C)``; ``None`` keeps its size."""
    height, width = size or (image.height, image.width)
    image = in_mode(image, mode)
    if image.size != (width, height):
        image = image.resize((width, height), resampling)
    return np.asarray(image).reshape(height, width, -1)
