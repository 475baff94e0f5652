"""TIFF files that Pillow does not read: many channels or pages, signed, floating point, BigTIFF."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nectargan.errors import DataError
from nectargan.images.raw import (
    MOST_CHANNELS,
    Kind,
    RawImage,
    Values,
    check_kind,
    chosen,
    naming,
    needed,
)
from nectargan.sources import Source, open_source

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors are raised as well

LAYOUTS = ("pages", "planar", "interleaved")
_PHOTOMETRICS = (1, 2)  # 0 is black, RGB
_ORIENTATION = 274
_REDUCED_OR_MASK = 1 | 4


class _Layout(NamedTuple):
    """How the values of a file lie in it.

    Attributes:
        kind: What the file has.
        axes: Where height and width are in the array that tifffile makes.
        name: One of `LAYOUTS`.
        orientation: As EXIF has it.
    """

    kind: Kind
    axes: tuple[int, int]
    name: str
    orientation: int


def tiff_kind(path: Source, channels: Sequence[str | int] | None) -> Kind:
    """See `raw_kind`."""
    with _opened(path) as tiff:
        kind = _layout(tiff).kind
        order = chosen(channels, kind.channel_names, kind.channels)
        names = tuple(kind.channel_names[i] for i in order) if kind.channel_names else ()
        return kind._replace(channels=len(order), channel_names=names)


def read_tiff(path: Source, channels: Sequence[str | int] | None) -> RawImage:
    """See `read_raw`."""
    with _opened(path) as tiff:
        layout = _layout(tiff)
        kind = layout.kind
        order = chosen(channels, kind.channel_names, kind.channels)
        values = np.asarray(tiff.series[0].asarray(maxworkers=1))
        values = np.moveaxis(values, layout.axes, (0, 1))
        values = values.reshape(*values.shape[:2], -1).astype(kind.dtype, copy=False)
        if channels is not None:
            values = values[..., list(order)]
        names = tuple(kind.channel_names[i] for i in order) if kind.channel_names else ()
        return RawImage(_turned(values, layout.orientation), names, None, {"layout": layout.name})


def write_tiff(path: Path, image: RawImage) -> None:
    """Writes a compressed TIFF in the layout that ``image`` was read from."""
    tifffile = needed("tifffile", "a TIFF of this kind")
    values, layout = image.values, image.metadata.get("layout")
    count = values.shape[2]
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib"}
    if count == 1:
        values = values[..., 0]
    elif layout in ("planar", "pages"):
        values = np.moveaxis(values, 2, 0)
        if layout == "planar":
            options |= {"planarconfig": "separate"}
    else:
        options |= {"planarconfig": "contig"}
    if image.channel_names:
        options["metadata"] = {"channel_names": list(image.channel_names)}
    tifffile.imwrite(path, np.ascontiguousarray(values), **options)


@contextmanager
def _opened(path: Source) -> Iterator[Any]:
    with naming(path, "TIFF"), open_source(path) as file:
        tifffile = needed("tifffile", "a TIFF of this kind")
        # The metadata of OME may name other files, which would be opened.
        with tifffile.TiffFile(file, name=path.name, is_ome=False) as tiff:
            _check_end(tiff)
            yield tiff


def _check_end(tiff: Any) -> None:
    """Raises EOFError if a page follows the last one that was found, as in a truncated file."""
    layout, last = tiff.tiff, tiff.pages[len(tiff.pages) - 1]
    file = tiff.filehandle
    file.seek(last.offset)
    (count,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(last.offset + layout.tagnosize + count * layout.tagsize)
    if file.read(layout.offsetsize) != bytes(layout.offsetsize):
        raise EOFError


def _layout(tiff: Any) -> _Layout:
    images = [each for each in tiff.series if not each.keyframe.subfiletype & _REDUCED_OR_MASK]
    if not images or images[0] is not tiff.series[0]:
        raise DataError("it has no page with an image")
    if len(images) > 1:
        shapes = " and ".join(str(tuple(each.keyframe.shape)) for each in images[:2])
        raise DataError(f"its pages are not of one kind: {shapes}; they must be to be channels")
    series, page = images[0], images[0].keyframe
    if int(page.photometric) == 0:
        raise DataError("its values are inverted (0 is white); save it with 0 as black")
    if int(page.photometric) not in _PHOTOMETRICS and not page.photometric.name == "YCBCR":
        raise DataError(f"its colors are {page.photometric.name}; save it as grey or RGB")
    if page.dtype is None:
        raise DataError(f"its values have {page.bitspersample} bits, of a type that is not read")
    shape, axes = tuple(series.shape), series.axes
    rows, columns = axes.index("Y"), axes.index("X")
    if series.kind == "shaped" and axes[0] != "S" and _is_channels_last(shape):
        rows, columns, axes = 0, 1, "YXS"
    height, width = shape[rows], shape[columns]
    count = int(np.prod(shape, dtype=object)) // max(1, height * width)
    dtype = check_kind(series.dtype, height, width, count)
    if len(page.dataoffsets) < _segments(page):
        raise EOFError
    orientation = page.tags.get(_ORIENTATION)
    turn = int(orientation.value) if orientation is not None else 1
    if turn in (5, 6, 7, 8):
        height, width = width, height
    name = "pages"
    if "S" in axes and len(shape) == 3:
        name = "planar" if axes.index("S") == 0 else "interleaved"
    return _Layout(
        Kind(dtype, height, width, count, _names(tiff, count)), (rows, columns), name, turn
    )


def _segments(page: Any) -> int:
    """The number of strips or tiles that a page of this size has."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if not page.is_tiled:
        return int(planes * -(-page.imagelength // max(1, page.rowsperstrip)))
    down, across = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    return int(planes * down * across)


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether pages are the rows of an array whose last axis has the channels: tifffile writes it
    so unless it is told otherwise."""
    if len(shape) != 3:
        return False
    return 2 * shape[2] <= min(shape[:2]) or shape[0] > MOST_CHANNELS >= shape[2]


def _names(tiff: Any, count: int) -> tuple[str, ...]:
    """The names that `write_tiff` has written."""
    found = (tiff.shaped_metadata or [{}])[0].get("channel_names", ())
    return tuple(map(str, found)) if len(found) == count else ()


def _turned(values: Values, orientation: int) -> Values:
    """As it is displayed, see the tag Orientation of TIFF 6.0."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)
