"""Cuts large images of a data set into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from nectargan.dataset.preparing.placing import Placed, new_folder
from nectargan.dataset.raw_pairs import valid_pixels
from nectargan.errors import DataError
from nectargan.images.pillow_files import opened, turned
from nectargan.images.raw import ALL, RawImage, cropped
from nectargan.images.reading import raw_kind, read_raw
from nectargan.images.writing import write_raw
from nectargan.sources import Source


def write_tiles(
    placed: Sequence[Placed], out: Path, size: int, overlap: int = 0, emptiness: float | None = None
) -> tuple[int, int]:
    """Creates the data set ``out`` from square tiles, in the values and the type of their files.

    Tiles of what Pillow reads in 8 bits are PNG files. All others have the format of their file,
    and its channel names and coordinates.

    The tiles of an image cover it completely: the last one of a row or column ends at the border,
    so it can overlap more than the others.

    Args:
        placed: The pairs. Both images of a pair have the same size.
        out: The new folder.
        size: Height and width of a tile of one image, in pixels.
        overlap: Pixels that neighbors share at least, from 0 to ``size - 1``.
        emptiness: A tile is left out if in both images its values differ by at most this fraction
            of the range of their type; one of floats, if they are all equal. Values that are
            nodata, NaN or infinite do not count. ``None`` keeps all tiles.

    Returns:
        The numbers of tiles that were written and left out.

    Raises:
        DataError: If an image cannot be read or is smaller than a tile, the images of a pair
            differ in size, no tile is left, or ``out`` cannot be written.
    """

    def write(each: Placed) -> tuple[int, int]:
        written = left_out = 0
        for top, left, tiles in _tiles(each, size, overlap):
            if emptiness is not None and all(tile.spread() <= emptiness for tile in tiles):
                left_out += 1
                continue
            if each.pair.b is None:
                tiles = [tiles[0].beside(tiles[1])]
            for tile, (_, relative) in zip(tiles, each.files(), strict=True):
                name = f"{each.name}_{top}_{left}{tile.suffix or relative.suffix.lower()}"
                (folder / relative).parent.mkdir(exist_ok=True)
                tile.save((folder / relative).with_name(name))
            written += 1
        return written, left_out

    with new_folder(out) as folder, ThreadPoolExecutor() as pool:
        counts = list(pool.map(write, placed))
        written, left_out = (sum(column) for column in zip(*counts, strict=True))
        if not written:
            raise DataError(f"All {left_out} tiles are empty; --keep-empty keeps them.")
        return written, left_out


def _tiles(each: Placed, size: int, overlap: int) -> Iterator[tuple[int, int, list[_Tile]]]:
    """First row and column of each tile of a pair, and its two images."""
    where = each.pair.a
    images = [_read(path) for path, _ in each.files()]
    if len(images) == 1:
        height, width = images[0].size
        if width % 2:
            raise DataError(f"{where}: the width {width} is odd; A and B share it.")
        images = [images[0].crop(0, x, height, width // 2) for x in (0, width // 2)]
    (height, width), other = (image.size for image in images)
    if (height, width) != other:
        sizes = f"{height} x {width} and {other[0]} x {other[1]} pixels"
        raise DataError(f"{where}, {each.pair.b}: {sizes}; both must have the same size.")
    if min(width, height) < size:
        raise DataError(f"{where}: {height} x {width} pixels are less than a tile of {size}.")
    for top in starts(height, size, overlap):
        for left in starts(width, size, overlap):
            yield top, left, [image.crop(top, left, size, size) for image in images]


def starts(length: int, size: int, overlap: int) -> Iterator[int]:
    """First pixels of the tiles that cover ``length`` pixels."""
    yield from range(0, length - size, size - overlap)
    yield length - size


@dataclass(frozen=True)
class _PlainTile:
    """One of 8 bits, perhaps with a palette."""

    image: Image.Image
    suffix: str = ".png"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.height, self.image.width

    def crop(self, top: int, left: int, height: int, width: int) -> _PlainTile:
        return _PlainTile(self.image.crop((left, top, left + width, top + height)))

    def beside(self, other: Any) -> _PlainTile:
        return _PlainTile(beside(self.image, other.image))

    def spread(self) -> float:
        """Largest minus smallest value of any channel, as a fraction of the range of the type."""
        image = self.image.convert("RGB") if self.image.mode == "P" else self.image
        values = np.asarray(image)
        full = 1 if values.dtype == bool else 255
        per_channel = values.reshape(-1, len(image.getbands())).astype(int)
        return float(np.ptp(per_channel, axis=0).max()) / full

    def save(self, path: Path) -> None:
        self.image.save(path)


@dataclass(frozen=True)
class _RawTile:
    """One of another kind."""

    image: RawImage
    suffix: str = ""

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.image.values.shape[:2]
        return height, width

    def crop(self, top: int, left: int, height: int, width: int) -> _RawTile:
        return _RawTile(cropped(self.image, top, left, height, width))

    def beside(self, other: Any) -> _RawTile:
        both = np.concatenate([self.image.values, other.image.values], axis=1)
        return _RawTile(self.image._replace(values=both))

    def spread(self) -> float:
        values = self.image.values[valid_pixels(self.image)]
        if not len(values):
            return 0.0
        if values.dtype.kind == "f":
            return float((values != values[0]).any())
        limits = np.iinfo(values.dtype)
        return float(np.ptp(values.astype(int), axis=0).max()) / (int(limits.max) - int(limits.min))

    def save(self, path: Path) -> None:
        write_raw(path, self.image)


_Tile: TypeAlias = _PlainTile | _RawTile


def _read(path: Source) -> _Tile:
    if not raw_kind(path, ALL).is_plain:
        return _RawTile(read_raw(path, ALL))
    with opened(path) as image:
        if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
            raise DataError(f"PNG files cannot hold its values (mode {image.mode})")
        image.load()
        return _PlainTile(turned(image))


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two images of one mode and height as one, ``left`` on the left."""
    whole = left.crop((0, 0, left.width + right.width, left.height))  # keeps mode and palette
    whole.paste(right, (left.width, 0))
    return whole
