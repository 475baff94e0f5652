"""Several channels of 16 bits, of which Pillow reads the upper bytes alone.

Pillow has a name for the order of the bytes of a file. Given the name of the other order, it reads
the lower bytes, with the same decoder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from nectargan.dataset.decoding import opened, turned

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_READ = ("RGB", "RGBX", "RGBA", "RGBa")


def read_wide(path: Path, upper: Image.Image, raw_mode: str) -> npt.NDArray[Any] | None:
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
    kind, _, order = raw_mode.partition(";16")
    if raw_mode == "LA;16B":
        return _four_bytes(path)
    if kind not in _READ or order not in _OTHER_ORDER:
        return None
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


def _four_bytes(path: Path) -> npt.NDArray[Any]:
    """Grey and alpha of a PNG file, which are as long as four channels of 8 bits."""
    read: npt.NDArray[Any] = np.asarray(_read(path, "RGBA", "RGBA")).astype(np.uint16)
    wide: npt.NDArray[Any] = read[..., ::2] << 8 | read[..., 1::2]
    return wide


def _read(path: Path, raw_mode: str, mode: str | None = None) -> Image.Image:
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
