"""Reads what Pillow reads in the values and the type of the file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from nectargan.errors import DataError
from nectargan.images.pillow_files import (
    BITS,
    MODES,
    QUARTERS,
    full_scale,
    in_8_bits,
    is_decoded_elsewhere,
    is_signed,
    metadata_of,
    mode_in_8_bits,
    opened,
    orientation_of,
    raw_mode_of,
    samples,
    tiff_tags,
    turned,
)
from nectargan.images.raw import ALL, Kind, RawImage, chosen
from nectargan.images.wide import is_wide, values_of_16_bits
from nectargan.sources import Source, open_source

_WIDTH, _LENGTH = 256, 257
_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 1 | 4
_PNG_METADATA = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")


def is_read_whole(path: Source) -> bool:
    """Whether Pillow reads all channels and bits of a TIFF, which has one page."""
    try:
        with opened(path) as file:
            if file.mode == "F" or samples(file) > len(file.getbands()):
                return False
            if is_decoded_elsewhere(file) or _is_cut_to_8_bits(file):
                return False
            pages = 0
            for i in range(getattr(file, "n_frames", 1)):
                file.seek(i)
                pages += not int(tiff_tags(file).get(_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK
            return pages <= 1
    except DataError:
        return False


def pillow_kind(path: Source, channels: Sequence[str | int] | None) -> Kind:
    """See `raw_kind`."""
    with opened(path) as file:
        is_16_bits = full_scale(file) > 255 and not _is_cut_to_8_bits(file)
        if is_16_bits:
            is_grey_alpha = raw_mode_of(file) == "LA;16B"  # a PNG that Pillow opens as RGBA
            bands = 2 if is_grey_alpha else len(file.getbands())
            count = bands + ("transparency" in file.info)
            dtype = "int16" if _has_int16(file) else "uint16"
        else:
            count = len(mode_in_8_bits(file))
            dtype = "uint8"
        # Some versions of Pillow have turned the size of a TIFF already.
        tags = tiff_tags(file)
        height, width = int(tags.get(_LENGTH, file.height)), int(tags.get(_WIDTH, file.width))
        if _may_be_turned(path, file) and orientation_of(file) in QUARTERS:
            height, width = width, height
        is_plain = channels in (None, ALL) and not is_16_bits
        count = len(_chosen(channels, count))
        return Kind(np.dtype(dtype), height, width, count, is_plain=is_plain)


def read_pillow(path: Source, channels: Sequence[str | int] | None) -> RawImage:
    """See `read_raw`."""
    with opened(path) as file:
        full, raw_mode = full_scale(file), raw_mode_of(file)
        is_int16 = _has_int16(file)
        file.load()
        values: Any
        if is_int16:
            values = np.asarray(turned(file)).astype(np.int16)[..., None]
        else:
            values = values_of_16_bits(path, file, raw_mode, full) if full > 255 else None
        if values is None:
            eight = in_8_bits(turned(file), full)
            values = np.array(eight).reshape(eight.height, eight.width, -1)
        order = _chosen(channels, values.shape[2])
        chosen_values = values if channels is None else values[..., list(order)]
        return RawImage(chosen_values, metadata=metadata_of(file))


def _chosen(channels: Sequence[str | int] | None, count: int) -> tuple[int, ...]:
    names = {each: MODES[each] for each in MODES}[count]
    return chosen(channels, names, count)


def _is_cut_to_8_bits(file: ImageFile.ImageFile) -> bool:
    """Whether Pillow reads 8 of the 16 bits of a file, such as one of CMYK."""
    is_grey = file.mode.startswith("I")
    return full_scale(file) > 255 and not is_grey and not is_wide(raw_mode_of(file))


def _has_int16(file: Image.Image) -> bool:
    return (
        file.mode.startswith("I") and is_signed(file) and tiff_tags(file).get(BITS, (0,))[0] == 16
    )


def _may_be_turned(path: Source, file: ImageFile.ImageFile) -> bool:
    """False for a PNG without metadata: Pillow decodes the whole image to look for an orientation,
    because that may be behind the pixels."""
    if file.format != "PNG":
        return True
    with open_source(path) as chunks:
        chunks.seek(8)
        while len(head := chunks.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in _PNG_METADATA:
                return True
            chunks.seek(length + 4, 1)
    return False
