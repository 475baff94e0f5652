"""From the pixels of images to those of generated images, in tiles where memory asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from nectargan.errors import DataError
from nectargan.inference.levels import Levelled
from nectargan.inference.memory import free_memory, peak_of_level, peak_of_pass
from nectargan.inference.tiles import Grid, TileNorm, generate_tiled, make_grid, overlap_for
from nectargan.inference.values import Values, from_batch, to_batch
from nectargan.models.padding import fitting_side
from nectargan.shortage import Shortage, shortage_of

if TYPE_CHECKING:
    from nectargan.inference.model import Model

# Of the memory that is free when an image of a new size comes.
_SHARE = 0.6
_LARGEST_TILE = 4096
_SMALLEST_TILE = 256
_LEAST_TILE = 64  # of a user's choice


class Tiling(NamedTuple):
    """How large images are cut into tiles.

    Attributes:
        tile: Side of a tile in pixels, 0 for none; ``None`` for the largest that fits into memory,
            where the image does not.
        overlap: Values that two tiles share; ``None`` for a quarter of a tile.
        norm: Where instance norms have their statistics from; see `generate_tiled`. ``None`` is
            "exact" where it is possible.
    """

    tile: int | None = None
    overlap: int | None = None
    norm: TileNorm | None = None


class PixelGenerator:
    """Generates images of any size.

    Args:
        model: The generator.
        tiling: How large ones are cut into tiles.

    Attributes:
        grids: The tiles for each image size so far; ``None`` if it is not split.
        notes: Sentences about tiles, and about what was repeated because memory ran out.

    Raises:
        DataError: the tiles cannot be made.
    """

    def __init__(self, model: Model, tiling: Tiling = Tiling()) -> None:  # noqa: B008 - immutable
        if tiling.norm is not None and model.network is None:
            raise DataError(
                f"The statistics of an exported model are inside it; apply '{model.name}' without "
                "--tile-norm, or apply the checkpoint that it was exported from."
            )
        if tiling.tile and tiling.tile < _LEAST_TILE:
            raise DataError(
                f"tile is {tiling.tile}; allowed are {_LEAST_TILE} pixels and more, and 0 for none."
            )
        self.model, self.tiling = model, tiling
        self.notes: list[str] = []
        self.grids: dict[tuple[int, int], Grid | None] = {}
        self._batches: dict[tuple[int, int], int] = {}
        if tiling.tile:  # finds errors before an image is read
            self._grid((1, 1), tiling.tile)

    def __call__(self, images: Sequence[Values]) -> list[Values]:
        """Generates a batch.

        Args:
            images: ``(H, W, in_channels)`` each, of one size and type; see `to_batch`.

        Returns:
            ``(H, W, out_channels)`` each, of the same type, or of that of the targets in training.

        Raises:
            DataError: there is too little memory even for a batch of one image, or its tiles.
        """
        size = images[0].shape[0], images[0].shape[1]
        if size not in self.grids:
            self._plan(size)
        while True:
            try:
                return self._generated(images, size)
            except Exception as error:
                # Each library and each device has an exception of its own.
                shortage = shortage_of(error)
                if shortage is None or shortage.kind != "memory":
                    raise
            # Not above: there, the traceback still holds what takes the memory.
            self._take_less(size, len(images), shortage)

    def _generated(self, images: Sequence[Values], size: tuple[int, int]) -> list[Values]:
        grid = self.grids[size]
        if grid is not None:
            norm = self.tiling.norm or "exact"
            return [generate_tiled(self.model, image, grid, norm) for image in images]
        made: list[Values] = []
        for start in range(0, len(images), self._batches[size]):
            part = images[start : start + self._batches[size]]
            batch = to_batch(part, self.model.device, self.model.input_values)
            generated = self.model.generate(batch)
            made += from_batch(generated, images[0].dtype, self.model.output_values)
        return made

    def _plan(self, size: tuple[int, int]) -> None:
        """Chooses how images of a size are computed, by the memory that is free now."""
        self.grids[size] = None
        budget, need = self._budget(), self._need(size)
        self._batches[size] = max(1, int(budget // need))
        tile = self.tiling.tile
        if tile is None:
            tile = 0 if need <= budget else self._largest_tile(budget)
        if tile and (tile < size[0] or tile < size[1]):
            self._cut(size, self._grid(size, tile))

    def _take_less(self, size: tuple[int, int], count: int, shortage: Shortage) -> None:
        """After memory ran out: half of the batch, then tiles, then smaller ones."""
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        grid, batch = self.grids[size], min(self._batches[size], count)
        if grid is None and batch > 1:
            self._batches[size] = batch // 2
            self.notes.append(f"{shortage.text}; continued with batches of {batch // 2}")
            return
        side = _side(grid) if grid else max(size)
        smaller = None
        if self.tiling.tile is None and side // 2 >= _SMALLEST_TILE:
            smaller = self._grid(size, min(side // 2, _LARGEST_TILE))
        if smaller is None or _side(smaller) >= side:
            has_choice = self.tiling.tile is not None
            advice = f"; tiles of {side // 2} pixels take less" if has_choice else ""
            raise DataError(f"{shortage.text}{advice}.")
        self.notes.append(f"{shortage.text}; continued in smaller tiles")
        self._cut(size, smaller)

    def _cut(self, size: tuple[int, int], grid: Grid) -> None:
        count = len(grid.rows) * len(grid.columns)
        if count > 1:
            self.grids[size] = grid
            self._note(size, grid, count)

    def _grid(self, size: tuple[int, int], tile: int) -> Grid:
        model, overlap = self.model, self.tiling.overlap
        reach, level = 0, None
        if isinstance(model.network, Levelled):
            level = self._level(model.network, size, tile)
            reach = model.network.reach(model.network.deepest + 1 if level is None else level)
        return make_grid(size, model.multiple, model.smallest, tile, overlap, reach, level)

    def _level(self, network: Levelled, size: tuple[int, int], tile: int) -> int | None:
        """The level that is computed for the whole image: the deepest for whose reach the overlap
        is enough anyway; a deeper one if that does not fit into memory."""
        least = self.tiling.overlap or overlap_for(tile, 0, 1)
        fitting = self._fitting(size)
        for number in range(1, network.deepest + 1):
            has_deeper = number < network.deepest and 2 * network.reach(number + 1) < least
            if self.tiling.overlap is None:
                wanted = overlap_for(tile, network.reach(number), 2**number)
                if wanted > tile * 3 // 4:
                    return None
            if not has_deeper and peak_of_level(self.model, number, *fitting) <= self._budget():
                return number
        return None

    def _budget(self) -> float:
        return _SHARE * free_memory(self.model.device)

    def _fitting(self, size: tuple[int, int]) -> tuple[int, int]:
        """What an image is padded to."""
        multiple, smallest = self.model.multiple, self.model.smallest
        return fitting_side(size[0], multiple, smallest), fitting_side(size[1], multiple, smallest)

    def _need(self, size: tuple[int, int]) -> float:
        """Bytes that it takes to compute one image."""
        return peak_of_pass(self.model, *self._fitting(size))

    def _largest_tile(self, budget: float) -> int:
        tile = _LARGEST_TILE
        while tile > _SMALLEST_TILE and self._need((tile, tile)) > budget:
            tile //= 2
        return tile

    def _note(self, size: tuple[int, int], grid: Grid, count: int) -> None:
        row, column = grid.rows[0], grid.columns[0]
        spans = max(grid.rows, grid.columns, key=len)
        overlap = spans[0].end - spans[1].start
        shared = f" that share {overlap}" if len(spans) > 2 and overlap else ""
        self.notes.append(
            f"{size[0]} x {size[1]} (height x width): in {count} tiles of "
            f"{row.end - row.start} x {column.end - column.start} pixels{shared}"
        )


def _side(grid: Grid) -> int:
    """The longer side of a tile, in pixels."""
    return max(spans[0].end - spans[0].start for spans in (grid.rows, grid.columns))
