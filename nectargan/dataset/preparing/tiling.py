"""Cuts large images of a data set into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from nectargan.dataset.decoding import full_scale, opened, turned
from nectargan.dataset.preparing.placing import Placed, new_folder
from nectargan.errors import DataError


def write_tiles(
    placed: Sequence[Placed], out: Path, size: int, overlap: int = 0, emptiness: float | None = None
) -> tuple[int, int]:
    """Creates the data set ``out`` from square tiles, as PNG files of the same bit depth.

    The tiles of an image cover it completely: the last one of a row or column ends at the border,
    so it can overlap more than the others.

    Args:
        placed: The pairs. Both images of a pair have the same size.
        out: The new folder.
        size: Height and width of a tile of one image, in pixels.
        overlap: Pixels that neighbors share at least, from 0 to ``size - 1``.
        emptiness: A tile is left out if in both images its values differ by at most this fraction
            of the range of their type. ``None`` keeps all tiles.

    Returns:
        The numbers of tiles that were written and left out.

    Raises:
        DataError: If an image cannot be read or is smaller than a tile, the images of a pair
            differ in size, no tile is left, or ``out`` cannot be written.
    """

    def write(each: Placed) -> tuple[int, int]:
        written = left_out = 0
        for top, left, tiles in _tiles(each, size, overlap):
            if emptiness is not None and all(_spread(tile) <= emptiness for tile in tiles):
                left_out += 1
                continue
            if each.pair.b is None:
                tiles = [beside(*tiles)]
            for tile, (_, relative) in zip(tiles, each.files(), strict=True):
                path = folder / relative.with_name(f"{each.name}_{top}_{left}.png")
                path.parent.mkdir(exist_ok=True)
                tile.save(path)
            written += 1
        return written, left_out

    with new_folder(out) as folder, ThreadPoolExecutor() as pool:
        counts = list(pool.map(write, placed))
        written, left_out = (sum(column) for column in zip(*counts, strict=True))
        if not written:
            raise DataError(f"All {left_out} tiles are empty; --keep-empty keeps them.")
        return written, left_out


def _tiles(each: Placed, size: int, overlap: int) -> Iterator[tuple[int, int, list[Image.Image]]]:
    """First row and column of each tile of a pair, and its two images."""
    where = each.pair.a
    images = [_read(path) for path, _ in each.files()]
    if len(images) == 1:
        width = images[0].width // 2
        if images[0].width % 2:
            raise DataError(f"{where}: the width {images[0].width} is odd; A and B share it.")
        images = [images[0].crop((x, 0, x + width, images[0].height)) for x in (0, width)]
    (width, height), other = (image.size for image in images)
    if (width, height) != other:
        raise DataError(f"{where}, {each.pair.b}: they differ in size.")
    if min(width, height) < size:
        raise DataError(f"{where}: {height} x {width} pixels are less than a tile of {size}.")
    for top in starts(height, size, overlap):
        for left in starts(width, size, overlap):
            box = (left, top, left + size, top + size)
            yield top, left, [image.crop(box) for image in images]


def starts(length: int, size: int, overlap: int) -> Iterator[int]:
    """First pixels of the tiles that cover ``length`` pixels."""
    yield from range(0, length - size, size - overlap)
    yield length - size


def _read(path: Path) -> Image.Image:
    with opened(path) as image:
        if image.mode in ("F", "CMYK", "LAB", "YCbCr", "HSV"):
            raise DataError(f"PNG files cannot hold its values (mode {image.mode})")
        if full_scale(image) > 255 and not image.mode.startswith("I"):
            raise DataError("Pillow reads its 16 bits per channel as 8; such tiles would lose them")
        image.load()
        return turned(image)


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two images of one mode and height as one, ``left`` on the left."""
    whole = left.crop((0, 0, left.width + right.width, left.height))  # keeps mode and palette
    whole.paste(right, (left.width, 0))
    return whole


def _spread(tile: Image.Image) -> float:
    """Largest minus smallest value of any channel, as a fraction of the range of the type."""
    values = np.asarray(tile.convert("RGB") if tile.mode == "P" else tile)
    full = 1 if values.dtype == bool else 65535 if tile.mode.startswith("I") else 255
    per_channel = values.reshape(-1, values.shape[2] if values.ndim == 3 else 1).astype(np.int64)
    return float(np.ptp(per_channel, axis=0).max()) / full
