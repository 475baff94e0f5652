"""What sound images of a data set may have about them that was not meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nectargan.dataset.decoding import Part, Probe
from nectargan.wording import counted

_USED = 0.25  # images none of which uses more of their type's range are taken for a mistake


class Picture(NamedTuple):
    """One side of a pair.

    Attributes:
        path: Its file.
        file: What the whole file is like.
        part: What the picture is like: all of the file, or a half of it.
    """

    path: Path
    file: Probe
    part: Part


def warnings_about(where: str, pictures: Sequence[Picture]) -> list[str]:
    """What may not be as it was meant, a sentence each.

    Args:
        where: What the user calls this side of the pairs, such as "trainA".
        pictures: All of that side.
    """
    found = _unused_range(where, pictures)
    for texts, some in (
        (
            ("transparent pixels", "they are laid over black, unless 2 or 4 channels are read"),
            [p for p in pictures if p.part.is_transparent],
        ),
        (
            ("several frames or pages", "the first is read"),
            [p for p in pictures if p.file.has_frames],
        ),
        (
            ("channels that are not alpha beyond grey or RGB", "they are left out"),
            [p for p in pictures if p.file.left_out],
        ),
    ):
        if some:
            what, then = texts
            found.append(
                f"{where}: {counted(len(some), 'image')} with {what}, such as {some[0].path.name}: "
                f"{then}."
            )
    return found


def hints_about(where: str, pictures: Sequence[Picture]) -> list[str]:
    """What can be made better, a sentence each; arguments as for `warnings_about`."""
    counts = [picture.part.colours for picture in pictures]
    if any(count is None for count in counts):
        return []
    most = max(count or 0 for count in counts)
    return [
        f"{where}: at most {counted(most, 'colour')} in an image. If these are label maps, "
        "dataloader.load.resize 'nearest' makes no new ones."
    ]


def _unused_range(where: str, pictures: Sequence[Picture]) -> list[str]:
    found = []
    for full in sorted({picture.part.full for picture in pictures}):
        peak = max(picture.part.peak for picture in pictures if picture.part.full == full)
        if peak < _USED * full:
            found.append(
                f"{where}: no value is above {peak}, of a range up to {full}: the network sees "
                "dark images; scale the values to the whole range."
            )
    return found
