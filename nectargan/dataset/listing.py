"""What is in a folder of images."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nectargan.dataset.decoding import SUFFIXES

SUFFIX_LIST = " ".join(sorted(SUFFIXES))
# Images as well, which are not read: passing over them is worth a word.
_OTHER_IMAGES = frozenset(
    f".{name}"
    for name in (  # noqa: SIM905
        "apng avifs dcm dds dng eps exr hdr heic heif ico j2k jp2 jpe jxl mat nii npy npz pcx pfm "
        "psd qoi raw sgi svg tga"
    ).split()
)


def _natural(name: str) -> tuple[list[str | int], str]:
    """A sort key: digits compare as numbers, letters without case, ties by the exact name."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


@dataclass(frozen=True)
class Listing:
    """What is in a folder, but for hidden files; images in natural order."""

    images: list[Path]
    others: list[Path]
    folders: list[Path]

    def __str__(self) -> str:
        """A few words on what is there."""
        suffixes = Counter(path.suffix.lower() or "without suffix" for path in self.others)
        found = [f"{count} {suffix}" for suffix, count in suffixes.most_common(5)]
        found += [f"folder {path.name}" for path in self.folders[:5]]
        return ", ".join(found) or "nothing"


def list_folder(folder: Path) -> Listing:
    """What is in a folder; nothing, if there is none. Raises OSError."""
    images, others, folders = list[Path](), list[Path](), list[Path]()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            folders.append(path)
        else:
            # A link that leads nowhere, or a pipe, is an image that cannot be read, not one that is
            # not there.
            (images if path.suffix.lower() in SUFFIXES else others).append(path)
    for paths in (images, others, folders):
        paths.sort(key=lambda path: _natural(path.name))
    return Listing(images, others, folders)


def passed_over(folder: Path, listing: Listing) -> str:
    """A sentence on the images of kinds that are not read; empty without any."""
    suffixes = Counter(path.suffix.lower() for path in listing.others)
    found = [f"{count} {name}" for name, count in suffixes.items() if name in _OTHER_IMAGES]
    return f"{folder}: passed over: {', '.join(found)}; read are {SUFFIX_LIST}." if found else ""
