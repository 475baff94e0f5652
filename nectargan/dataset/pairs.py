"""Finds the pairs of images in the folders of a data set, without opening the images.

The root folder contains the splits `train`, `val` and `test` in one of these layouts:

    train/1.png                    one image, A on the left half and B on the right
    trainA/1.png   trainB/1.jpg    two folders, matched by the name without its suffix
    train/A/1.png  train/B/1.jpg   the same, nested
    pairs.csv                      a list of files, see `manifest`
    train-000000.tar               shards, see `shard_names`

Instead of a folder, patterns of the names of shards can be given.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nectargan.dataset.listing import SUFFIX_LIST, Listing, list_folder, passed_over
from nectargan.dataset.manifest import MANIFEST, lists_pairs, read_manifest
from nectargan.dataset.shard_names import SPLIT_NAMES, ShardSet, find_shards
from nectargan.dataset.shards import read_samples
from nectargan.dataset.streaming import Packed, text_array
from nectargan.errors import DataError
from nectargan.shell import stands_for_nothing
from nectargan.sources import Source
from nectargan.wording import counted

SPLITS = ("train", "val", "test")
SHARDS = "shards"

_MOST_LINES = 20


@dataclass(frozen=True)
class Pair:
    """Two images of one scene.

    Args:
        name: The file name without its suffix, unique in its split.
        a: Image A, or one image with A as the left half and B as the right half.
        b: Image B; None for a side-by-side image.
    """

    name: str
    a: Source
    b: Source | None = None


def find_pairs(root: str | Path, split: str) -> list[Pair]:
    """Finds the pairs of a split in natural order (img2 before img10), without opening the images.

    Hidden files and files without the suffix of an image are ignored.

    Raises:
        DataError: If the split does not exist or has no images, or an image has no partner or
            shares its name with another one. The message lists every problem.
    """
    with readable_or_data_error():
        raise_if(root_problems(root))
        found = scan_split(root, split)
    raise_if(found.problems)
    return list(found.pairs)


def list_splits(root: str | Path) -> list[str]:
    """The names in `SPLITS` for which `root` has images in any layout."""
    with readable_or_data_error():
        return [split for split in SPLITS if find_layouts(root, split)]


def unread_splits(root: str | Path) -> list[str]:
    """A sentence about each folder in `root` with a name similar to a split, which is not read."""
    found = []
    with readable_or_data_error():
        folders = Path(root).iterdir() if Path(root).is_dir() else ()
        for folder in sorted(path for path in folders if path.is_dir()):
            for split, others in SPLIT_NAMES.items():
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
    pairs: Packed[Pair]
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


def root_problems(root: str | Path) -> list[str]:
    """Says why the root folder cannot be used; empty if it can, or if it is a pattern of shards."""
    if find_shards(root) is not None or Path(root).is_dir():
        return []
    root = Path(root)
    if root.exists():
        hint = f"; give its directory {root.parent}" if root.name == MANIFEST else ""
        return [f"{root}: not a directory{hint}"]
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


def find_layouts(root: str | Path, split: str) -> dict[str, tuple[Path, ...]]:
    """The layouts of a split that exist: their one or two folders, by the name of the layout."""
    shards = find_shards(root)
    is_sharded = shards is not None and split in shards.places
    if shards is not None and not Path(shards.text).is_dir():
        return {SHARDS: ()} if is_sharded else {}
    root = Path(root if shards is None else shards.text)
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
    if manifest.exists() and lists_pairs(manifest, split):
        layouts[MANIFEST] = (manifest,)
    if is_sharded:
        layouts[SHARDS] = ()
    return layouts


def _wanted(split: str) -> str:
    folders = f"{split}/, {split}A/ and {split}B/, {split}/A/ and {split}/B/"
    return f"{folders}, {MANIFEST}, or {split}-*.tar"


def scan_split(root: str | Path, split: str) -> Scan:
    """Looks for the pairs of a split; raises OSError if a folder cannot be read."""
    layouts, shards = find_layouts(root, split), find_shards(root)
    none = Packed(Pair, ())
    if not layouts and shards is not None:
        return Scan("", none, [f"{root}: no shard has '{split}' in its name"])
    root = Path(root)
    if not layouts:
        missing = f"the split '{split}' is missing; it must be in {_wanted(split)}"
        found = list_folder(root)
        there = f"{found}" if found.others or found.folders or not found.images else ""
        if found.images:
            there = ", ".join(filter(None, (counted(len(found.images), "image"), there)))
        return Scan("", none, [f"{root}: {missing}; found there: {there}"])
    if len(layouts) > 1:
        names = ", ".join(layouts)
        return Scan("", none, [f"{root}: '{split}' exists in several layouts ({names}); keep one"])
    ((layout, folders),) = layouts.items()
    if layout == SHARDS and shards is not None:
        return _scan_shards(shards, split)
    if layout == MANIFEST:
        return _scan_manifest(folders[0], split)
    problems: list[str] = []
    listings = [list_folder(folder) for folder in folders]
    files = [listing.images for listing in listings]
    stems = [
        _unique_stems(folder, listing, split, problems)
        for folder, listing in zip(folders, listings, strict=True)
    ]
    warnings = tuple(
        warning for each in zip(folders, listings, strict=True) if (warning := passed_over(*each))
    )
    rows = [np.flatnonzero(each != _NOT_UNIQUE) for each in stems]
    if len(folders) == 1:
        pairs = Packed(Pair, ((os.fsdecode(stems[0][i]), files[0][i], None) for i in rows[0]))
        sides = (f"{split}, left halves (A)", f"{split}, right halves (B)")
        return Scan(layout, pairs, problems, sides, warnings)
    partners = [_places(stems[1 - side], stems[side]) for side in (0, 1)]
    if all(map(len, stems)):  # an empty folder is one problem, not one per image in the other
        for side, other in ((0, 1), (1, 0)):
            alone = rows[side][partners[side][rows[side]] < 0]
            problems += _without_partner(
                [files[side][i] for i in alone], folders[other], listings[other]
            )
    pairs = Packed(
        Pair,
        (
            (os.fsdecode(stems[0][i]), files[0][i], files[1][partners[0][i]])
            for i in rows[0][partners[0][rows[0]] >= 0]
        ),
    )
    first, second = layout.split(" + ")
    return Scan(layout, pairs, problems, (first, second), warnings)


def _scan_manifest(path: Path, split: str) -> Scan:
    pairs = read_manifest(path, split, Pair)
    names, counts = np.unique(text_array(pair.name for pair in pairs), return_counts=True)
    problems = [
        f"{path}: '{os.fsdecode(name)}' is the input of {count} pairs of '{split}'; an input must "
        "be unique"
        for name, count in zip(names[counts > 1], counts[counts > 1], strict=True)
    ]
    return Scan(MANIFEST, pairs, problems, (f"{split}, inputs (A)", f"{split}, targets (B)"))


def _scan_shards(shards: ShardSet, split: str) -> Scan:
    places = shards.places[split]
    samples, problems, warnings = read_samples(places, shards.parts)
    if not samples and not problems:
        where = f"the {counted(len(places), 'shard')} of '{split}'"
        problems = [f"{shards.text}: no image is in {where}"]
        problems += [warning.rstrip(".") for warning in warnings]
    sides = (f"{split}, inputs (A)", f"{split}, targets (B)")
    pairs = Packed(Pair, samples)
    return Scan(counted(len(places), "shard"), pairs, problems, sides, tuple(warnings))


_NOT_UNIQUE = b""


def _unique_stems(
    folder: Path, listing: Listing, split: str, problems: list[str]
) -> NDArray[np.bytes_]:
    """The name without suffix of each image of a folder; problems are added to `problems`.

    Names are compared in Unicode's composed form (NFC), because macOS uses the decomposed form.
    Where a name was there before, `_NOT_UNIQUE` takes its place.
    """
    images = listing.images
    stems = text_array(_stem(path) for path in images)
    if not folder.is_dir():
        problems.append(f"{folder}: folder is missing")
    elif not len(stems):
        problems.append(
            f"{folder}: no images; found there: {listing}. Supported are {SUFFIX_LIST}, for "
            f"'{split}' in {_wanted(split)}"
        )
    firsts = _places(stems, stems)
    for i in np.flatnonzero(firsts != np.arange(len(stems))).tolist():
        path, first = images[i], images[firsts[i]]
        form = "" if first.stem == path.stem else " except for the Unicode form of a letter"
        problems.append(f"{path}: same name as {first.name}{form}; names must be unique")
        stems[i] = _NOT_UNIQUE
    return stems


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)


def _places(names: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[Any]:
    """Where each wanted name is first among the names; -1 for one that is not there."""
    if not len(names):
        return np.full(len(wanted), -1)
    order = np.argsort(names, kind="stable")
    nearest = np.searchsorted(names, wanted, sorter=order).clip(max=len(names) - 1)
    return np.where(names[order[nearest]] == wanted, order[nearest], -1)


def _without_partner(mine: Sequence[Path], folder: Path, listing: Listing) -> list[str]:
    """A problem for each image of one folder that has no partner in the other folder."""
    if not mine:
        return []
    by_letters = {_stem(path).casefold(): path.name for path in listing.images}
    unread = {_stem(path): path.name for path in listing.others}
    problems = []
    for path in mine:
        name, hint = _stem(path), ""
        if name.casefold() in by_letters:
            hint = f"; '{by_letters[name.casefold()]}' differs only in upper and lower case"
        elif name in unread:
            hint = f"; '{unread[name]}' has an unsupported suffix ({SUFFIX_LIST})"
        problems.append(f"{path}: no partner with this name in {folder}{hint}")
    return problems
