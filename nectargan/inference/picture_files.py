"""Writes pictures to files, with 16 bits, alpha, color profile, EXIF and resolution.

Pillow writes all but 16 bits in several channels, which are written here for PNG and TIFF.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from nectargan.dataset.decoding import IMAGE_SUFFIXES
from nectargan.errors import DataError
from nectargan.files import replacing
from nectargan.inference.pictures import Metadata, Picture, Pixels

_JPEGS = (".jpg", ".jpeg", ".jfif")
_TIFFS = (".tif", ".tiff")
_PORTABLE = (".pbm", ".pgm", ".ppm", ".pnm")
_WITH_ALPHA = (".png", ".webp", ".gif", ".bmp", ".avif", *_TIFFS)
_WITH_16_BITS = (".png", *_TIFFS)
_WITH_PROFILE = (".png", ".webp", ".avif", *_JPEGS, *_TIFFS)
# Quality where a format has one: what is lost is below what a network makes of noise.
_OPTIONS: dict[str, dict[str, Any]] = {
    **{suffix: {"quality": 95, "subsampling": 0} for suffix in _JPEGS},
    ".webp": {"quality": 95},
    ".avif": {"quality": 90},
    ".png": {
        "compress_level": 3
    },  # half the time of Pillow's default; measured files were 13 % larger
    **{suffix: {"compression": "tiff_deflate"} for suffix in _TIFFS},
}
_PROFILE_KINDS = {b"GRAY": (1, 2), b"RGB ": (3, 4)}


def suffix_for(suffix: str, channels: int) -> str:
    """The suffix of a file for so many channels: the portable formats have one for grey and one for
    colour."""
    if suffix in (".pbm", ".pgm", ".ppm"):
        return ".pgm" if channels < 3 else ".ppm"
    return suffix


def as_suffix(name: str) -> str:
    """The suffix of a format that a user named.

    Raises:
        DataError: no such format is written.
    """
    suffix = f".{name.lower().removeprefix('.')}"
    if suffix not in IMAGE_SUFFIXES:
        allowed = ", ".join(sorted(each[1:] for each in IMAGE_SUFFIXES))
        raise DataError(f"format is '{name}'; allowed: {allowed}.")
    return suffix


def write_picture(path: Path, picture: Picture, suffix: str | None = None) -> list[str]:
    """Writes a file, whole or not at all.

    Args:
        path: The file.
        picture: What is to be in it.
        suffix: Says the format; that of ``path`` if it is left out.

    Returns:
        What the format could not hold, in words.

    Raises:
        OSError: it cannot be written.
    """
    suffix = (suffix or path.suffix).lower()
    pixels, alpha, lost = picture.pixels, picture.alpha, list[str]()
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None]], axis=2)
    if pixels.shape[2] in (2, 4) and suffix not in _WITH_ALPHA:
        pixels, lost = pixels[..., :-1], ["transparency"]
    if pixels.dtype != np.uint8 and suffix not in _WITH_16_BITS:
        pixels, lost = _in_8_bits(pixels), [*lost, "16 bits"]
    options = _OPTIONS.get(suffix, {}) | _extras(picture.metadata, suffix, pixels.shape[2])
    with replacing(path, or_stream=True) as part:
        if pixels.dtype == np.uint8 or pixels.shape[2] == 1:
            image = Image.fromarray(
                np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
            )
            image.save(part, format=Image.registered_extensions()[suffix], **options)
        else:
            write = _write_png if suffix == ".png" else _write_tiff
            write(part, pixels, options)
    return lost


def _in_8_bits(pixels: Pixels) -> Pixels:
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _extras(metadata: Metadata, suffix: str, channels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if suffix in _WITH_PROFILE:
        # That of a CMYK file, say, would be wrong for RGB.
        if channels in _PROFILE_KINDS.get(metadata.icc[16:20], ()):
            found["icc_profile"] = metadata.icc
        if metadata.exif:
            found["exif"] = metadata.exif
    if metadata.dpi is not None and suffix not in (".webp", ".avif", ".gif", *_PORTABLE):
        found["dpi"] = metadata.dpi
    return found


def _write_png(path: Path, pixels: Pixels, options: Mapping[str, Any]) -> None:
    """A PNG of 16 bits with 2 to 4 channels, which Pillow does not write; see ISO/IEC 15948."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    # Each row as the difference to the row above it (filter 2), which smooth images pack well.
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
    if "icc_profile" in options:
        packed = zlib.compress(options["icc_profile"])
        chunks.append(chunk(b"iCCP", b"ICC Profile\0\0" + packed))
    if "dpi" in options:
        across, down = (round(each / 0.0254) for each in options["dpi"])
        chunks.append(chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if "exif" in options:
        chunks.append(chunk(b"eXIf", options["exif"].removeprefix(b"Exif\0\0")))
    packed = zlib.compress(filtered.tobytes(), options["compress_level"])
    path.write_bytes(b"".join([*chunks, chunk(b"IDAT", packed), chunk(b"IEND", b"")]))


def _write_tiff(path: Path, pixels: Pixels, options: Mapping[str, Any]) -> None:
    """A TIFF of 16 bits with 2 to 4 channels, which Pillow does not write; see TIFF 6.0."""
    height, width, channels = pixels.shape
    packed = zlib.compress(pixels.astype("<u2").tobytes(), 3)
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    values: dict[int, Any] = {
        **{256: width, 257: height, 258: (16,) * channels, 259: 8},  # deflate
        262: 1 if channels == 2 else 2,
        **{273: 0, 277: channels, 278: height, 279: len(packed), 339: (1,) * channels},
    }
    if channels in (2, 4):
        values[338] = 2  # alpha that is not multiplied in
    if "dpi" in options:
        values |= {282: options["dpi"][0], 283: options["dpi"][1], 296: 2}
    if "icc_profile" in options:
        tags.tagtype[34675] = 7  # bytes
        values[34675] = options["icc_profile"]
    for tag, value in values.items():
        tags[tag] = value
    # Pillow takes the offset of the strip from the end of the tags.
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + tags.tobytes(8) + packed)
