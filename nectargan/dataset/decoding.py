"""Reading one image file: the picture as it is displayed, in 8 bits, or one sentence on what is
wrong with it."""

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

SUFFIXES = frozenset(
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

# Pillow knows more, some through other programs; Pillow before 11.3 has no AVIF.
_FORMATS = ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM"] + (
    ["AVIF"] if find_spec("PIL.AvifImagePlugin") else []
)
_LARGEST_FILE = 2**30  # Pillow's limit of pixels, uncompressed, takes less
_READ = "1 to 4 channels of unsigned integers of 8 or 16 bits"
_MOST_COLOURS = 64  # of what may be a label map
_BITS, _SAMPLES, _SAMPLE_FORMAT, _PHOTOMETRIC = 258, 277, 339, 262  # tags of TIFF

# What Pillow's decoders raise on damaged files, besides DecompressionBombError.
_UNREADABLE = (
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

# Text beside the picture may be as long as all of it together; Pillow would refuse 1 MB in a chunk.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# What Pillow says of odd metadata is of no use to a user, and what matters is raised.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class Part(NamedTuple):
    """What the values of a picture, or of a half of one, are like.

    Attributes:
        peak: The greatest value of any channel but alpha, as in the file.
        full: The greatest that its type can hold.
        is_transparent: Whether any pixel is, wholly or in part.
        colours: How many there are; ``None`` for many, and after JPEG's compression.
    """

    peak: int
    full: int
    is_transparent: bool
    colours: int | None


class Probe(NamedTuple):
    """What a full read of a file tells.

    Attributes:
        height: In pixels, as displayed.
        width: In pixels, as displayed.
        parts: One of the whole picture, or one of each half.
        has_frames: Whether there are frames or pages after the first one, which is read.
        left_out: Channels of the file that are not read.
    """

    height: int
    width: int
    parts: tuple[Part, ...]
    has_frames: bool
    left_out: int


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file as it is displayed, its mode one of `MODES`.

    16 bits are brought down to 8 over the whole range of their type.

    Raises:
        DataError: what is wrong with the file.
    """
    with _opened(path) as image:
        full = _full_scale(image)
        image.load()
        return _in_8_bits(_turned(image), full)


def probe(path: str | os.PathLike[str], halves: bool = False) -> Probe:
    """Reads a file to its end.

    Args:
        path: The file.
        halves: Whether its left and its right half are two pictures.

    Raises:
        DataError: what is wrong with the file.
    """
    with _opened(path) as image:
        full, size = _full_scale(image), image.size
        is_jpeg = image.format in ("JPEG", "MPO")
        has_frames = not is_jpeg and bool(getattr(image, "is_animated", False))
        left_out = max(0, _samples(image) - len(image.getbands()))
        # A JPEG read at 1/8 scale is still read to its end, in a fraction of the time.
        image.draft("L", (1, 1))
        is_scaled = image.size != size
        image.load()
        width, height = size if is_scaled else image.size
        if _orientation(image) in _QUARTERS:
            width, height = height, width
        picture = _turned(image)
        middle = picture.width // 2
        spans = [(0, middle), (middle, picture.width)] if halves else [(0, picture.width)]
        boxes = [picture.crop((left, 0, right, picture.height)) for left, right in spans]
        parts = tuple(_part(box, full, not is_jpeg) for box in boxes if box.width)
        return Probe(height, width, parts, has_frames, left_out)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """A picture of `read_image` in one of `MODES`; what is transparent is laid over black where the
    mode has no alpha, so that colours nobody sees are not learnt."""
    if image.mode == mode:
        return image
    if image.mode in ("LA", "RGBA") and mode in ("L", "RGB"):
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert(mode)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[ImageFile.ImageFile]:
    """An image whose header was read. All that is wrong, then and in the ``with`` block, becomes a
    `DataError` that names the file."""
    kind = None
    try:
        # By its path, Pillow would map some kinds of TIFF into memory, and turn those wrongly.
        with (
            open_regular(Path(path), _LARGEST_FILE) as file,
            Image.open(file, formats=_FORMATS) as image,
        ):
            kind = image.format
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError  # Pillow only warns of up to twice as many
            _check_channels(image)
            yield image
    except Image.DecompressionBombError:
        most = f"more than {Image.MAX_IMAGE_PIXELS} pixels, which Pillow takes for an attack"
        raise DataError(f"{path}: {most}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except _UNREADABLE as error:
        raise DataError(f"{path}: {_complaint(path, kind, error)}") from error


def _complaint(path: str | os.PathLike[str], kind: str | None, error: Exception) -> str:
    """What is wrong with a file, without the words of Pillow's insides."""
    if isinstance(error, OSError) and error.strerror:
        return f"unreadable ({error.strerror})"
    if "text chunk" in str(error) or "MAX_TEXT" in str(error):
        return f"it has more than {PngImagePlugin.MAX_TEXT_MEMORY >> 20} MB of text in it"
    if kind is None:
        return what_it_is(path, _READ)
    return f"unreadable or truncated: the {kind} data are damaged, or end too early"


def _check_channels(image: Image.Image) -> None:
    channels = _samples(image)
    if channels > max(MODES):
        raise DataError(f"it has {channels} channels; what is read has {_READ}")
    if _is_signed(image) and image.mode == "L":
        raise DataError(f"its values are signed 8-bit integers; what is read is {_READ}")
    if image.mode.startswith("I") and _tiff_tags(image).get(_PHOTOMETRIC) == 0:
        raise DataError("its 16 bits count down from white; save it with 0 as black")


# --- what the header says ----------------------------------------------------------------------


def _tiff_tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _samples(image: Image.Image) -> int:
    return int(_tiff_tags(image).get(_SAMPLES, 0)) or len(image.getbands())


def _is_signed(image: Image.Image) -> bool:
    return 2 in _tiff_tags(image).get(_SAMPLE_FORMAT, (1,))


def _full_scale(image: ImageFile.ImageFile) -> int:
    """The greatest value that the file's type holds; 65535 for 32 bits, which are to hold 16."""
    if image.mode.startswith("I"):
        bits = _tiff_tags(image).get(_BITS, (16,))[0]
        if bits == 16 and _is_signed(image):
            return 32767
        return 4095 if bits == 12 else 65535
    raw_mode = str(image.tile[0][3]) if image.tile else ""
    return 65535 if ";16" in raw_mode else 255


def _orientation(image: Image.Image) -> object:
    """EXIF's, once the image is loaded: TIFF is turned by then, and has none any more."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _UNREADABLE:
        return None  # damaged metadata beside a sound picture


# --- pixels ------------------------------------------------------------------------------------


def _turned(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _in_8_bits(image: Image.Image, full: int) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        raise DataError(f"its colours are those of CIE L*a*b*; what is read is {_READ}")
    if image.mode == "F":
        low, high = image.getextrema()
        found = f"floating-point numbers, from {low:g} to {high:g}"
        raise DataError(f"its values are {found}; what is read is {_READ}")
    if image.mode.startswith("I"):
        return _scaled(image, full)
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled(image: Image.Image, full: int) -> Image.Image:
    wide = np.asarray(image)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > full:
        raise DataError(f"its values go from {low} to {high}; what is read is {_READ}")
    return Image.fromarray(((wide.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8))


def _part(picture: Image.Image, full: int, is_lossless: bool) -> Part:
    eight = _in_8_bits(picture, full)
    extrema: Any = eight.getextrema()
    bands = [extrema] if len(eight.getbands()) == 1 else list(extrema)
    is_transparent = eight.mode in ("LA", "RGBA") and bands.pop()[0] < 255
    peak = max(high for _, high in bands)
    if picture.mode.startswith("I"):
        peak = int(np.asarray(picture).max())
    elif full > 255:
        peak = peak << 8 | 255  # Pillow leaves the upper byte alone
    found = eight.getcolors(_MOST_COLOURS) if is_lossless else None
    return Part(peak, full, is_transparent, len(found) if found else None)
