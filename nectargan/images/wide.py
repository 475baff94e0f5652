"""Several channels of 16 bits, of which Pillow reads the upper bytes alone.

Pillow has a name for the order of the bytes of a file. Given the name of the other order, it reads
the lower bytes, with the same decoder.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from nectargan.errors import DataError
from nectargan.images.pillow_files import is_signed, opened, turned
from nectargan.sources import Source

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_KINDS = ("RGB", "RGBX", "RGBA", "RGBa")


def values_of_16_bits(
    path: Source, file: Image.Image, raw_mode: str, full: int
) -> npt.NDArray[np.uint16] | None:
    """The values of a loaded file of 16 bits as it is displayed.

    Args:
        path: The file.
        file: What Pillow made of it.
        raw_mode: Of the file before it was loaded, see `raw_mode_of`.
        full: The largest value that the type of the file can hold, see `full_scale`.

    Returns:
        ``(H, W, 1 to 4)``, alpha last; ``None`` if only 8 of the bits can be read.

    Raises:
        DataError: it cannot be read.
    """
    picture = turned(file)
    if file.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if file.mode == "I" and not is_signed(file):
            grey &= 0xFFFFFFFF  # Pillow reads all integers of 32 bits as signed
        if grey.min() < 0 or grey.max() > full:
            low_high = f"{grey.min()} to {grey.max()}"
            raise DataError(
                f"its values are integers of 32 bits, from {low_high}; save it as int16, uint16 or "
                "float32"
            )
        wide: npt.NDArray[np.uint16] = grey[..., None].astype(np.uint16)
    else:
        found = _read_wide(path, picture, raw_mode)
        if found is None:
            return None
        wide = found
    if "transparency" in file.info:  # a color that is transparent
        is_opaque = (wide != np.asarray(file.info["transparency"])).any(2, keepdims=True)
        wide = np.concatenate([wide, is_opaque.astype(np.uint16) * full], axis=2)
    return wide


def is_wide(raw_mode: str) -> bool:
    """Whether all 16 bits of several channels can be read."""
    kind, _, order = raw_mode.partition(";16")
    return raw_mode == "LA;16B" or (kind in _KINDS and order in _OTHER_ORDER)


def _read_wide(path: Source, upper: Image.Image, raw_mode: str) -> npt.NDArray[Any] | None:
    """All 16 bits of a PNG or TIFF file, as it is displayed.

    Args:
        path: The file.
        upper: What Pillow made of it.
        raw_mode: Pillow's name for the order of its channels and bytes, such as "RGB;16B".

    Returns:
        ``(H, W, 2 to 4)``; ``None`` if the file has channels of another kind.

    Raises:
        DataError: it cannot be read.
    """
    if not is_wide(raw_mode):
        return None
    if raw_mode == "LA;16B":
        return _four_bytes(path)
    kind, _, order = raw_mode.partition(";16")
    if kind == "RGBa":
        # Pillow divides each byte by alpha, which is of no use here.
        kind, upper = "RGBA", _read(path, f"RGBA;16{order}")
    lower = _read(path, f"{kind};16{_OTHER_ORDER[order]}")
    wide: npt.NDArray[Any] = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    if raw_mode.startswith("RGBa"):
        alpha = np.maximum(wide[..., 3:], 1).astype(np.uint32)
        colors = (wide[..., :3].astype(np.uint32) * 65535 + alpha // 2) // alpha
        wide[..., :3] = np.minimum(colors, 65535)
    return wide


def _four_bytes(path: Source) -> npt.NDArray[Any]:
    """Grey and alpha of a PNG file, which are as long as four channels of 8 bits."""
    read: npt.NDArray[Any] = np.asarray(_read(path, "RGBA", "RGBA")).astype(np.uint16)
    wide: npt.NDArray[Any] = read[..., ::2] << 8 | read[..., 1::2]
    return wide


def _read(path: Source, raw_mode: str, mode: str | None = None) -> Image.Image:
    with opened(path) as file:
        anything: Any = file
        if mode is not None:
            anything._mode = mode
        anything.tile = [_with_mode(tile, raw_mode) for tile in file.tile]
        file.load()
        return turned(file)


def _with_mode(tile: Any, raw_mode: str) -> Any:
    args = raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:])
    return ImageFile._Tile(tile.codec_name, tile.extents, tile.offset, args)
