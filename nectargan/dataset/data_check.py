"""Reads every image of a data set once, before the training starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
from nectargan.errors import DataError


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
    """

    split: str
    layout: str
    pairs: tuple[Pair, ...]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

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
) -> dict[str, SplitSummary]:
    """Reads every image of the splits once and reports all problems in one error.

    Args:
        root: The folder with the splits.
        required: Splits that must exist.
        optional: Splits that are checked if they exist.

    Returns:
        A summary of each split by name. It contains the pairs for `PairedDataset`.

    Raises:
        DataError: If there are problems: missing folders or partners, duplicate names, unreadable,
            truncated or too large files, odd widths, or pairs of different sizes. The message lists
            one problem per line.
    """
    root = Path(root)
    with readable_or_data_error():
        raise_if(root_problems(root))
        splits = [*required, *(name for name in optional if find_layouts(root, name))]
        found = {split: scan_split(root, split) for split in splits}
    probes = _probe_all([pair for scan in found.values() for pair in scan.pairs])
    problems = [problem for scan in found.values() for problem in scan.problems]
    problems += [probe for probe in probes.values() if isinstance(probe, str)]
    sizes = {
        split: [_pair_size(pair, probes, problems) for pair in scan.pairs]
        for split, scan in found.items()
    }
    raise_if(problems)
    return {split: _summary(split, scan, sizes[split], probes) for split, scan in found.items()}


def _probe_all(pairs: Sequence[Pair]) -> dict[Path, Probe | str]:
    """Reads each file completely; returns the result, or an error message, by path."""
    halves = {path: pair.b is None for pair in pairs for path in (pair.a, pair.b) if path}

    def look(path: Path) -> Probe | str:
        try:
            return probe(path, halves[path])
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(halves, pool.map(look, halves), strict=True))


def _pair_size(
    pair: Pair, probes: Mapping[Path, Probe | str], problems: list[str]
) -> tuple[int, int]:
    """Height and width of one image of a pair; problems are added to `problems`."""
    a = probes[pair.a]
    b = a if pair.b is None else probes[pair.b]
    if isinstance(a, str) or isinstance(b, str):
        return 0, 0  # reported already
    if pair.b is not None:
        if a[:2] != b[:2]:
            sizes = f"{a.height} x {a.width}, but {pair.b} is {b.height} x {b.width}"
            problems.append(f"{pair.a}: {sizes} (height x width)")
        return a.height, a.width
    if a.width % 2:
        problems.append(f"{pair.a}: the width {a.width} is odd; it must be two equal halves")
    return a.height, a.width // 2


def _summary(
    split: str,
    scan: Scan,
    sizes: Sequence[tuple[int, int]],
    probes: Mapping[Path, Probe | str],
) -> SplitSummary:
    heights, widths = zip(*sizes, strict=True)
    smallest, largest = (min(heights), min(widths)), (max(heights), max(widths))
    warnings, hints = list(scan.warnings), list[str]()
    for side, where in enumerate(scan.sides):
        pictures = [_picture(pair, side, probes) for pair in scan.pairs]
        warnings += warnings_about(where, pictures)
        hints += hints_about(where, pictures)
    pairs = tuple(scan.pairs)
    return SplitSummary(split, scan.layout, pairs, smallest, largest, tuple(warnings), tuple(hints))


def _picture(pair: Pair, side: int, probes: Mapping[Path, Probe | str]) -> PairSide:
    path = pair.b if side and pair.b is not None else pair.a
    found = probes[path]
    assert isinstance(found, Probe)  # noqa: S101 - unreadable files have been reported before
    return PairSide(path, found, found.parts[side if pair.b is None else 0])
