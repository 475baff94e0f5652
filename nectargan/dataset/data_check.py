"""Reads every image of a data set once, before the training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from nectargan.dataset.decoding import PixelStatistics, Probe, probe
from nectargan.dataset.findings import SideFindings
from nectargan.dataset.pairs import (
    Pair,
    Scan,
    find_layouts,
    raise_if,
    readable_or_data_error,
    root_problems,
    scan_split,
)
from nectargan.dataset.raw_pairs import Selection, is_read_in_8_bits, probe_raw, storage_dtype
from nectargan.dataset.streaming import Joined, in_threads
from nectargan.errors import DataError
from nectargan.images.reading import raw_kind
from nectargan.sources import Source

_Selected: TypeAlias = tuple[str | int, ...] | None
# A file, and the channels that are read of it: of the whole, or of each half.
Look: TypeAlias = tuple[Source, tuple[_Selected, ...]]
OnPixels: TypeAlias = Callable[[Image.Image, int, object], object]
# What was found in the files of A and of B, which can be one file, or error messages.
Probes: TypeAlias = tuple[Probe | str, Probe | str]
Examine: TypeAlias = Callable[[Sequence[Pair]], Iterable[Probes]]


@dataclass(frozen=True)
class SplitSummary:
    """Summary of a split without problems; `str()` gives one line of text.

    Args:
        split: Name of the split, such as "train".
        layout: The folders of its images, such as "trainA + trainB".
        pairs: The pairs, in natural order.
        smallest: Smallest height and smallest width of one image of a pair, in pixels.
        largest: Largest height and largest width of one image of a pair, in pixels.
        warnings: Sentences about properties that are probably not intended.
        hints: Sentences that suggest better options.
        sizes: Height and width of each pair in pixels, ``(N, 2)``.
        is_plain: Whether Pillow reads all of every file in 8 bits.
        dtypes: The dtype that holds the values of A exactly, and that of B.
        channels: The first file with each number of channels, of A and of B; the number is 0 for
            plain 8-bit images, which have at most 4.
        invalid: The first file with pixels that are nodata, NaN or infinite; empty if there are
            none.
    """

    split: str
    layout: str
    pairs: Sequence[Pair]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    sizes: npt.NDArray[np.int32] = field(
        default_factory=lambda: np.zeros((0, 2), np.int32), compare=False
    )
    is_plain: bool = True
    dtypes: tuple[np.dtype[Any], np.dtype[Any]] = (np.dtype(np.uint8), np.dtype(np.uint8))
    invalid: str = ""
    channels: tuple[Mapping[int, str], ...] = ({}, {})

    def __str__(self) -> str:
        sizes = [f"{h} x {w}" for h, w in dict.fromkeys((self.smallest, self.largest))]
        plural = "" if len(self.pairs) == 1 else "s"
        return (
            f"{self.split}: {len(self.pairs)} pair{plural} in {self.layout}, {' to '.join(sizes)}"
        )


def check_data(
    root: str | Path,
    required: Sequence[str] = ("train",),
    optional: Sequence[str] = ("val",),
    selections: Sequence[Selection] = (None, None),
    have_ranges: Sequence[bool] = (False, False),
    counts: Sequence[int | None] = (None, None),
    most: int | None = None,
    examine: Examine | None = None,
) -> dict[str, SplitSummary]:
    """Reads every image of the splits once and reports all problems in one error.

    Args:
        root: The folder with the splits, or patterns of shards.
        required: Splits that must exist.
        optional: Splits that are checked if they exist.
        selections: The channels to read of A and of B, see `read_raw`; ``None`` for all.
        have_ranges: Whether the config says the range of the values of A, and of B.
        counts: How many channels a config reads of A, and of B; ``None`` without one.
        most: Only the first so many pairs of each split are read; ``None`` for all.
        examine: Reads the files in place of this function, to do more with them.

    Returns:
        A summary of each split by name. It contains the pairs for `PairedDataset`.

    Raises:
        DataError: If there are problems: missing folders or partners, duplicate names, unreadable,
            truncated or too large files, odd widths, or pairs of different sizes. The message lists
            one problem per line.
    """
    with readable_or_data_error():
        raise_if(root_problems(root))
        splits = [*required, *(name for name in optional if find_layouts(root, name))]
        scans = {split: scan_split(root, split) for split in splits}
    found = {name: replace(scan, pairs=scan.pairs[:most]) for name, scan in scans.items()}
    problems = [problem for scan in found.values() for problem in scan.problems]
    unreadable, unequal = dict[str, None](), list[str]()
    a, b = (None if each is None else tuple(each) for each in selections)
    examine = examine or partial(in_threads, partial(probed_pair, selections=(a, b)))
    probes = iter(examine(Joined(scan.pairs for scan in found.values())))
    sizes = {name: np.zeros((len(scan.pairs), 2), np.int32) for name, scan in found.items()}
    sides = {name: [SideFindings(side) for side in scan.sides] for name, scan in found.items()}
    for split, scan in found.items():
        for i, (pair, both) in enumerate(zip(scan.pairs, probes, strict=False)):
            if (size := _pair_size(pair, both, unreadable, unequal)) is not None:
                sizes[split][i] = size
                for side, (where, file) in enumerate(zip(sides[split], both, strict=True)):
                    where.add(*_image(pair, side, file))
    next(probes, None)  # it ends when it is asked for more
    raise_if([*problems, *unreadable, *unequal])
    raise_if([text for each in sides.values() for text in _mixed_kinds(each)])
    return {
        split: _summary(split, scan, sizes[split], sides[split], have_ranges, counts)
        for split, scan in found.items()
    }


def probed_pair(pair: Pair, selections: tuple[_Selected, ...]) -> Probes:
    """Reads the files of a pair completely."""
    found = [probed(look_at(pair, side, selections)) for side in range(1 + (pair.b is not None))]
    return found[0], found[-1]


def look_at(pair: Pair, side: int, selections: tuple[_Selected, ...]) -> Look:
    """The file of a side of a pair, and the channels that are read of it."""
    if pair.b is None:
        return pair.a, selections
    return (pair.a, pair.b)[side], selections[side : side + 1]


def probed(look: Look, on_pixels: OnPixels | None = None) -> Probe | str:
    """Reads a file completely; returns the result, or an error message.

    Args:
        look: The file and the channels.
        on_pixels: See `decoding.probe`; not called for kinds that Pillow does not read in 8 bits.
    """
    path, selections = look
    try:
        if not any(selections):
            kind = raw_kind(path)
            # Of a TIFF with another channel that is not alpha, Pillow reads the others.
            if kind.is_plain or is_read_in_8_bits(path, kind):
                return probe(path, len(selections) == 2, on_pixels)
        return probe_raw(path, selections)
    except DataError as error:
        return str(error)


def _pair_size(
    pair: Pair, probes: Probes, unreadable: dict[str, None], unequal: list[str]
) -> tuple[int, int] | None:
    """Height and width of one image of a pair; ``None`` if a file cannot be read.

    Problems are added to `unreadable` and to `unequal`.
    """
    unreadable |= dict.fromkeys(each for each in probes if isinstance(each, str))
    a, b = probes
    if isinstance(a, str) or isinstance(b, str):
        return None
    if pair.b is not None:
        if a[:2] != b[:2]:
            sizes = f"{a.height} x {a.width}, but {pair.b} is {b.height} x {b.width}"
            unequal.append(f"{pair.a}: {sizes} (height x width)")
        return a.height, a.width
    if a.width % 2:
        unequal.append(f"{pair.a}: the width {a.width} is odd; it must be two equal halves")
    return None if a.width < 2 else (a.height, a.width // 2)


def _image(pair: Pair, side: int, found: Probe | str) -> tuple[Source, Probe, PixelStatistics]:
    """The file of one side, what was found in it, and the statistics of the image."""
    assert isinstance(found, Probe)  # noqa: S101 - see `_pair_size`
    if pair.b is None:
        return pair.a, found, found.parts[side]
    return (pair.a, pair.b)[side], found, found.parts[0]


def _mixed_kinds(sides: Iterable[SideFindings]) -> Iterator[str]:
    """A problem for each side with both integers and floats, which have different ranges."""
    for side in sides:
        if len(side.examples) == 2:
            (path, floats), (other, integers) = side.examples[True], side.examples[False]
            yield (
                f"{path}: its values are {floats}, but those of {other} are {integers}; the files "
                "of one side must all have integers, or all floats"
            )


def _summary(
    split: str,
    scan: Scan,
    sizes: npt.NDArray[np.int32],
    sides: Sequence[SideFindings],
    have_ranges: Sequence[bool],
    counts: Sequence[int | None],
) -> SplitSummary:
    (low, left), (high, right) = sizes.min(axis=0), sizes.max(axis=0)
    a, b = (side.dtypes for side in sides)
    warnings = [
        side.warnings(known, count)
        for side, known, count in zip(sides, have_ranges, counts, strict=True)
    ]
    return SplitSummary(
        split,
        scan.layout,
        scan.pairs,
        (int(low), int(left)),
        (int(high), int(right)),
        (*scan.warnings, *(text for each in warnings for text in each)),
        tuple(text for side in sides for text in side.hints()),
        sizes,
        a == b == {None},
        dtypes_of(a, b),
        next((side.invalid for side in sides if side.invalid), ""),
        tuple(side.channels for side in sides),
    )


def dtypes_of(*sides: Iterable[np.dtype[Any] | None]) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The dtype that holds all values of A, and that of B; ``None`` stands for plain 8 bits."""
    a, b = (storage_dtype(np.dtype(np.uint8) if d is None else d for d in side) for side in sides)
    return a, b
