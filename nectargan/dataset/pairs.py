"""Finds the pairs of a data set, and checks every image before the training starts.

The root folder contains the splits `train`, `val` and `test` in one of three layouts:

    train/1.png                    one image, A on the left half and B on the right
    trainA/1.png   trainB/1.jpg    two folders, matched by the name without its suffix
    train/A/1.png  train/B/1.jpg   the same, nested
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nectargan.dataset.decoding import Probe, probe
from nectargan.dataset.findings import PairSide, hints_about, warnings_about
from nectargan.dataset.listing import SUFFIX_LIST, Listing, list_folder, passed_over
from nectargan.errors import DataError
from nectargan.shell import stands_for_nothing
from nectargan.wording import counted

SPLITS = ("train", "val", "test")
# Other common names of the splits.
_OTHER_NAMES = {
    "train": ("training",),
    "val": ("valid", "validation", "dev", "eval"),
    "test": ("testing", "tests"),
}

_MOST_LINES = 20


@dataclass(frozen=True)
class Pair:
    """Two images of one scene.

    Args:
        name: The file name without its suffix, unique in its split.
        a: The file of image A, or of one image with A as the left half and B as the right half.
        b: The file of image B; None for a side-by-side image.
    """

    name: str
    a: Path
    b: Path | None = None


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


def find_pairs(root: str | Path, split: str) -> list[Pair]:
    """Finds the pairs of a split in natural order (img2 before img10), without opening the images.

    Hidden files and files without the suffix of an image are ignored.

    Raises:
        DataError: If the split does not exist or has no images, or an image has no partner or
            shares its name with another one. The message lists every problem.
    """
    with _readable_or_data_error():
        _raise_if(_root_problems(Path(root)))
        found = _scan(Path(root), split)
    _raise_if(found.problems)
    return found.pairs


def list_splits(root: str | Path) -> list[str]:
    """The names in `SPLITS` for which `root` has a folder in any layout."""
    with _readable_or_data_error():
        return [split for split in SPLITS if _layouts(Path(root), split)]


def unread_splits(root: str | Path) -> list[str]:
    """A sentence about each folder in `root` with a name similar to a split, which is not read."""
    found = []
    with _readable_or_data_error():
        for folder in sorted(path for path in Path(root).iterdir() if path.is_dir()):
            for split, others in _OTHER_NAMES.items():
                names = "|".join((split, *others))
                read = [folder.with_name(split + side) for side in ("", "A", "B")]
                if re.fullmatch(rf"({names})[-_ ]?[ab]?", folder.name, re.IGNORECASE) and not any(
                    # On a case-insensitive file system, it may be the folder of the split.
                    path.exists() and path.samefile(folder)
                    for path in read
                ):
                    found.append(f"{folder} is not read: '{split}' is read from {_wanted(split)}.")
    return found


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
    with _readable_or_data_error():
        _raise_if(_root_problems(root))
        splits = [*required, *(name for name in optional if _layouts(root, name))]
        found = {split: _scan(root, split) for split in splits}
    probes = _probe_all([pair for scan in found.values() for pair in scan.pairs])
    problems = [problem for scan in found.values() for problem in scan.problems]
    problems += [probe for probe in probes.values() if isinstance(probe, str)]
    sizes = {
        split: [_pair_size(pair, probes, problems) for pair in scan.pairs]
        for split, scan in found.items()
    }
    _raise_if(problems)
    return {split: _summary(split, scan, sizes[split], probes) for split, scan in found.items()}


@dataclass(frozen=True)
class _Scan:
    layout: str
    pairs: list[Pair]
    problems: list[str]
    sides: tuple[str, str] = ("", "")
    warnings: tuple[str, ...] = ()


@contextmanager
def _readable_or_data_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: cannot be read ({error.strerror})"
        raise DataError(f"The data set cannot be used: {what}") from None


def _root_problems(root: Path) -> list[str]:
    if root.is_dir():
        return []
    if root.exists():
        return [f"{root}: not a directory"]
    nothing = stands_for_nothing(str(root))
    return [f"{root}: no such directory" + (f"; {nothing}" if nothing else "")]


def _raise_if(problems: Sequence[str]) -> None:
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(f"The data set cannot be used: {problems[0]}")
    lines = [f"The data set cannot be used, {len(problems)} problems:", *problems[:_MOST_LINES]]
    if len(problems) > _MOST_LINES:
        lines.append(f"and {len(problems) - _MOST_LINES} more")
    raise DataError("\n  ".join(lines))


def _layouts(root: Path, split: str) -> dict[str, tuple[Path, ...]]:
    """The layouts of a split that exist: their one or two folders, by the name of the layout."""
    whole = root / split
    twos = {
        f"{split}A + {split}B": (root / f"{split}A", root / f"{split}B"),
        f"{split}/A + {split}/B": (whole / "A", whole / "B"),
    }
    layouts: dict[str, tuple[Path, ...]] = {
        name: folders for name, folders in twos.items() if any(f.is_dir() for f in folders)
    }
    if list_folder(whole).images or (whole.is_dir() and not layouts):
        layouts[f"{split} (side by side)"] = (whole,)
    return layouts


def _wanted(split: str) -> str:
    return f"{split}/, {split}A/ and {split}B/, or {split}/A/ and {split}/B/"


def _scan(root: Path, split: str) -> _Scan:
    layouts = _layouts(root, split)
    if not layouts:
        missing = f"the split '{split}' is missing; it must be in {_wanted(split)}"
        found = list_folder(root)
        images = f"{counted(len(found.images), 'image')}, " if found.images else ""
        return _Scan("", [], [f"{root}: {missing}; found there: {images}{found}"])
    if len(layouts) > 1:
        names = ", ".join(layouts)
        return _Scan("", [], [f"{root}: '{split}' exists in several layouts ({names}); keep one"])
    ((layout, folders),) = layouts.items()
    problems: list[str] = []
    listings = [list_folder(folder) for folder in folders]
    named = [
        _by_name(folder, listing, split, problems)
        for folder, listing in zip(folders, listings, strict=True)
    ]
    warnings = tuple(
        warning for each in zip(folders, listings, strict=True) if (warning := passed_over(*each))
    )
    if len(folders) == 1:
        pairs = [Pair(name, path) for name, path in named[0].items()]
        sides = (f"{split}, left halves (A)", f"{split}, right halves (B)")
        return _Scan(layout, pairs, problems, sides, warnings)
    a, b = named
    if a and b:  # an empty folder is one problem, not one per image in the other folder
        problems += _without_partner(a, b, folders[1], listings[1])
        problems += _without_partner(b, a, folders[0], listings[0])
    pairs = [Pair(name, a[name], b[name]) for name in a if name in b]
    first, second = layout.split(" + ")
    return _Scan(layout, pairs, problems, (first, second), warnings)


def _by_name(folder: Path, listing: Listing, split: str, problems: list[str]) -> dict[str, Path]:
    """The images of a folder by name without suffix; problems are added to `problems`.

    Names are compared in Unicode's composed form (NFC), because macOS uses the decomposed form.
    """
    named: dict[str, Path] = {}
    for path in listing.images:
        first = named.setdefault(unicodedata.normalize("NFC", path.stem), path)
        if first is not path:
            form = "" if first.stem == path.stem else " except for the Unicode form of a letter"
            problems.append(f"{path}: same name as {first.name}{form}; names must be unique")
    if not folder.is_dir():
        problems.append(f"{folder}: folder is missing")
    elif not named:
        problems.append(
            f"{folder}: no images; found there: {listing}. Supported are {SUFFIX_LIST}, for "
            f"'{split}' in {_wanted(split)}"
        )
    return named


def _without_partner(
    mine: Mapping[str, Path], others: Mapping[str, Path], folder: Path, listing: Listing
) -> list[str]:
    """A problem for each image of one folder that has no partner in the other folder."""
    by_letters = {name.casefold(): path for name, path in others.items()}
    unread = {unicodedata.normalize("NFC", path.stem): path for path in listing.others}
    problems = []
    for name, path in mine.items():
        if name in others:
            continue
        hint = ""
        if name.casefold() in by_letters:
            hint = f"; '{by_letters[name.casefold()].name}' differs only in upper and lower case"
        elif name in unread:
            hint = f"; '{unread[name].name}' has an unsupported suffix ({SUFFIX_LIST})"
        problems.append(f"{path}: no partner with this name in {folder}{hint}")
    return problems


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
    scan: _Scan,
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
