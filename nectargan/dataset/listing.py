"""Lists the contents of a folder of images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from nectargan.dataset.streaming import Texts, text_array
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


def _natural(name: str) -> str:
    """A sort key for which numbers compare by value, letters ignoring case."""
    parts = re.split(r"0*([0-9]+)", name)
    # Of two numbers, the one with more digits is larger.
    return "".join(
        f"\1{chr(len(part))}{part}" if i % 2 else part.casefold() for i, part in enumerate(parts)
    )


class Files(Sequence[Path]):
    """Files of a folder in natural order; ties are by the exact name.

    A million names take about as many bytes as they have letters.
    """

    def __init__(self, folder: Path, names: NDArray[np.bytes_]) -> None:
        self._folder = folder
        keys = text_array(_natural(os.fsdecode(name)) for name in names)
        self._names = names[np.lexsort((names, keys))]

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self._folder / os.fsdecode(name) for name in self._names[index]]
        return self._folder / os.fsdecode(self._names[index])

    def __iter__(self) -> Iterator[Path]:
        for name in self._names:
            yield self._folder / os.fsdecode(name)


@dataclass(frozen=True)
class Listing:
    """The contents of a folder without hidden files, in natural order."""

    images: Files
    others: Files
    folders: Files

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
    images, others, folders = Texts(), Texts(), Texts()
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    # A broken link or a pipe counts as an image, to be reported as unreadable.
                    # pathlib would keep each name in the table of interned strings.
                    is_image = os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
                    (images if is_image else others).append(entry.name)
    return Listing(*(Files(folder, names.array()) for names in (images, others, folders)))


def passed_over(folder: Path, listing: Listing) -> str:
    """A sentence about images of unsupported kinds; empty if there are none."""
    suffixes = Counter(path.suffix.lower() for path in listing.others)
    found = [f"{count} {name}" for name, count in suffixes.items() if name in _OTHER_IMAGES]
    return f"{folder}: ignored: {', '.join(found)}; supported are {SUFFIX_LIST}." if found else ""
