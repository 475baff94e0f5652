"""Paints the plan of a facade, as a label map and as a shaded picture.

The light comes from the upper left, so shadows fall to the lower right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from nectargan.dataset.facades import LABEL_COLOURS, WALLS, Colour, Piece, Style

Image = npt.NDArray[np.float32]
Pixel = TypeVar("Pixel", bound=np.generic)

# --- labels ------------------------------------------------------------------------------------


class _Box(NamedTuple):
    top: int
    left: int
    bottom: int
    right: int

    def of(self, image: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
        return image[self.top : self.bottom, self.left : self.right]


def _box(part: Piece, side: int) -> _Box:
    """The rectangle of a part in pixels, clipped to the picture, at least one pixel large."""
    top, left, bottom, right = (min(side, max(0, round(v * side))) for v in part[1:5])
    return _Box(top, left, max(bottom, top + 1), max(right, left + 1))


def paint_labels(parts: list[Piece], side: int) -> npt.NDArray[np.uint8]:
    """Paints the label map, ``(side, side, 3)`` uint8, with colors of `LABEL_COLOURS` only."""
    labels = np.zeros((side, side, 3), np.uint8)
    for part in parts:
        _box(part, side).of(labels)[...] = LABEL_COLOURS[part.kind]
    return labels


# --- picture -----------------------------------------------------------------------------------


def paint_front(parts: list[Piece], style: Style, side: int) -> npt.NDArray[np.uint8]:
    """Paints the shaded picture, ``(side, side, 3)`` uint8."""
    canvas = np.zeros((side, side, 3), np.float32)
    for part in parts:
        box = _box(part, side)
        if part.kind in _CASTS:
            _cast_shadow(canvas, box, max(2, round(_CASTS[part.kind] * side)))
        _PAINTERS[part.kind](canvas, box, part, style)
    grain = np.random.default_rng(style.texture_seed).normal(0, 2.0, (side, side, 1))
    return np.clip(canvas + grain, 0, 255).astype(np.uint8)


# The length of the shadow of each kind of part, as a fraction of the side of the picture.
_CASTS = {"cornice": 0.03, "balcony": 0.035, "shop": 0.012, "door": 0.008, "window": 0.006}


def _cast_shadow(canvas: Image, box: _Box, length: int) -> None:
    """Darkens the area to the lower right of a box, less with increasing distance."""
    for i in range(length, 0, -1):
        shifted = _Box(box.top + i, box.left + i // 2, box.bottom + i, box.right + i // 2)
        shifted.of(canvas)[...] *= 1.0 - 0.55 / length


def _gradient(box: _Box, top: float, bottom: float) -> Image:
    """A brightness factor for each row of a box, ``(rows, 1, 1)``."""
    rows = max(1, box.bottom - box.top)
    return np.linspace(top, bottom, rows, dtype=np.float32)[:, None, None]


def _fill(canvas: Image, box: _Box, colour: Colour, top: float = 1.0, bottom: float = 1.0) -> None:
    area = box.of(canvas)
    area[...] = (np.array(colour, np.float32) * _gradient(box, top, bottom))[: len(area)]


def _shrunk(box: _Box, by: int) -> _Box:
    top, left = box.top + by, box.left + by
    return _Box(top, left, max(top + 1, box.bottom - by), max(left + 1, box.right - by))


def _line_width(canvas: Image) -> int:
    """Width of a thin line, in pixels."""
    return max(1, int(canvas.shape[0]) // 128)


def _sky(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    _fill(canvas, box, style.sky, 0.92, 1.25)


def _ground(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    _fill(canvas, box, (128, 126, 122), 0.7, 1.1)


def _wall(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    _fill(canvas, box, style.wall, 1.06, 0.88)
    area, side = box.of(canvas), canvas.shape[0]
    rng = np.random.default_rng(style.texture_seed + 1)
    if part.kind == "plaster":
        area *= 1 + rng.normal(0, 0.008, area.shape[:2])[..., None]
        return
    course, length = (side // 48, side // 18) if part.kind == "brick" else (side // 20, side // 9)
    rows, columns = np.indices(area.shape[:2])
    row = rows // course
    column = (columns + row % 2 * (length // 2)) // length
    blocks = rng.normal(0, 0.03, (row.max() + 1, column.max() + 1)).astype(np.float32)
    area *= 1 + blocks[row, column][..., None]
    joint = (rows % course == 0) | ((columns + row % 2 * (length // 2)) % length == 0)
    area[joint] *= 0.88


def _roof(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    side = canvas.shape[0]
    _fill(canvas, box, style.roof, 1.15, 0.8)
    area = box.of(canvas)
    rows, columns = np.indices(area.shape[:2])
    tile = max(2, side // 40)
    area[rows % tile == 0] *= 0.72
    area[(columns + rows // tile % 2 * (tile // 2)) % tile == 0] *= 0.9
    width = box.right - box.left
    for i in range(part.divisions):  # skylights
        middle = box.left + width * (i + 1) // (part.divisions + 1)
        half, height = side // 50, (box.bottom - box.top) // 4
        light = _Box(box.top + height, middle - half, box.bottom - height, middle + half)
        _fill(canvas, light, (150, 185, 215), 1.1, 0.8)


def _cornice(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    _fill(canvas, box, style.trim, 1.05, 0.8)
    line = _line_width(canvas)
    box._replace(top=max(box.top, box.bottom - line)).of(canvas)[...] *= 0.7


def _glass(canvas: Image, box: _Box) -> None:
    """Paints glass: bright at the top, dark at the bottom, with a diagonal reflection."""
    _fill(canvas, box, (96, 124, 150), 1.35, 0.42)
    area = box.of(canvas)
    rows, columns = np.indices(area.shape[:2])
    band = (rows + columns) / max(1, sum(area.shape[:2]))
    area[(band > 0.36) & (band < 0.5)] *= 1.22


def _window(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    line = _line_width(canvas)
    _fill(canvas, box, style.trim, 1.0, 0.92)
    pane = _shrunk(box, line)
    _glass(canvas, pane)
    for i in range(1, part.divisions):
        x = pane.left + (pane.right - pane.left) * i // part.divisions
        _fill(canvas, pane._replace(left=x, right=x + line), style.trim)
    y = pane.top + (pane.bottom - pane.top) // 3
    _fill(canvas, pane._replace(top=y, bottom=y + line), style.trim)
    pane._replace(bottom=min(pane.bottom, pane.top + 2 * line)).of(canvas)[...] *= 0.6
    pane._replace(right=min(pane.right, pane.left + line)).of(canvas)[...] *= 0.7
    box._replace(top=max(box.top, box.bottom - line)).of(canvas)[...] *= 1.08  # sill


def _door(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    line = _line_width(canvas)
    _fill(canvas, box, style.trim, 1.0, 0.85)
    leaf = _shrunk(box, 2 * line)._replace(bottom=box.bottom)
    _fill(canvas, leaf, style.wood, 1.1, 0.85)
    height, width = leaf.bottom - leaf.top, leaf.right - leaf.left
    _glass(canvas, leaf._replace(bottom=leaf.top + max(1, height // 6)))
    for i in range(3):
        for j in range(2):
            top = leaf.top + height // 5 + i * height * 4 // 15
            left = leaf.left + line + j * width // 2
            panel = _Box(top, left, top + height // 5, left + width // 2 - 2 * line)
            panel.of(canvas)[...] *= 0.72
            panel._replace(bottom=top + line).of(canvas)[...] *= 0.6


def _balcony(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    line, side = _line_width(canvas), canvas.shape[0]
    area = box.of(canvas)
    spacing = max(3, side // 50)
    bars = np.arange(area.shape[1]) % spacing < line
    area[:, bars] = np.array((40, 40, 44), np.float32)
    _fill(canvas, box._replace(bottom=box.top + line), (52, 52, 56))
    slab = box._replace(top=max(box.top, box.bottom - 3 * line))
    _fill(canvas, slab, style.trim, 1.05, 0.7)


def _shop(canvas: Image, box: _Box, part: Piece, style: Style) -> None:
    line = _line_width(canvas)
    _fill(canvas, box, style.wood, 1.0, 0.8)
    height, width = box.bottom - box.top, box.right - box.left
    front = _shrunk(box, 2 * line)._replace(bottom=max(box.top + 1, box.bottom - height // 6))
    _glass(canvas, front)
    for i in range(1, part.divisions):
        x = front.left + (front.right - front.left) * i // part.divisions
        _fill(canvas, front._replace(left=x, right=x + line), style.wood)
    awning = box._replace(bottom=box.top + max(2, height // 4))
    _cast_shadow(canvas, awning, max(2, height // 8))
    _fill(canvas, awning, style.cloth, 1.1, 0.85)
    stripes = np.arange(width) // max(2, 3 * line) % 2 == 0
    awning.of(canvas)[:, stripes[: awning.of(canvas).shape[1]]] = np.array(style.trim, np.float32)
    awning._replace(top=max(awning.top, awning.bottom - line)).of(canvas)[...] *= 0.7


_PAINTERS: dict[str, Callable[[Image, _Box, Piece, Style], None]] = {
    "sky": _sky,
    "ground": _ground,
    **dict.fromkeys(WALLS, _wall),
    "roof": _roof,
    "cornice": _cornice,
    "window": _window,
    "door": _door,
    "balcony": _balcony,
    "shop": _shop,
}
