"""Writes pictures to files, with 16 bits, alpha, color profile, EXIF and resolution.

What a format cannot hold is left out, and said.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nectargan.errors import DataError
from nectargan.files import replacing
from nectargan.images.pillow_writing import WITH_16_BITS, WITH_ALPHA, write_pillow
from nectargan.images.raw import RawImage
from nectargan.images.suffixes import IMAGE_SUFFIXES, PILLOW_SUFFIXES, TIFFS
from nectargan.images.writing import write_raw
from nectargan.inference.pictures import Picture, Pixels, with_values


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
        DataError: the format cannot hold values of this kind.
    """
    suffix = (suffix or path.suffix).lower()
    if picture.raw is not None and len(picture.raw.values):
        write_raw(path, picture.raw, suffix)
        return []
    if suffix not in PILLOW_SUFFIXES:
        raw = RawImage(picture.pixels if picture.alpha is None else with_alpha(picture))
        write_raw(path, raw, suffix)
        return []
    pixels, alpha, lost = picture.pixels, picture.alpha, list[str]()
    if alpha is not None:
        pixels = with_alpha(picture)
    if pixels.shape[2] in (2, 4) and suffix not in WITH_ALPHA:
        pixels, lost = pixels[..., :-1], ["transparency"]
    if pixels.dtype != np.uint8 and suffix not in WITH_16_BITS:
        pixels, lost = _in_8_bits(pixels), [*lost, "16 bits"]
    if picture.raw is not None and suffix in TIFFS:  # with its coordinates
        whole = replace(picture, pixels=pixels)
        write_raw(path, with_values(whole, pixels), suffix)
        return lost
    kept = picture.metadata
    with replacing(path, or_stream=True) as part:
        write_pillow(part, suffix, pixels, kept.icc, kept.exif, kept.dpi)
    return lost


def with_alpha(picture: Picture) -> Pixels:
    """``(H, W, C + 1)``: the pixels of a picture with alpha, and its alpha."""
    assert picture.alpha is not None  # noqa: S101 - only called for such
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=2)


def _in_8_bits(pixels: Pixels) -> Pixels:
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
