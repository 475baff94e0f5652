"""The pictures of a page: examples cut from the grids of runs, within a limit of bytes."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nectargan.analysis.sources import LedgerSource, Source
from nectargan.errors import ConfigError

log = logging.getLogger("nectargan")

_GAP = 2  # pixels between the images of a grid
_COLUMNS = 3  # input, generated, target
SIDES = (256, 192, 128, 96, 64)
_FEW_EPOCHS = 12  # smaller pictures are preferred to fewer epochs than this
BYTES_PER_PIXEL = 0.3
_NAME = re.compile(r"epoch_(\d+)_step_\d+\.png")

Size = tuple[int, int]


class PictureStore:
    """JPEG files in base64; equal ones are kept once.

    Attributes:
        texts: The files.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, pixels: Any, side: int) -> int:
        """Keeps an image ``(H, W, 3)`` of uint8, reduced to ``side`` pixels; returns its place."""
        picture = Image.fromarray(pixels)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=90, subsampling=0)
        text = base64.b64encode(file.getvalue()).decode("ascii")
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


class Examples:
    """The example images of runs, by pair, run and epoch. Two runs have a pair in common if input
    and target are equal.

    Args:
        sources: The runs.
        store: Receives the pictures.
        most_bytes: About how large they may be in all.

    Attributes:
        pairs: ``{input, target}`` of each pair, as places in the store.
        generated: For each run, by pair and epoch, the place of what was generated.
        side: Longest side of a picture in pixels.
        epochs: How many epochs are shown, and how many there are.
    """

    def __init__(self, sources: Sequence[Source], store: PictureStore, most_bytes: int) -> None:
        self.pairs: list[dict[str, int]] = []
        self.generated: list[dict[int, dict[int, int]]] = [{} for _ in sources]
        self._store = store
        self._known: dict[bytes, int] = {}
        files = [_grids(source) for source in sources]
        sizes = [_size_of(source, each) for source, each in zip(sources, files, strict=True)]
        epochs = sorted({epoch for each in files for epoch in each})
        self.side, count = _fitting(files, sizes, len(epochs), most_bytes)
        shown = spread(epochs, count)
        self.epochs = (len(shown), len(epochs))
        for run, (each, size) in enumerate(zip(files, sizes, strict=True)):
            # The last grid of a run is always there.
            for epoch in sorted({*(e for e in shown if e in each), *list(each)[-1:]}):
                self._add(run, epoch, each[epoch], size)

    def _add(self, run: int, epoch: int, file: Path, size: Size | None) -> None:
        grid = read_grid(file)
        if grid is None:
            return
        rows = rows_of(grid, size)
        if rows is None:
            log.warning("'%s' is not a grid of examples of this run. It is left out.", file)
            return
        for source, generated, target in rows:
            key = hashlib.sha256(source.tobytes() + target.tobytes()).digest()
            if key not in self._known:
                self._known[key] = len(self.pairs)
                places = {"input": self._keep(source), "target": self._keep(target)}
                self.pairs.append(places)
            pair = self.generated[run].setdefault(self._known[key], {})
            pair[epoch] = self._keep(generated)

    def _keep(self, pixels: Any) -> int:
        return self._store.add(pixels, self.side)


def read_grid(file: Path) -> Any:
    """An image ``(H, W, 3)`` of uint8; ``None``, with a warning, if it cannot be read."""
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        log.warning("'%s' cannot be read: %s. It is left out.", file, error)
        return None


def rows_of(grid: Any, size: Size | None) -> list[list[Any]] | None:
    """The images of each row of a grid, ``(H, W, 3)`` each.

    Args:
        grid: The grid, ``(H, W, 3)``.
        size: (height, width) of an image; ``None`` if it is not known: squares are assumed.

    Returns:
        The rows; ``None`` if the grid does not consist of images of this size.
    """
    whole_height, whole_width = grid.shape[0] + _GAP, grid.shape[1] + _GAP
    width = whole_width // _COLUMNS - _GAP
    height, width = size or (width, width)
    if whole_width != _COLUMNS * (width + _GAP) or whole_height % (height + _GAP):
        return None
    tops = range(0, whole_height, height + _GAP)
    lefts = range(0, whole_width, width + _GAP)
    return [[grid[y : y + height, x : x + width] for x in lefts] for y in tops]


def _grids(source: Source) -> dict[int, Path]:
    """The grids of a run by epoch, sorted."""
    if not isinstance(source, LedgerSource):
        return {}
    names = sorted(source.directory.examples.glob("epoch_*.png"))
    return {int(match[1]): file for file in names if (match := _NAME.fullmatch(file.name))}


def _size_of(source: Source, files: dict[int, Path]) -> Size | None:
    """(height, width) of the example images of a run, as far as its config says."""
    try:
        config = source.config() if files else None
    except ConfigError:
        return None
    if config is None:
        return None
    size = config.dataloader.load.crop_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _fitting(
    files: Sequence[dict[int, Path]], sizes: Sequence[Size | None], epochs: int, most_bytes: int
) -> tuple[int, int]:
    """The side of the pictures, and of how many epochs they can be shown."""
    shapes = []
    for each, size in zip(files, sizes, strict=True):
        if each:
            height, width = _shape_of(list(each.values())[-1])
            shapes.append((height, width, size or (width // _COLUMNS, width // _COLUMNS)))
    side, count = SIDES[0], epochs
    for side in SIDES:
        pixels = sum(
            height * width / _COLUMNS * min(1.0, side / max(size)) ** 2
            for height, width, size in shapes
        )
        count = int(most_bytes / BYTES_PER_PIXEL / max(1.0, pixels))
        if count >= min(_FEW_EPOCHS, epochs):
            break
    return side, count


def _shape_of(file: Path) -> Size:
    try:
        with Image.open(file) as picture:
            return picture.height, picture.width
    except OSError:
        return 0, 0  # `Examples` says so


def spread(epochs: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the epochs, evenly spread, with the first and the last one."""
    if count >= len(epochs):
        return list(epochs)
    if count < 2:
        return list(epochs[-1:])
    return [epochs[round(i * (len(epochs) - 1) / (count - 1))] for i in range(count)]
