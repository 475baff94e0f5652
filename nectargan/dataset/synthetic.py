"""Draws synthetic pairs to try the trainer on: label maps and pictures of facades."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nectargan.dataset.facade_painting import paint_front, paint_labels
from nectargan.dataset.facades import plan_facade
from nectargan.errors import DataError

SMALLEST, LARGEST = 32, 1024
MOST_PAIRS = 1_000_000
# Smaller pictures are drawn at this size and reduced, because details would be below one pixel.
_DRAWN_AT = 256


def draw_pair(
    size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draws a label map and the facade that it describes.

    Args:
        size: Side of both images, in pixels, from 32 to 1024.
        rng: Random generator; the same state gives the same images.

    Returns:
        ``(labels, front)``, each ``(size, size, 3)`` uint8. The labels only have the colors of
        `LABEL_COLOURS`.
    """
    parts, style = plan_facade(rng)
    side = max(size, _DRAWN_AT)
    labels, front = paint_labels(parts, side), paint_front(parts, style, side)
    if side != size:
        shape = (size, size)
        labels = np.asarray(Image.fromarray(labels).resize(shape, Image.Resampling.NEAREST))
        front = np.asarray(Image.fromarray(front).resize(shape, Image.Resampling.BOX))
    return labels, front


def synthesize(
    root: Path, train: int = 400, val: int = 100, test: int = 0, size: int = 256, seed: int = 0
) -> None:
    """Draws a data set of side-by-side images: labels (A) on the left, facades (B) on the right.

    An image only depends on the seed, its split and its number, so a larger data set contains the
    images of a smaller one.

    Args:
        root: The folder to write ``train/0001.png`` and so on to. It must be empty or not exist.
        train: Training pairs, 1 or more.
        val: Validation pairs.
        test: Test pairs.
        size: Side of an image, in pixels, from 32 to 1024.
        seed: Seed of the drawings.

    Raises:
        DataError: If a number is out of range, or ``root`` is not empty or cannot be written. No
            files are left then.
    """
    counts = {"train": train, "val": val, "test": test}
    _check(root, counts, size, seed)
    new_folders = [folder for folder in (root, *root.parents) if not folder.exists()]
    unfinished = root / ".unfinished"
    try:
        unfinished.mkdir(parents=True)
        for number, (split, count) in enumerate(counts.items()):
            if count:
                (unfinished / split).mkdir()
            for index in range(count):
                pair = draw_pair(size, np.random.default_rng((seed, number, index)))
                path = unfinished / split / f"{index + 1:04d}.png"
                Image.fromarray(np.concatenate(pair, axis=1)).save(path)
        for folder in sorted(unfinished.iterdir()):
            folder.rename(root / folder.name)
        unfinished.rmdir()
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in new_folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"'{root}' cannot be written: {error.strerror}.") from None
        raise


def _check(root: Path, counts: dict[str, int], size: int, seed: int) -> None:
    for split, count in counts.items():
        least = 1 if split == "train" else 0
        if not least <= count <= MOST_PAIRS:
            raise DataError(
                f"The number of {split} pairs is {count}; it must be from {least} to {MOST_PAIRS}."
            )
    if not SMALLEST <= size <= LARGEST:
        raise DataError(f"The size is {size} pixels; it must be from {SMALLEST} to {LARGEST}.")
    if not 0 <= seed < 2**32:
        raise DataError(f"The seed is {seed}; it must be from 0 to {2**32 - 1}.")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"'{root}' is not an empty folder; give a folder that is empty or new.")
