"""Chooses crops with enough valid pixels, from a small map of each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nectargan.dataset.crops import Crops

# Sums of valid pixels over all blocks above and to the left, (H / 8 + 1, W / 8 + 1), rounded up.
Content = npt.NDArray[np.int64]

DRAWS = 8  # crops that are drawn for an image with invalid pixels
_BLOCK = 8  # pixels
_ENOUGH = 0.5  # of the pixels of a crop


def content_of(valid: npt.NDArray[np.bool_]) -> Content | None:
    """The content of an image from its valid pixels ``(H, W)``; ``None`` if all are valid."""
    if valid.all():
        return None
    height, width = (-(-side // _BLOCK) * _BLOCK for side in valid.shape)
    padded = np.zeros((height, width), np.bool_)
    padded[: valid.shape[0], : valid.shape[1]] = valid
    blocks = padded.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).sum((1, 3))
    return np.pad(blocks.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def choose_crop(
    content: Content | None,
    draws: Sequence[npt.NDArray[np.int64]],
    width: int,
    size: tuple[int, int],
) -> npt.NDArray[np.int64]:
    """The first of several crops of an image at least half of which is valid, else the best.

    Args:
        content: The content of the image.
        draws: The crops, each with first, down and right (see `draw_crops`).
        width: Width of the image, in pixels.
        size: (height, width) of the crops.
    """
    if content is None:
        return draws[0]
    counts = [_valid_pixels(content, crop, width, size) for crop in draws]
    enough = _ENOUGH * size[0] * size[1]
    first = next((i for i, count in enumerate(counts) if count >= enough), None)
    return draws[int(np.argmax(counts)) if first is None else first]


def choose_crops(
    contents: Sequence[Content | None],
    draws: Sequence[Crops],
    widths: Sequence[int] | npt.NDArray[np.int64],
    size: tuple[int, int],
) -> Crops:
    """`choose_crop` for each image of an epoch; ``draws`` has one array ``(N, 3)`` per draw."""
    crops = draws[0].copy()
    for index, content in enumerate(contents):
        if content is not None:
            mine = [draw[index] for draw in draws]
            crops[index] = choose_crop(content, mine, int(widths[index]), size)
    return crops


def _valid_pixels(
    content: Content, crop: npt.NDArray[np.int64], width: int, size: tuple[int, int]
) -> int:
    """The valid pixels of a crop, to the precision of a block."""
    first, down, right = (int(each) for each in crop)
    last = first + (size[0] - 1) * down + (size[1] - 1) * right
    rows, columns = zip(divmod(first, width), divmod(last, width), strict=True)
    top, bottom = (round(row / _BLOCK) for row in (min(rows), max(rows) + 1))
    begin, end = (round(column / _BLOCK) for column in (min(columns), max(columns) + 1))
    return int(
        content[bottom, end] - content[top, end] - content[bottom, begin] + content[top, begin]
    )
