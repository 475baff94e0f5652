"""Large images in overlapping tiles, each of which fits into memory.

Tiles begin at multiples of what the network halves, so that its grids are where they are in the
whole image. Where two overlap, one fades into the other in the middle of the overlap, at most half
of it; what is nearer to the border of a tile is not used. Deep levels of the network are computed
for the whole image, so that tiles may be small; see `WholeLevel`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from nectargan.errors import DataError
from nectargan.inference.levels import Levelled, WholeLevel
from nectargan.inference.norm_statistics import NormStatistics, Part
from nectargan.inference.pictures import resized
from nectargan.inference.values import Values, from_batch, to_batch
from nectargan.models.padding import fitting_side, mirrored
from nectargan.trainers.devices import autocast

if TYPE_CHECKING:
    from nectargan.inference.model import Model

TileNorm = Literal["exact", "fast"]
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
    """The tiles of an image that is padded to (height, width).

    Attributes:
        height: In pixels.
        width: In pixels.
        rows: The tiles along the height.
        columns: Those along the width.
        reach: So many pixels at the border of a tile depend on what is outside.
        level: The level of the network that is computed for the whole image; ``None`` for none.
    """

    height: int
    width: int
    rows: list[Span]
    columns: list[Span]
    reach: int = 0
    level: int | None = None


def make_grid(
    size: tuple[int, int],
    multiple: int,
    smallest: int,
    tile: int,
    overlap: int | None,
    reach: int = 0,
    level: int | None = None,
) -> Grid:
    """Covers an image with tiles.

    Args:
        size: (height, width) of the image in pixels.
        multiple: What the network takes, and so what the image is padded to, is a multiple of this;
            tiles too, unless a level is given.
        smallest: The least side that the network takes.
        tile: Side of a tile, rounded up to what fits.
        overlap: Overlap of adjacent tiles in pixels, rounded up in the same way. Default: what
            `reach` needs, but at least a quarter of the tile and 64 pixels.
        reach: See `Grid`.
        level: See `Grid`.

    Raises:
        DataError: the overlap is as large as the tile.
    """
    step = multiple if level is None else 2**level
    side = fitting_side(tile, step, smallest if level is None else 1)
    if overlap is None:
        side = max(side, 2 * step)
        overlap = overlap_for(side, reach, step)
        if overlap > side * 3 // 4:
            overlap = side // step // 2 * step
    shared = -(-overlap // step) * step
    if shared >= side:
        raise DataError(
            f"overlap is {overlap}, which makes {shared} pixels, and tile is {tile}, which makes "
            f"{side}: this network has tiles in steps of {step}; an overlap must be smaller."
        )
    height, width = (fitting_side(each, multiple, smallest) for each in size)
    rows, columns = (_spans(length, side, shared, step) for length in (height, width))
    return Grid(height, width, rows, columns, reach, level)


def overlap_for(side: int, reach: int, step: int) -> int:
    """What two tiles should share, so that where one fades into the other both are right."""
    least = min(_LEAST_OVERLAP, side // 2)
    return fitting_side(max(least, side // 4, 2 * reach + step), step, 1)


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
        pixels: ``(H, W, in_channels)``; see `to_batch`.
        grid: Its tiles.
        norm: Where the statistics of instance norms come from: "exact" gathers those of the whole
            image, norm after norm, each in a pass over all tiles; "fast" takes those of the image
            reduced to the size of a tile.

    Returns:
        ``(H, W, out_channels)`` of the same type, or of that of the targets in training.
    """
    tiles = _Tiles(model, pixels, grid)
    network = model.network
    with torch.no_grad(), ExitStack() as stack:
        statistics = NormStatistics(network) if network is not None else None
        if statistics:
            tiles.statistics = statistics
            stack.enter_context(statistics.in_place())
            if norm == "fast":
                _take_from_reduced(model, pixels, grid, statistics)
        if grid.level is not None:
            tiles.whole = WholeLevel(
                cast("Levelled", network),
                grid.level,
                (grid.height, grid.width),
                lambda: _alone(model, statistics),
            )
            stack.enter_context(tiles.whole.in_place())
        while tiles.stop():
            if not (tiles.whole and tiles.whole.make()) and statistics:
                statistics.learn()
        return tiles.blended()


