"""From the pixels of images to those of generated images, in tiles where memory asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from nectargan.errors import DataError
from nectargan.inference.memory import free_memory, peak_of_pass
from nectargan.inference.tiles import Grid, TileNorm, generate_tiled, make_grid
from nectargan.inference.values import Values, from_batch, to_batch
from nectargan.models.padding import fitting_side

if TYPE_CHECKING:
    from nectargan.inference.model import Model

# Of the memory that is free when an image of a new size comes.
_SHARE = 0.6
_LARGEST_TILE = 4096
_SMALLEST_TILE = 256


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
        notes: What was done in tiles, in words.

    Raises:
        DataError: the tiles cannot be made.
    """

    def __init__(self, model: Model, tiling: Tiling = Tiling()) -> None:  # noqa: B008
        if tiling.norm is not None and model.network is None:
            raise DataError(
                f"The statistics of an exported model are inside it; apply '{model.name}' without "
                "--tile-norm, or apply the checkpoint that it was exported from."
            )
        self.model, self.tiling = model, tiling
        self.notes: list[str] = []
        self._grids: dict[tuple[int, int], Grid | None] = {}
        self._batches: dict[tuple[int, int], int] = {}
        if tiling.tile:  # so that what is wrong is told before an image is read
            self._grid((1, 1), tiling.tile)

    def __call__(self, images: Sequence[Values]) -> list[Values]:
        """Generates a batch.

        Args:
            images: ``(H, W, in_channels)`` each, of one size and type: uint8 or uint16 over its
                whole range, or float32 in [0, 1].

        Returns:
            ``(H, W, out_channels)`` each, of the same type.
        """
        size = images[0].shape[0], images[0].shape[1]
        if size not in self._grids:
            self._plan(size)
        grid = self._grids[size]
        if grid is not None:
            norm = self.tiling.norm or "exact"
            return [generate_tiled(self.model, image, grid, norm) for image in images]
        made: list[Values] = []
        for start in range(0, len(images), self._batches[size]):
            batch = to_batch(images[start : start + self._batches[size]], self.model.device)
            made += from_batch(self.model.generate(batch), images[0].dtype)
        return made

    def _plan(self, size: tuple[int, int]) -> None:
        """Chooses how images of a size are computed, by the memory that is free now."""
        self._grids[size] = None
        budget, need = _SHARE * free_memory(self.model.device), self._need(size)
        self._batches[size] = max(1, int(budget // need))
        tile = self.tiling.tile
        if tile is None:
            tile = 0 if need <= budget else self._largest_tile(budget)
        if tile and (tile < size[0] or tile < size[1]):
            grid = self._grid(size, tile)
            count = len(grid.rows) * len(grid.columns)
            if count > 1:
                self._grids[size] = grid
                self._note(size, grid, count)

    def _grid(self, size: tuple[int, int], tile: int) -> Grid:
        model = self.model
        return make_grid(size, model.multiple, model.smallest, tile, self.tiling.overlap)

    def _need(self, size: tuple[int, int]) -> float:
        """Bytes that it takes to compute one image."""
        model = self.model
        height, width = (fitting_side(each, model.multiple, model.smallest) for each in size)
        return peak_of_pass(model, height, width)

    def _largest_tile(self, budget: float) -> int:
        tile = _LARGEST_TILE
        while tile > _SMALLEST_TILE and self._need((tile, tile)) > budget:
            tile //= 2
        return tile

    def _note(self, size: tuple[int, int], grid: Grid, count: int) -> None:
        row, column = grid.rows[0], grid.columns[0]
        self.notes.append(
            f"{size[0]} x {size[1]} (height x width): in {count} tiles of "
            f"{row.end - row.start} x {column.end - column.start} pixels"
        )
