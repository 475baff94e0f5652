"""Reads image files of every kind, in the values and the type of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from nectargan.errors import DataError
from nectargan.images.exr_files import exr_kind, read_exr
from nectargan.images.geo_files import geo_kind, is_geo, read_geo
from nectargan.images.numpy_files import numpy_kind, read_numpy
from nectargan.images.pillow_raw import is_read_whole, pillow_kind, read_pillow
from nectargan.images.raw import Kind, RawImage
from nectargan.images.tiff_files import read_tiff, tiff_kind
from nectargan.sources import Source, open_source

_Channels = Sequence[str | int] | None


class _Family(NamedTuple):
    """The files that one library reads."""

    read: Callable[[Source, _Channels], RawImage]
    kind: Callable[[Source, _Channels], Kind]


_PILLOW = _Family(read_pillow, pillow_kind)
_TIFF = _Family(read_tiff, tiff_kind)
_EXR = _Family(read_exr, exr_kind)
_GEO = _Family(read_geo, geo_kind)
_NUMPY = _Family(read_numpy, numpy_kind)

_TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXR_BEGINNING = b"\x76\x2f\x31\x01"
_NUMPY_BEGINNINGS = (b"\x93NUM", b"PK\x03\x04", b"PK\x05\x06")


def read_raw(path: str | Source, channels: Sequence[str | int] | None = None) -> RawImage:
    """Reads an image file in the values and the type of the file, as it is displayed.

    Palettes, and colors that are not RGB, are converted to RGB. The pages of a TIFF are its
    channels. The first bytes of a file tell its format, not its suffix.

    Args:
        path: The file.
        channels: The channels to read, in this order: names, or numbers from 1. ``None`` for all.

    Raises:
        DataError: If the file cannot be read, with the reason, or if a library is not installed.
    """
    path = Path(path) if isinstance(path, str) else path
    return _family(path).read(path, channels)


def raw_kind(path: str | Source, channels: Sequence[str | int] | None = None) -> Kind:
    """What `read_raw` would read, from the header of the file alone.

    Raises:
        DataError: If the header cannot be read, or says that the image is not supported.
    """
    path = Path(path) if isinstance(path, str) else path
    return _family(path).kind(path, channels)


def is_geotiff(path: Source) -> bool:
    """Whether a file is a TIFF with coordinates, or with metadata of GDAL."""
    return _family(path) is _GEO


def is_read_by_pillow(path: Source) -> bool:
    """Whether Pillow reads all of a file: every format but NumPy, OpenEXR and many TIFFs."""
    return _family(path) is _PILLOW


def _family(path: Source) -> _Family:
    try:
        with open_source(path) as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror})") from None
    if head in _NUMPY_BEGINNINGS:
        return _NUMPY
    if head == _EXR_BEGINNING:
        return _EXR
    if head in _TIFF_BEGINNINGS:
        return _GEO if is_geo(path) else _PILLOW if is_read_whole(path) else _TIFF
    return _PILLOW