@contextmanager
def _alone(model: Model, statistics: NormStatistics | None) -> Iterator[None]:
    """A part of the network computes as it would without tiles."""
    with autocast(model.device, model.precision), ExitStack() as stack:
        if statistics:
            stack.enter_context(statistics.paused())
        yield


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
    model.generate(to_batch([reduced], model.device, model.input_values))
    statistics.take_all(False)


class _Tiles:
    """The tiles of an image, and the image of what is made of them."""

    def __init__(self, model: Model, pixels: Values, grid: Grid) -> None:
        self.model, self.pixels, self.grid = model, pixels, grid
        self.statistics: NormStatistics | None = None
        self.whole: WholeLevel | None = None
        height, width = pixels.shape[:2]
        cpu = torch.device("cpu")
        self._rows = mirrored(height, grid.height, cpu).numpy()
        self._columns = mirrored(width, grid.width, cpu).numpy()

    def stop(self) -> bool:
        """Gathers the first thing that must be known of the whole image and is not, over all tiles;
        whether there was one."""
        if not self.statistics and not self.whole:
            return False
        for row in self.grid.rows:
            for column in self.grid.columns:
                part = Part(
                    row.first - row.start,
                    row.last - row.start,
                    column.first - column.start,
                    column.last - column.start,
                )
                try:
                    self._generated(row, column, part)
                except StopIteration:
                    continue
                return False
        return True

    def _generated(self, row: Span, column: Span, part: Part | None = None) -> Tensor:
        """``(1, out_channels, H, W)`` in [-1, 1] of a tile."""
        lines = self.pixels[self._rows[row.start : row.end]]
        tile = lines[:, self._columns[column.start : column.end]]
        batch = to_batch([tile], self.model.device, self.model.input_values)
        if self.statistics:
            self.statistics.begin(batch.shape[2], batch.shape[3], part)
        if self.whole:
            self.whole.begin(row.start, column.start, part)
        return self.model.forward(batch).float()

    def blended(self) -> Values:
        """The generated image. Only the tiles of a row are held as floats at a time."""
        grid, model = self.grid, self.model
        height, width = self.pixels.shape[:2]
        mapping = model.output_values
        dtype = self.pixels.dtype if mapping is None else np.dtype(mapping.dtype)
        made = np.empty((height, width, model.out_channels), dtype)
        down = _weights(grid.rows, grid.height, grid.reach)
        across = _weights(grid.columns, grid.width, grid.reach)
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
                image = self._generated(row, column)[0].cpu().numpy()
                image *= down[i][:, None] * weights
                strip[:, :, column.start : column.end] += image
        self._store(made, strip, top)
        return made

    def _store(self, made: Values, strip: npt.NDArray[np.float32], top: int) -> None:
        height, width = made.shape[:2]
        rows = min(strip.shape[1], height - top)
        if rows > 0:
            batch = torch.from_numpy(strip[None, :, :rows, :width])
            (made[top : top + rows],) = from_batch(batch, made.dtype, self.model.output_values)


def _weights(spans: list[Span], length: int, reach: int = 0) -> list[npt.NDArray[np.float32]]:
    """The weight of each pixel of each tile along one side; over the tiles they add up to 1."""
    weights = []
    for i, span in enumerate(spans):
        own = np.ones(span.end - span.start)
        if i:
            ramp = _ramp(spans[i - 1].end - span.start, reach)
            own[: len(ramp)] *= ramp
        if i + 1 < len(spans):
            ramp = _ramp(span.end - spans[i + 1].start, reach)
            own[len(own) - len(ramp) :] *= ramp[::-1]
        weights.append(own)
    total = np.zeros(length)
    for span, own in zip(spans, weights, strict=True):
        total[span.start : span.end] += own
    return [
        (own / total[span.start : span.end]).astype(np.float32)
        for span, own in zip(spans, weights, strict=True)
    ]


def _ramp(overlap: int, reach: int) -> npt.NDArray[np.float64]:
    """From 0 to 1 in the middle of an overlap, at least ``reach`` pixels from its ends."""
    unused = max(overlap // 4, min(reach, (overlap - 1) // 2))
    rising = (np.arange(overlap) - unused + 0.5) / max(overlap - 2 * unused, 1)
    return rising.clip(0, 1)
