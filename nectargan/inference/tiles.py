"""Large images in overlapping tiles, each of which fits into memory.

Tiles begin at multiples of what the network halves, so that its grids are where they are in the
whole image. Where two overlap, one fades into the other in the middle half of the overlap; its
outer quarters, at the border of a tile, are not used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from nectargan.errors import DataError
from nectargan.inference.norm_statistics import NormStatistics, Part
from nectargan.inference.pictures import resized
from nectargan.inference.values import Values, from_batch, to_batch
from nectargan.models.padding import fitting_side, mirrored

if TYPE_CHECKING:
    from nectargan.inference.model import Model

TileNorm = Literal["exact", "fast"]
TILE_NORMS: tuple[TileNorm, ...] = ("exact", "fast")
_LEAST_OVERLAP = 64


class Span(NamedTuple):
    """A tile along one side of an image.

    Attributes:
        start: Its first pixel.
        end: The first one after it.
        first: The first pixel that no other tile counts, for statistics of the whole image.
        last: The first one after those.
    """

    start: int
    end: int
    first: int
    last: int


class Grid(NamedTuple):
    """The tiles of an image that is padded to (height, width)."""

    height: int
    width: int
    rows: list[Span]
    columns: list[Span]


def make_grid(
    size: tuple[int, int], multiple: int, smallest: int, tile: int, overlap: int | None
) -> Grid:
    """Covers an image with tiles.

    Args:
        size: (height, width) of the image in pixels.
        multiple: Tiles begin and end at multiples of this.
        smallest: The least side of a tile.
        tile: Side of a tile, rounded up to what fits.
        overlap: Of two tiles that are side by side, rounded up alike; a quarter of the tile, and at
            least 64 pixels, if it is left out.

    Raises:
        DataError: the overlap is as large as the tile.
    """
    side = fitting_side(tile, multiple, smallest)
    if overlap is None:
        wanted = max(_LEAST_OVERLAP, side // 4)
        overlap = min(fitting_side(wanted, multiple, 1), side // multiple // 2 * multiple)
    shared = -(-overlap // multiple) * multiple
    if shared >= side:
        raise DataError(
            f"overlap is {overlap}, which makes {shared} pixels, and tile is {tile}, which makes "
            f"{side}: this network has tiles in steps of {multiple}; an overlap must be smaller."
        )
    height, width = (fitting_side(each, multiple, smallest) for each in size)
    return Grid(
        height,
        width,
        _spans(height, side, shared, multiple),
        _spans(width, side, shared, multiple),
    )


def _spans(length: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    if length <= tile:
        return [Span(0, length, 0, length)]
    starts = [*range(0, length - tile, tile - overlap), length - tile]
    middles = [
        after + (before + tile - after) // multiple // 2 * multiple
        for before, after in itertools.pairwise(starts)
    ]
    edges = [0, *middles, length]
    return [Span(s, s + tile, edges[i], edges[i + 1]) for i, s in enumerate(starts)]


def generate_tiled(model: Model, pixels: Values, grid: Grid, norm: TileNorm = "exact") -> Values:
    """Generates an image tile by tile.

    Args:
        model: The generator.
        pixels: ``(H, W, in_channels)``, uint8, uint16, or float32 in [0, 1].
        grid: Its tiles.
        norm: Where the statistics of instance norms come from: "exact" gathers those of the whole
            image, norm after norm, each in a pass over all tiles; "fast" takes those of the image
            reduced to the size of a tile.

    Returns:
        ``(H, W, out_channels)`` of the same type.
    """
    tiles = _Tiles(model, pixels, grid)
    statistics = NormStatistics(model.network) if model.network is not None else None
    if not statistics:
        return tiles.blended(None)
    with statistics.in_place(), torch.no_grad():
        if norm == "fast":
            _take_from_reduced(model, pixels, grid, statistics)
        else:
            while _count_next(tiles, statistics):
                statistics.learn()
        return tiles.blended(statistics)


def _count_next(tiles: _Tiles, statistics: NormStatistics) -> bool:
    """Counts for the first norm that is not known, over all tiles; whether there was one."""
    for row, column in tiles.places():
        part = Part(
            row.first - row.start,
            row.last - row.start,
            column.first - column.start,
            column.last - column.start,
        )
        try:
            tiles.generated(row, column, statistics, part)
        except StopIteration:
            continue
        return False
    return True


def _take_from_reduced(
    model: Model, pixels: Values, grid: Grid, statistics: NormStatistics
) -> None:
    height, width = pixels.shape[:2]
    sides = [spans[0].end - spans[0].start for spans in (grid.rows, grid.columns)]
    factor = min(max(sides) / max(height, width), 1.0)
    small = [max(1, round(side * factor)) for side in (height, width)]
    reduced = resized(pixels, (small[0], small[1]), Image.Resampling.BICUBIC)
    fitting = [fitting_side(side, model.multiple, model.smallest) for side in small]
    statistics.take_all()
    statistics.begin(fitting[0], fitting[1])
    model.generate(to_batch([reduced], model.device))
    statistics.take_all(False)


class _Tiles:
    """The tiles of an image, and the image of what is made of them."""

    def __init__(self, model: Model, pixels: Values, grid: Grid) -> None:
        self.model, self.pixels, self.grid = model, pixels, grid
        height, width = pixels.shape[:2]
        cpu = torch.device("cpu")
        self._rows = mirrored(height, grid.height, cpu).numpy()
        self._columns = mirrored(width, grid.width, cpu).numpy()

    def places(self) -> Iterator[tuple[Span, Span]]:
        for row in self.grid.rows:
            for column in self.grid.columns:
                yield row, column

    def generated(
        self, row: Span, column: Span, statistics: NormStatistics | None, part: Part | None = None
    ) -> Tensor:
        """``(1, out_channels, H, W)`` in [-1, 1] of a tile."""
        lines = self.pixels[self._rows[row.start : row.end]]
        tile = lines[:, self._columns[column.start : column.end]]
        batch = to_batch([tile], self.model.device)
        if statistics is not None:
            statistics.begin(batch.shape[2], batch.shape[3], part)
        return self.model.forward(batch).float()

    @torch.no_grad()
    def blended(self, statistics: NormStatistics | None) -> Values:
        """The generated image. Only the tiles of a row are held as floats at a time."""
        grid, model = self.grid, self.model
        height, width = self.pixels.shape[:2]
        made = np.empty((height, width, model.out_channels), self.pixels.dtype)
        down, across = _weights(grid.rows, grid.height), _weights(grid.columns, grid.width)
        side = grid.rows[0].end - grid.rows[0].start
        # The rows of the image from `top` on.
        strip = np.zeros((model.out_channels, side, grid.width), np.float32)
        top = 0
        for i, row in enumerate(grid.rows):
            done = row.start - top
            if done:
                kept = strip[:, done:].copy()
                self._store(made, strip[:, :done], top)
                strip[:] = 0
                strip[:, : side - done] = kept
                top = row.start
            for column, weights in zip(grid.columns, across, strict=True):
                image = self.generated(row, column, statistics)[0].cpu().numpy()
                image *= down[i][:, None] * weights
                strip[:, :, column.start : column.end] += image
        self._store(made, strip, top)
        return made

    def _store(self, made: Values, strip: npt.NDArray[np.float32], top: int) -> None:
        height, width = made.shape[:2]
        rows = min(strip.shape[1], height - top)
        if rows > 0:
            batch = torch.from_numpy(strip[None, :, :rows, :width])
            (made[top : top + rows],) = from_batch(batch, made.dtype)


def _weights(spans: list[Span], length: int) -> list[npt.NDArray[np.float32]]:
    """The weight of each pixel of each tile along one side; over the tiles they add up to 1."""
    weights = []
    for i, span in enumerate(spans):
        own = np.ones(span.end - span.start)
        if i:
            ramp = _ramp(spans[i - 1].end - span.start)
            own[: len(ramp)] *= ramp
        if i + 1 < len(spans):
            ramp = _ramp(span.end - spans[i + 1].start)
            own[len(own) - len(ramp) :] *= ramp[::-1]
        weights.append(own)
    total = np.zeros(length)
    for span, own in zip(spans, weights, strict=True):
        total[span.start : span.end] += own
    return [
        (own / total[span.start : span.end]).astype(np.float32)
        for span, own in zip(spans, weights, strict=True)
    ]


def _ramp(overlap: int) -> npt.NDArray[np.float64]:
    """From 0 to 1 in the middle half of an overlap."""
    quarter = overlap // 4
    rising = (np.arange(overlap) - quarter + 0.5) / max(overlap - 2 * quarter, 1)
    return rising.clip(0, 1)
