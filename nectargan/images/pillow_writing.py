"""Writes what Pillow writes, and 16 bits in several channels, which it does not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from nectargan.images.raw import Values
from nectargan.images.suffixes import JPEGS, PORTABLE, TIFFS

WITH_ALPHA = frozenset([".png", ".webp", ".gif", ".bmp", ".avif"]) | TIFFS
WITH_16_BITS = TIFFS | {".png"}
_WITH_PROFILE = JPEGS | TIFFS | {".png", ".webp", ".avif"}
_WITHOUT_DPI = PORTABLE | {".webp", ".avif", ".gif"}
# Quality where a format has one: what is lost is below what a network makes of noise.
_OPTIONS: dict[str, dict[str, Any]] = {
    **{suffix: {"quality": 95, "subsampling": 0} for suffix in JPEGS},
    ".webp": {"quality": 95},
    ".avif": {"quality": 90},
    ".png": {
        "compress_level": 3
    },  # half the time of Pillow's default; measured files were 13 % larger
    **{suffix: {"compression": "tiff_deflate"} for suffix in TIFFS},
}
_PROFILE_KINDS = {b"GRAY": (1, 2), b"RGB ": (3, 4)}


def write_pillow(
    path: Path,
    suffix: str,
    values: Values,
    icc: bytes = b"",
    exif: bytes = b"",
    dpi: tuple[float, float] | None = None,
) -> None:
    """Writes a file.

    Args:
        path: The file.
        suffix: Says the format; one of `PILLOW_SUFFIXES`.
        values: ``(H, W, 1 to 4)`` of uint8, or of uint16 for the formats `WITH_16_BITS`; alpha,
            which is last, for those `WITH_ALPHA`.
        icc: A color profile.
        exif: EXIF without an orientation.
        dpi: Pixels per inch across and down.

    Raises:
        OSError: it cannot be written.
    """
    count = values.shape[2]
    options = _OPTIONS.get(suffix, {}) | _extras(suffix, count, icc, exif, dpi)
    pixels = np.ascontiguousarray(values[..., 0] if count == 1 else values)
    if values.dtype == np.uint8 or count == 1:
        image = Image.fromarray(pixels)
        image.save(path, format=Image.registered_extensions()[suffix], **options)
    else:
        write = _write_png if suffix == ".png" else _write_tiff
        write(path, pixels, options)


def _extras(
    suffix: str, channels: int, icc: bytes, exif: bytes, dpi: tuple[float, float] | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if suffix in _WITH_PROFILE:
        # That of a CMYK file, say, would be wrong for RGB.
        if channels in _PROFILE_KINDS.get(icc[16:20], ()):
            found["icc_profile"] = icc
        if exif:
            found["exif"] = exif
    if dpi is not None and suffix not in _WITHOUT_DPI:
        found["dpi"] = dpi
    return found


def _write_png(path: Path, pixels: Values, options: Mapping[str, Any]) -> None:
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


def _write_tiff(path: Path, pixels: Values, options: Mapping[str, Any]) -> None:
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
