"""Writes the kinds of TIFF that Pillow does not write: signed, wide, of many channels."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_SHORT, _LONG = 3, 4


def write_tiff(
    path: Path,
    pixels: npt.NDArray[np.generic],
    kind: int = UNSIGNED,
    photometric: int = 1,
    extra: tuple[int, ...] = (),
    bits: int | None = None,
) -> Path:
    """Writes ``(H, W)`` or ``(H, W, C)`` pixels uncompressed, little-endian, in one strip.

    Args:
        path: The file.
        pixels: Of any type of numbers.
        kind: The tag SampleFormat.
        photometric: 0 counts from white, 1 from black, 2 is RGB.
        extra: The tag ExtraSamples, a number for each channel beyond grey or RGB.
        bits: Bits of a sample, if not those of the pixels' type.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    data = np.ascontiguousarray(pixels).tobytes()
    tags: list[tuple[int, int, tuple[int, ...]]] = [
        (256, _LONG, (width,)),
        (257, _LONG, (height,)),
        (258, _SHORT, (bits or pixels.dtype.itemsize * 8,) * channels),
        (259, _SHORT, (1,)),
        (262, _SHORT, (photometric,)),
        (273, _LONG, (8,)),
        (277, _SHORT, (channels,)),
        (278, _LONG, (height,)),
        (279, _LONG, (len(data),)),
        *([(338, _SHORT, extra)] if extra else []),
        (339, _SHORT, (kind,) * channels),
    ]
    after = 8 + len(data) + 2 + 12 * len(tags) + 4
    entries, far = b"", b""
    for tag, form, values in tags:
        raw = struct.pack("<" + ("H" if form == _SHORT else "I") * len(values), *values)
        if len(raw) > 4:
            raw, far = struct.pack("<I", after + len(far)), far + raw
        entries += struct.pack("<HHI", tag, form, len(values)) + raw.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + bytes(4) + far)
    return path
