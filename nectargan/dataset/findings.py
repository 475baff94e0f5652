"""Finds properties of readable images that are probably not intended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nectargan.dataset.decoding import PixelStatistics, Probe
from nectargan.sources import Source
from nectargan.wording import counted

# If no image uses more than this part of the range of its type, the scale is probably wrong.
_USED = 0.25


class PairSide(NamedTuple):
    """One side of a pair.

    Attributes:
        path: The file.
        file: Properties of the whole file.
        part: Statistics of the image, which is the whole file or a half of it.
    """

    path: Source
    file: Probe
    part: PixelStatistics


def warnings_about(where: str, pictures: Sequence[PairSide], has_range: bool = False) -> list[str]:
    """Warns about properties of images that are probably not intended, one sentence each.

    Args:
        where: Name of this side of the pairs for the user, such as "trainA".
        pictures: All images of this side.
        has_range: Whether the config says the range of their values.
    """
    found = [] if has_range else _unused_range(where, pictures)
    for texts, some in (
        (
            ("transparent pixels", "they are blended with black unless 2 or 4 channels are read"),
            [p for p in pictures if p.part.is_transparent],
        ),
        (
            ("several frames or pages", "only the first is read"),
            [p for p in pictures if p.file.has_frames],
        ),
        (
            (
                "extra channels besides gray, RGB and alpha",
                "they are ignored unless dataloader.load.input_channels lists them",
            ),
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


def hints_about(where: str, pictures: Sequence[PairSide]) -> list[str]:
    """Suggests better options, one sentence each; the arguments are those of `warnings_about`."""
    counts = [picture.part.colours for picture in pictures]
    if any(count is None for count in counts):
        return []
    most = max(count or 0 for count in counts)
    return [
        f"{where}: at most {counted(most, 'color')} in an image. If these are label maps, set "
        "dataloader.load.resize to 'nearest', which adds no new colors."
    ]


def _unused_range(where: str, pictures: Sequence[PairSide]) -> list[str]:
    found = []
    for full in sorted({picture.part.full for picture in pictures}):
        peak = max(picture.part.peak for picture in pictures if picture.part.full == full)
        if peak < _USED * full:
            found.append(
                f"{where}: no value is above {peak}, but the range goes up to {full}, so the "
                "network sees dark images; set input_range and target_range of dataloader.load, "
                f"such as [0, {peak}]."
            )
    return found
