"""Reads an image file as it is displayed, in 8 bits, or explains in one sentence why it cannot."""

from __future__ import annotations

import logging
import math
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from nectargan.dataset.file_kinds import what_it_is
from nectargan.errors import DataError
from nectargan.files import open_regular

IMAGE_SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# Pillow supports more formats, some through other programs. It supports AVIF since 11.3.
_FORMATS = ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM"] + (
    ["AVIF"] if find_spec("PIL.AvifImagePlugin") else []
)
_LARGEST_FILE = 2**30  # more than an uncompressed image at Pillow's limit of pixels
_READ = "1 to 4 channels of unsigned integers of 8 or 16 bits"
_MOST_COLOURS = 64  # an image with more colors is not a label map
_BITS, _SAMPLES, _SAMPLE_FORMAT, _PHOTOMETRIC = 258, 277, 339, 262  # tags of TIFF

# The exceptions that Pillow raises on damaged files, besides DecompressionBombError.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTERS = (5, 6, 7, 8)

# A single text chunk may be as long as all text together. Pillow's default is 1 MB per chunk.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Pillow's warnings about metadata do not help a user; real problems raise an exception.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class PixelStatistics(NamedTuple):
    """Statistics of the values of an image, or of one half of it.

    Attributes:
        peak: The largest value in the file, without alpha.
        full: The largest value that the type of the file can hold.
        is_transparent: Whether any pixel is fully or partly transparent.
        colours: Number of different colors; ``None`` if there are many, or for JPEG.
    """

    peak: int
    full: int
    is_transparent: bool
    colours: int | None


class Probe(NamedTuple):
    """The result of reading a file completely.

    Attributes:
        height: Height as displayed, in pixels.
        width: Width as displayed, in pixels.
        parts: Statistics of the whole image, or of its two halves.
        has_frames: Whether there are more frames or pages. Only the first one is read.
        left_out: Number of channels of the file that are not read.
    """

    height: int
    width: int
    parts: tuple[PixelStatistics, ...]
    has_frames: bool
    left_out: int


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Reads an image as it is displayed, in one of the modes of `MODES`.

    16-bit values are scaled to 8 bits over the full range of their type.

    Raises:
        DataError: If the file cannot be read.
    """
    with opened(path) as image:
        full = full_scale(image)
        image.load()
        return in_8_bits(turned(image), full)


def probe(path: str | os.PathLike[str], halves: bool = False) -> Probe:
    """Reads an image file completely and collects statistics.

    Args:
        path: The file.
        halves: Whether the left and the right half are two separate images.

    Raises:
        DataError: If the file cannot be read.
    """
    with opened(path) as image:
        full, size = full_scale(image), image.size
        is_jpeg = image.format in ("JPEG", "MPO")
        has_frames = not is_jpeg and bool(getattr(image, "is_animated", False))
        left_out = max(0, _samples(image) - len(image.getbands()))
        # At 1/8 scale, a JPEG is still read completely, in a fraction of the time.
        image.draft("L", (1, 1))
        is_scaled = image.size != size
        image.load()
        width, height = size if is_scaled else image.size
        if orientation_of(image) in _QUARTERS:
            width, height = height, width
        picture = turned(image)
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


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[ImageFile.ImageFile]:
    """Opens an image and reads its header.

    Errors of Pillow, also those inside the ``with`` block, become a `DataError` that names the
    file.
    """
    kind = None
    try:
        # Given a path instead of a file, Pillow memory-maps some TIFFs and rotates them wrongly.
        with (
            open_regular(Path(path), _LARGEST_FILE) as file,
            Image.open(file, formats=_FORMATS) as image,
        ):
            kind = image.format
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError  # Pillow only warns up to twice the limit
            _check_channels(image)
            yield image
    except Image.DecompressionBombError:
        most = f"more than {Image.MAX_IMAGE_PIXELS} pixels, the limit of Pillow"
        raise DataError(f"{path}: {most}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except _PILLOW_ERRORS as error:
        raise DataError(f"{path}: {_complaint(path, kind, error)}") from error


def _complaint(path: str | os.PathLike[str], kind: str | None, error: Exception) -> str:
    """Describes what is wrong with a file, without Pillow's internal messages."""
    if isinstance(error, OSError) and error.strerror:
        return f"unreadable ({error.strerror})"
    if "text chunk" in str(error) or "MAX_TEXT" in str(error):
        return f"it contains more than {PngImagePlugin.MAX_TEXT_MEMORY >> 20} MB of text"
    if kind is None:
        return what_it_is(path, _READ)
    return f"unreadable or truncated: the {kind} data are damaged or incomplete"


def _check_channels(image: Image.Image) -> None:
    channels = _samples(image)
    if channels > max(MODES):
        raise DataError(f"it has {channels} channels; supported are {_READ}")
    if _is_signed(image) and image.mode == "L":
        raise DataError(f"its values are signed 8-bit integers; supported are {_READ}")
    if image.mode.startswith("I") and _tiff_tags(image).get(_PHOTOMETRIC) == 0:
        raise DataError("its 16-bit values are inverted (0 is white); save it with 0 as black")


# --- header ------------------------------------------------------------------------------------


def _tiff_tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _samples(image: Image.Image) -> int:
    return int(_tiff_tags(image).get(_SAMPLES, 0)) or len(image.getbands())


def _is_signed(image: Image.Image) -> bool:
    return 2 in _tiff_tags(image).get(_SAMPLE_FORMAT, (1,))


def full_scale(image: ImageFile.ImageFile) -> int:
    """The largest value that the type of the file can hold.

    For 32 bits it is 65535, because such files are expected to hold 16-bit values.
    """
    if image.mode.startswith("I"):
        bits = _tiff_tags(image).get(_BITS, (16,))[0]
        if bits == 16 and _is_signed(image):
            return 32767
        return 4095 if bits == 12 else 65535
    raw_mode = str(image.tile[0][3]) if image.tile else ""
    return 65535 if ";16" in raw_mode else 255


def orientation_of(image: Image.Image) -> object:
    """The EXIF orientation of a loaded image.

    Loading a TIFF rotates it and removes its orientation.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _PILLOW_ERRORS:
        return None  # only the metadata are damaged


# --- pixels ------------------------------------------------------------------------------------


def turned(image: Image.Image, orientation: object = None) -> Image.Image:
    """Rotates or flips an image as it is displayed.

    Args:
        image: The image.
        orientation: An EXIF orientation; by default that of the image.
    """
    orientation = orientation_of(image) if orientation is None else orientation
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def in_8_bits(image: Image.Image, full: int) -> Image.Image:
    """Converts an image to one of the modes of `MODES`.

    Args:
        image: The image.
        full: The result of `full_scale` for this image.

    Raises:
        DataError: If the type of the values is not supported.
    """
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        raise DataError(f"its colors are CIE L*a*b*; supported are {_READ}")
    if image.mode == "F":
        low, high = image.getextrema()
        found = f"floating-point numbers, from {low:g} to {high:g}"
        raise DataError(f"its values are {found}; supported are {_READ}")
    if image.mode.startswith("I"):
        return _scaled(image, full)
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled(image: Image.Image, full: int) -> Image.Image:
    wide = np.asarray(image)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > full:
        raise DataError(f"its values range from {low} to {high}; supported are {_READ}")
    return Image.fromarray(((wide.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8))


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
    found = eight.getcolors(_MOST_COLOURS) if is_lossless else None
    return PixelStatistics(peak, full, is_transparent, len(found) if found else None)
