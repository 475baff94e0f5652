"""Reads an image file as it is displayed, in 8 bits, or explains in one sentence why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nectargan.images.pillow_files import (
    QUARTERS,
    full_scale,
    in_8_bits,
    opened,
    orientation_of,
    samples,
    turned,
)
from nectargan.sources import Source

ENOUGH = 512  # pixels of a side in which a picture can be compared with others
MOST_COLOURS = 64  # an image with more colors is not a label map


class PixelStatistics(NamedTuple):
    """Statistics of the values of an image, or of one half of it.

    Attributes:
        peak: The largest value in the file, without alpha.
        full: The largest value that the type of the file can hold.
        is_transparent: Whether any pixel is fully or partly transparent.
        colours: Number of different colors; ``None`` if there are many, or for JPEG.
        invalid: Number of pixels that are nodata, NaN or infinite.
        is_empty: Whether all pixels are.
        channels: Number of channels that are read; 0 for those that Pillow reads in 8 bits, which
            have at most 4.
        lowest: The smallest value in the file, of a type with a sign.
    """

    peak: int
    full: int
    is_transparent: bool
    colours: int | None
    invalid: int = 0
    is_empty: bool = False
    channels: int = 0
    lowest: int = 0


class Probe(NamedTuple):
    """The result of reading a file completely.

    Attributes:
        height: Height as displayed, in pixels.
        width: Width as displayed, in pixels.
        parts: Statistics of the whole image, or of its two halves.
        has_frames: Whether there are more frames or pages. Only the first one is read.
        left_out: Number of channels of the file that are not read.
        dtype: The dtype of its values; ``None`` if Pillow reads all of it in 8 bits.
    """

    height: int
    width: int
    parts: tuple[PixelStatistics, ...]
    has_frames: bool
    left_out: int
    dtype: np.dtype[Any] | None = None


def read_image(path: Source) -> Image.Image:
    """Reads an image as it is displayed, in one of the modes of `MODES`.

    16-bit values are scaled to 8 bits over the full range of their type.

    Raises:
        DataError: If the file cannot be read.
    """
    with opened(path) as image:
        full = full_scale(image)
        image.load()
        return in_8_bits(turned(image), full)


def probe(
    path: Source,
    halves: bool = False,
    on_pixels: Callable[[Image.Image, int, object], object] | None = None,
) -> Probe:
    """Reads an image file completely and collects statistics.

    Args:
        path: The file.
        halves: Whether the left and the right half are two separate images.
        on_pixels: Called with the image as it is displayed, the largest value that its type can
            hold, and its EXIF orientation. A large JPEG is reduced, but not below
            `ENOUGH` pixels a side.

    Raises:
        DataError: If the file cannot be read.
    """
    with opened(path) as image:
        full, size = full_scale(image), image.size
        is_jpeg = image.format in ("JPEG", "MPO")
        has_frames = not is_jpeg and bool(getattr(image, "is_animated", False))
        left_out = max(0, samples(image) - len(image.getbands()))
        # At 1/8 scale, a JPEG is still read completely, in a fraction of the time.
        image.draft(*(("L", (1, 1)) if on_pixels is None else (None, (ENOUGH, ENOUGH))))
        is_scaled = image.size != size
        image.load()
        width, height = size if is_scaled else image.size
        orientation = orientation_of(image)
        if orientation in QUARTERS:
            width, height = height, width
        picture = turned(image)
        if on_pixels is not None:
            on_pixels(picture, full, orientation)
        middle = picture.width // 2
        spans = [(0, middle), (middle, picture.width)] if halves else [(0, picture.width)]
        boxes = [picture.crop((left, 0, right, picture.height)) for left, right in spans]
        parts = tuple(_statistics(box, full, not is_jpeg) for box in boxes if box.width)
        return Probe(height, width, parts, has_frames, left_out)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image from `read_image` to another of the modes of `MODES`.

    If the mode has no alpha, transparent pixels are composited over black, so that the network does
    not learn invisible colors.
    """
    if image.mode == mode:
        return image
    if image.mode in ("LA", "RGBA") and mode in ("L", "RGB"):
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert(mode)


def _statistics(picture: Image.Image, full: int, is_lossless: bool) -> PixelStatistics:
    eight = in_8_bits(picture, full)
    extrema: Any = eight.getextrema()
    bands = [extrema] if len(eight.getbands()) == 1 else list(extrema)
    is_transparent = eight.mode in ("LA", "RGBA") and bands.pop()[0] < 255
    peak = max(high for _, high in bands)
    if picture.mode.startswith("I"):
        peak = int(np.asarray(picture).max())
    elif full > 255:
        peak = peak << 8 | 255  # Pillow keeps only the upper byte
    found = eight.getcolors(MOST_COLOURS) if is_lossless else None
    return PixelStatistics(peak, full, is_transparent, len(found) if found else None)
