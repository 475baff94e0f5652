"""Reads every image of a data set once, before the training starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from nectargan.dataset.decoding import Probe, probe
from nectargan.dataset.findings import PairSide, hints_about, warnings_about
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
from nectargan.errors import DataError
from nectargan.images.reading import raw_kind
from nectargan.sources import Source

_Selected: TypeAlias = tuple[str | int, ...] | None
# A file, and the channels that are read of it: of the whole, or of each half.
Look: TypeAlias = tuple[Source, tuple[_Selected, ...]]
OnPixels: TypeAlias = Callable[[Image.Image, int, object], object]
# For each pair, what was found in the files of A and of B, or an error message.
Examine: TypeAlias = Callable[[Sequence[Pair]], Iterable[tuple[Probe | str, Probe | str]]]


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
        sizes: (height, width) of each pair, in pixels.
        is_plain: Whether Pillow reads all of every file in 8 bits.
        dtypes: The dtype that holds the values of A exactly, and that of B.
        channels: The first file with each number of channels, of A and of B; the number is 0 for
            plain 8-bit images, which have at most 4.
        invalid: The first file with pixels that are nodata, NaN or infinite; empty if there are
            none.
    """

    split: str
    layout: str
    pairs: tuple[Pair, ...]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
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
    probes = _Probes([pair for scan in found.values() for pair in scan.pairs], selections, examine)
    problems = [problem for scan in found.values() for problem in scan.problems]
    problems += probes.problems
    known: dict[tuple[int, int], tuple[int, int]] = {}  # one tuple for all pairs of a size
    sizes = {
        split: [
            known.setdefault(size, size)
            for size in (_pair_size(pair, probes, problems) for pair in scan.pairs)
        ]
        for split, scan in found.items()
    }
    raise_if(problems)
    raise_if([problem for scan in found.values() for problem in _mixed_kinds(scan, probes)])
    return {
        split: _summary(split, scan, sizes[split], probes, have_ranges)
        for split, scan in found.items()
    }


class _Probes:
    """What was found in each file, or an error message, for the channels that are read of it."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        selections: Sequence[Selection],
        examine: Examine | None = None,
    ) -> None:
        a, b = (None if each is None else tuple(each) for each in selections)
        self._selections = (a, b)
        self._found: dict[Look, Probe | str] = {}
        if examine is not None:
            for pair, probes in zip(pairs, examine(pairs), strict=True):
                for side in (0, 1):
                    self._found[self._look(pair, side)] = probes[side]
        else:
            looks = dict.fromkeys(self._look(pair, side) for pair in pairs for side in (0, 1))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self._found |= zip(looks, pool.map(probed, looks), strict=True)
        self.problems = tuple(
            dict.fromkeys(each for each in self._found.values() if isinstance(each, str))
        )

    def __call__(self, pair: Pair, side: int) -> Probe | None:
        """What was found in the file of A (side 0) or of B; ``None`` if it cannot be used."""
        found = self._found[self._look(pair, side)]
        return None if isinstance(found, str) else found

    def _look(self, pair: Pair, side: int) -> Look:
        return look_at(pair, side, self._selections)


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


def _pair_size(pair: Pair, probes: _Probes, problems: list[str]) -> tuple[int, int]:
    """Height and width of one image of a pair; problems are added to `problems`."""
    a, b = probes(pair, 0), probes(pair, 1)
    if a is None or b is None:
        return 0, 0  # reported already
    if pair.b is not None:
        if a[:2] != b[:2]:
            sizes = f"{a.height} x {a.width}, but {pair.b} is {b.height} x {b.width}"
            problems.append(f"{pair.a}: {sizes} (height x width)")
        return a.height, a.width
    if a.width % 2:
        problems.append(f"{pair.a}: the width {a.width} is odd; it must be two equal halves")
    return a.height, a.width // 2


def _mixed_kinds(scan: Scan, probes: _Probes) -> Iterator[str]:
    """A problem for each side with both integers and floats, which have different ranges."""
    for side in (0, 1):
        paths: dict[bool, tuple[Source, str]] = {}
        for pair in scan.pairs:
            path, probed, _ = _picture(pair, side, probes)
            dtype = probed.dtype or np.dtype(np.uint8)
            paths.setdefault(dtype.kind == "f", (path, dtype.name))
        if len(paths) == 2:
            (path, floats), (other, integers) = paths[True], paths[False]
            yield (
                f"{path}: its values are {floats}, but those of {other} are {integers}; the files "
                "of one side must all have integers, or all floats"
            )


def _summary(
    split: str,
    scan: Scan,
    sizes: Sequence[tuple[int, int]],
    probes: _Probes,
    have_ranges: Sequence[bool],
) -> SplitSummary:
    heights, widths = zip(*sizes, strict=True)
    smallest, largest = (min(heights), min(widths)), (max(heights), max(widths))
    warnings, hints = list(scan.warnings), list[str]()
    found, invalid = list[set[np.dtype[Any] | None]](), ""
    channels = list[dict[int, str]]()
    for side, where in enumerate(scan.sides):
        pictures = [_picture(pair, side, probes) for pair in scan.pairs]
        warnings += warnings_about(where, pictures, have_ranges[side])
        hints += hints_about(where, pictures)
        channels.append({p.part.channels: str(p.path) for p in reversed(pictures)})
        found.append({picture.file.dtype for picture in pictures})
        invalid = invalid or next((str(p.path) for p in pictures if p.part.invalid), "")
    return SplitSummary(
        split,
        scan.layout,
        tuple(scan.pairs),
        smallest,
        largest,
        tuple(warnings),
        tuple(hints),
        tuple(sizes),
        found == [{None}, {None}],
        dtypes_of(found[0], found[1]),
        invalid,
        tuple(channels),
    )


def dtypes_of(*sides: Iterable[np.dtype[Any] | None]) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The dtype that holds all values of A, and that of B; ``None`` stands for plain 8 bits."""
    a, b = (storage_dtype(np.dtype(np.uint8) if d is None else d for d in side) for side in sides)
    return a, b


def _picture(pair: Pair, side: int, probes: _Probes) -> PairSide:
    path, found = pair.b if side and pair.b is not None else pair.a, probes(pair, side)
    assert found is not None  # noqa: S101 - unreadable files have been reported before
    return PairSide(path, found, found.parts[side if pair.b is None else 0])
