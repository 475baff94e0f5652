"""Finds the pairs of images in the folders of a data set, without opening the images.

The root folder contains the splits `train`, `val` and `test` in one of four layouts:

    train/1.png                    one image, A on the left half and B on the right
    trainA/1.png   trainB/1.jpg    two folders, matched by the name without its suffix
    train/A/1.png  train/B/1.jpg   the same, nested
    pairs.csv                      a list of files, see `manifest`
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nectargan.dataset.listing import SUFFIX_LIST, Listing, list_folder, passed_over
from nectargan.dataset.manifest import MANIFEST, read_manifest
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


def find_pairs(root: str | Path, split: str) -> list[Pair]:
    """Finds the pairs of a split in natural order (img2 before img10), without opening the images.

    Hidden files and files without the suffix of an image are ignored.

    Raises:
        DataError: If the split does not exist or has no images, or an image has no partner or
            shares its name with another one. The message lists every problem.
    """
    with readable_or_data_error():
        raise_if(root_problems(Path(root)))
        found = scan_split(Path(root), split)
    raise_if(found.problems)
    return found.pairs


def list_splits(root: str | Path) -> list[str]:
    """The names in `SPLITS` for which `root` has a folder in any layout."""
    with readable_or_data_error():
        return [split for split in SPLITS if find_layouts(Path(root), split)]


def unread_splits(root: str | Path) -> list[str]:
    """A sentence about each folder in `root` with a name similar to a split, which is not read."""
    found = []
    with readable_or_data_error():
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


@dataclass(frozen=True)
class Scan:
    """What was found in the folders of a split, with everything that is wrong with them."""

    layout: str
    pairs: list[Pair]
    problems: list[str]
    sides: tuple[str, str] = ("", "")
    warnings: tuple[str, ...] = ()


@contextmanager
def readable_or_data_error() -> Iterator[None]:
    """Turns an OSError into a `DataError`."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: cannot be read ({error.strerror})"
        raise DataError(f"The data set cannot be used: {what}") from None


def root_problems(root: Path) -> list[str]:
    """Says why the root folder cannot be used; empty if it can."""
    if root.is_dir():
        return []
    if root.exists():
        return [f"{root}: not a directory"]
    nothing = stands_for_nothing(str(root))
    return [f"{root}: no such directory" + (f"; {nothing}" if nothing else "")]


def raise_if(problems: Sequence[str]) -> None:
    """Raises a `DataError` that lists the problems, if there are any."""
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(f"The data set cannot be used: {problems[0]}")
    lines = [f"The data set cannot be used, {len(problems)} problems:", *problems[:_MOST_LINES]]
    if len(problems) > _MOST_LINES:
        lines.append(f"and {len(problems) - _MOST_LINES} more")
    raise DataError("\n  ".join(lines))


def find_layouts(root: Path, split: str) -> dict[str, tuple[Path, ...]]:
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
    manifest = root / MANIFEST
    if manifest.exists() and read_manifest(manifest, split):
        layouts[MANIFEST] = (manifest,)
    return layouts


def _wanted(split: str) -> str:
    return f"{split}/, {split}A/ and {split}B/, {split}/A/ and {split}/B/, or {MANIFEST}"


def scan_split(root: Path, split: str) -> Scan:
    """Looks for the pairs of a split; raises OSError if a folder cannot be read."""
    layouts = find_layouts(root, split)
    if not layouts:
        missing = f"the split '{split}' is missing; it must be in {_wanted(split)}"
        found = list_folder(root)
        images = f"{counted(len(found.images), 'image')}, " if found.images else ""
        return Scan("", [], [f"{root}: {missing}; found there: {images}{found}"])
    if len(layouts) > 1:
        names = ", ".join(layouts)
        return Scan("", [], [f"{root}: '{split}' exists in several layouts ({names}); keep one"])
    ((layout, folders),) = layouts.items()
    if layout == MANIFEST:
        return _scan_manifest(folders[0], split)
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
        return Scan(layout, pairs, problems, sides, warnings)
    a, b = named
    if a and b:  # an empty folder is one problem, not one per image in the other folder
        problems += _without_partner(a, b, folders[1], listings[1])
        problems += _without_partner(b, a, folders[0], listings[0])
    pairs = [Pair(name, a[name], b[name]) for name in a if name in b]
    first, second = layout.split(" + ")
    return Scan(layout, pairs, problems, (first, second), warnings)


def _scan_manifest(path: Path, split: str) -> Scan:
    pairs = [Pair(*row) for row in read_manifest(path, split)]
    problems = [
        f"{path}: '{name}' is the input of {count} pairs of '{split}'; an input must be unique"
        for name, count in Counter(pair.name for pair in pairs).items()
        if count > 1
    ]
    return Scan(MANIFEST, pairs, problems, (f"{split}, inputs (A)", f"{split}, targets (B)"))


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
