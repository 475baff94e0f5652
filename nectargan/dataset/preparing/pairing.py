"""Makes a data set of pairs from two folders of images."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from nectargan.dataset.decoding import in_mode, read_image
from nectargan.dataset.listing import SUFFIX_LIST, list_folder
from nectargan.dataset.manifest import COLUMNS, MANIFEST
from nectargan.dataset.pairs import Pair
from nectargan.dataset.preparing.placing import new_folder
from nectargan.dataset.preparing.tiling import beside
from nectargan.dataset.raw_pairs import is_read_in_8_bits
from nectargan.errors import DataError
from nectargan.images.pillow_files import MODES
from nectargan.images.reading import raw_kind
from nectargan.sources import Source
from nectargan.wording import counted

_MOST_NAMED = 5


def match_names(a: Path, b: Path, pattern: str | None = None) -> list[Pair]:
    """Pairs the images of two folders by name.

    Args:
        a: Folder of the images A.
        b: Folder of the images B.
        pattern: A regular expression that is searched for in each name without suffix; the groups
            that it captures must be equal in both names. ``None`` compares the whole names.

    Returns:
        The pairs in natural order of A, each with the name of its image A.

    Raises:
        DataError: If an image has no partner or several, or ``pattern`` is not valid.
    """
    key = _key(pattern)
    sides = [_by_key(folder, key) for folder in (a, b)]
    problems = [
        f"{path}: no partner in {other}"
        for mine, theirs, other in ((sides[0], sides[1], b), (sides[1], sides[0], a))
        for name, path in mine.items()
        if name not in theirs
    ]
    _raise_if(problems)
    return [Pair(path.stem, path, sides[1][name]) for name, path in sides[0].items()]


def match_order(a: Path, b: Path) -> list[Pair]:
    """Pairs the images of two folders by their natural order (img2 before img10).

    Raises:
        DataError: If the numbers of images differ.
    """
    left, right = _images(a), _images(b)
    if len(left) != len(right):
        raise DataError(
            f"{a} has {counted(len(left), 'image')} and {b} has {counted(len(right), 'image')}; to "
            "pair by order, the numbers must be equal."
        )
    return [Pair(x.stem, x, y) for x, y in zip(left, right, strict=True)]


def write_manifest(pairs: Sequence[Pair], split: str, out: Path) -> None:
    """Creates the folder ``out`` with a manifest ``pairs.csv`` of absolute paths.

    Raises:
        DataError: If ``out`` cannot be written.
    """
    with (
        new_folder(out) as folder,
        (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for pair in pairs:
            files = (Path(str(source)).resolve() for source in (pair.a, pair.b or pair.a))
            writer.writerow([*files, split])


def write_pictures(
    pairs: Sequence[Pair],
    split: str,
    out: Path,
    size: tuple[int, int] | None = None,
    grey: bool = False,
    side_by_side: bool = False,
) -> None:
    """Creates the data set ``out`` from new PNG files with 8 bits per channel.

    Args:
        pairs: Pairs of two files.
        split: "train", "val" or "test".
        out: The new folder.
        size: Height and width of each image in pixels; ``None`` keeps the size. The filter is
            bicubic.
        grey: Whether to convert the images to one channel.
        side_by_side: Whether to write A and B of a pair into one file, A on the left.

    Raises:
        DataError: If an image cannot be read or has more than 8 bits per channel, the two images
            of a pair differ in size, or ``out`` cannot be written.
    """

    def write(pair: Pair) -> None:
        assert pair.b is not None  # noqa: S101 - pairs of two files
        images = [_read(path, size, grey) for path in (pair.a, pair.b)]
        if images[0].size != images[1].size:
            sizes = " and ".join(f"{image.height} x {image.width}" for image in images)
            raise DataError(f"{pair.a}, {pair.b}: {sizes} pixels; --resize makes them equal.")
        if side_by_side:
            beside(*_in_one_mode(images)).save(folder / split / f"{pair.name}.png")
        else:
            for image, side in zip(images, "AB", strict=True):
                image.save(folder / f"{split}{side}" / f"{pair.name}.png")

    with new_folder(out) as folder, ThreadPoolExecutor() as pool:
        for name in [split] if side_by_side else [f"{split}A", f"{split}B"]:
            (folder / name).mkdir()
        for _ in pool.map(write, pairs):
            pass


def _key(pattern: str | None) -> Callable[[Path], object]:
    if pattern is None:
        return lambda path: unicodedata.normalize("NFC", path.stem)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{pattern!r} is not a regular expression: {error}.") from None
    if not expression.groups:
        raise DataError(f"{pattern!r} has no group: put what both names share in parentheses.")

    def key(path: Path) -> object:
        found = expression.search(path.stem)
        if not found:
            raise DataError(f"{path}: {pattern!r} does not match '{path.stem}'.")
        return found.groups()

    return key


def _by_key(folder: Path, key: Callable[[Path], object]) -> dict[object, Path]:
    named: dict[object, Path] = {}
    problems = []
    for path in _images(folder):
        first = named.setdefault(key(path), path)
        if first is not path:
            problems.append(f"{path}: has the same key as {first.name}; a key must be unique")
    _raise_if(problems)
    return named


def _images(folder: Path) -> Sequence[Path]:
    try:
        images = list_folder(folder).images
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    if not images:
        if not folder.is_dir():
            what = "it is not a folder" if folder.exists() else "no such folder"
            raise DataError(f"{folder}: {what}.")
        raise DataError(f"{folder}: contains no images; supported are {SUFFIX_LIST}.")
    return images


def _raise_if(problems: Sequence[str]) -> None:
    if problems:
        named = "; ".join(problems[:_MOST_NAMED])
        more = len(problems) - _MOST_NAMED
        raise DataError(f"{named}{f'; and {more} more' if more > 0 else ''}.")


def _read(path: Source, size: tuple[int, int] | None, grey: bool) -> Image.Image:
    kind = raw_kind(path)
    if not kind.is_plain and not is_read_in_8_bits(path, kind):
        raise DataError(
            f"{path}: it has {counted(kind.channels, 'channel')} of {kind.dtype}; --side-by-side, "
            "--resize and --grey write PNG files of 8 bits with at most 4 channels."
        )
    image = read_image(path)
    if grey:
        image = in_mode(image, "L")
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    return image


def _in_one_mode(images: Sequence[Image.Image]) -> list[Image.Image]:
    """The images in the smallest mode that has the channels of all."""
    mode = max((image.mode for image in images), key=list(MODES.values()).index)
    return [in_mode(image, mode) for image in images]
