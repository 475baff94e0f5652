"""Opens image files with Pillow, or explains in one sentence why it cannot."""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from nectargan.errors import DataError
from nectargan.images.file_kinds import what_it_is
from nectargan.sources import Source, open_source

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# Pillow supports more formats, some through other programs. It supports AVIF since 11.3.
_FORMATS = ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM"] + (
    ["AVIF"] if find_spec("PIL.AvifImagePlugin") else []
)
_LARGEST_FILE = 2**30  # more than an uncompressed image at Pillow's limit of pixels
READ = "1 to 4 channels of unsigned integers of 8 or 16 bits"
BITS, _SAMPLES, _SAMPLE_FORMAT, _PHOTOMETRIC = 258, 277, 339, 262  # tags of TIFF

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
QUARTERS = (5, 6, 7, 8)

# A single text chunk may be as long as all text together. Pillow's default is 1 MB per chunk.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Pillow's warnings about metadata do not help a user; real problems raise an exception.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# Of a TIFF file, whose other tags describe its pixels.
_TEXTS = frozenset([269, 270, 271, 272, 305, 306, 315, 316, 33432])


@contextmanager
def opened(path: Source) -> Iterator[ImageFile.ImageFile]:
    """Opens an image and reads its header.

    Errors of Pillow, also those inside the ``with`` block, become a `DataError` that names the
    file.
    """
    kind = None
    try:
        # Given a path instead of a file, Pillow memory-maps some TIFFs and rotates them wrongly.
        with (
            open_source(path, _LARGEST_FILE) as file,
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


def _complaint(path: Source, kind: str | None, error: Exception) -> str:
    """Describes what is wrong with a file, without Pillow's internal messages."""
    if isinstance(error, OSError) and error.strerror:
        return f"unreadable ({error.strerror})"
    if "text chunk" in str(error) or "MAX_TEXT" in str(error):
        return f"it contains more than {PngImagePlugin.MAX_TEXT_MEMORY >> 20} MB of text"
    if kind is None:
        return what_it_is(path, READ)
    return f"unreadable or truncated: the {kind} data are damaged or incomplete"


def _check_channels(image: Image.Image) -> None:
    channels = samples(image)
    if channels > max(MODES):
        raise DataError(f"it has {channels} channels; supported are {READ}")
    if is_signed(image) and image.mode == "L":
        raise DataError(f"its values are signed 8-bit integers; supported are {READ}")
    if image.format == "PPM" and image.mode == "F":
        raise DataError("it is a PFM image, which is not read; save it as TIFF, OpenEXR or NumPy")
    if image.mode.startswith("I") and tiff_tags(image).get(_PHOTOMETRIC) == 0:
        raise DataError("its 16-bit values are inverted (0 is white); save it with 0 as black")


# --- header ------------------------------------------------------------------------------------


def tiff_tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def samples(image: Image.Image) -> int:
    return int(tiff_tags(image).get(_SAMPLES, 0)) or len(image.getbands())


def is_signed(image: Image.Image) -> bool:
    return 2 in tiff_tags(image).get(_SAMPLE_FORMAT, (1,))


def is_decoded_elsewhere(image: Image.Image) -> bool:
    """Whether a TIFF has a compression that Pillow names, but has no library for."""
    return image.format == "TIFF" and image.info.get("compression") == "webp"


def full_scale(image: ImageFile.ImageFile) -> int:
    """The largest value that the type of the file can hold.

    For 32 bits it is 65535, because such files are expected to hold 16-bit values.
    """
    if image.mode.startswith("I"):
        bits = tiff_tags(image).get(BITS, (16,))[0]
        if bits == 16 and is_signed(image):
            return 32767
        return 4095 if bits == 12 else 65535
    raw_mode = str(image.tile[0][3]) if image.tile else ""
    return 65535 if ";16" in raw_mode else 255


def raw_mode_of(file: ImageFile.ImageFile) -> str:
    """Pillow's name for how the values lie in a file that is not loaded yet."""
    args = file.tile[0].args if file.tile else ""
    return str(args if isinstance(args, str) else args[0]) if args else ""


def orientation_of(image: Image.Image) -> object:
    """The EXIF orientation of a loaded image.

    Loading a TIFF rotates it and removes its orientation.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _PILLOW_ERRORS:
        return None  # only the metadata are damaged


def metadata_of(image: Image.Image) -> dict[str, Any]:
    """What a loaded image has beside its pixels, if it has it.

    Returns:
        ``icc``, the color profile; ``exif`` without its orientation, as the pixels are turned; and
        ``dpi``, pixels per inch across and down.
    """
    found: dict[str, Any] = {}
    icc, dpi = image.info.get("icc_profile"), image.info.get("dpi")
    if isinstance(icc, bytes) and icc:
        found["icc"] = icc
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < each < 1e6 for each in dpi):
        found["dpi"] = (float(dpi[0]), float(dpi[1]))
    if exif := _exif(image):
        found["exif"] = exif
    return found


def _exif(image: Image.Image) -> bytes:
    try:
        exif = image.getexif()
        for tag in list(exif):
            is_text = tag in _TEXTS or image.format != "TIFF"
            if tag == ExifTags.Base.Orientation or not is_text:
                del exif[tag]
        return exif.tobytes() if len(exif) else b""
    except Exception:
        return b""  # damaged metadata beside a sound picture may raise anything


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
    if image.mode == "LAB":
        raise DataError(f"its colors are CIE L*a*b*; supported are {READ}")
    if image.mode == "F":
        low, high = image.getextrema()
        found = f"floating-point numbers, from {low:g} to {high:g}"
        raise DataError(f"its values are {found}; supported are {READ}")
    if image.mode.startswith("I"):
        return _scaled(image, full)
    mode = mode_in_8_bits(image)
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)


def mode_in_8_bits(image: Image.Image) -> str:
    """The mode of `MODES` to which an image of 8 bits is converted."""
    is_grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return "LA" if is_grey else "RGBA"
    return "L" if is_grey else "RGB"


def _scaled(image: Image.Image, full: int) -> Image.Image:
    wide = np.asarray(image)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > full:
        raise DataError(f"its values range from {low} to {high}; supported are {READ}")
    return Image.fromarray(((wide.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8))
