"""Lists the contents of a folder of images."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nectargan.images.suffixes import IMAGE_SUFFIXES

SUFFIX_LIST = " ".join(sorted(IMAGE_SUFFIXES))
# Images of kinds that are not supported; the user is told that they are ignored.
_OTHER_IMAGES = frozenset(
    f".{name}"
    for name in (  # noqa: SIM905 - forty quoted strings are harder to read
        "apng avifs dcm dds dng eps hdr heic heif ico j2k jp2 jpe jxl mat nii pcx pfm "
        "psd qoi raw sgi svg tga"
    ).split()
)


def _natural(name: str) -> tuple[list[str | int], str]:
    """A sort key: numbers compare by value, letters ignoring case, ties by the exact name."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


@dataclass(frozen=True)
class Listing:
    """The contents of a folder without hidden files, in natural order."""

    images: list[Path]
    others: list[Path]
    folders: list[Path]

    def __str__(self) -> str:
        """A short description of the files and folders that are not images."""
        suffixes = Counter(path.suffix.lower() or "without suffix" for path in self.others)
        found = [f"{count} {suffix}" for suffix, count in suffixes.most_common(5)]
        found += [f"folder {path.name}" for path in self.folders[:5]]
        return ", ".join(found) or "nothing"


def list_folder(folder: Path) -> Listing:
    """Lists a folder; empty if it does not exist.

    Raises:
        OSError: If the folder cannot be read.
    """
    images, others, folders = list[Path](), list[Path](), list[Path]()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            folders.append(path)
        else:
            # A broken link or a pipe counts as an image, so that it is reported as unreadable.
            (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    for paths in (images, others, folders):
        paths.sort(key=lambda path: _natural(path.name))
    return Listing(images, others, folders)


def passed_over(folder: Path, listing: Listing) -> str:
    """A sentence about images of unsupported kinds; empty if there are none."""
    suffixes = Counter(path.suffix.lower() for path in listing.others)
    found = [f"{count} {name}" for name, count in suffixes.items() if name in _OTHER_IMAGES]
    return f"{folder}: ignored: {', '.join(found)}; supported are {SUFFIX_LIST}." if found else ""
