"""Collects properties of readable images that are probably not intended."""

from __future__ import annotations

from typing import Any

import numpy as np

from nectargan.dataset.decoding import PixelStatistics, Probe
from nectargan.sources import Source
from nectargan.wording import counted

# If no image uses more than this part of the range of its type, the scale is probably wrong.
_USED = 0.25
_WITH_ALPHA = (2, 4)  # channels: gray or RGB, and alpha
_SIGNED = (127, 32767)  # the largest values of types with a sign
_TRANSPARENT = ("transparent pixels", "they are blended with black unless 2 or 4 channels are read")
_FRAMES = ("several frames or pages", "only the first is read")
_EXTRA = (
    "extra channels besides gray, RGB and alpha",
    "they are ignored unless dataloader.load.input_channels lists them",
)
_EMPTY = ("nodata, NaN or infinity in every pixel", "nothing is learned from their pairs")


class SideFindings:
    """What is known about all images of one side of the pairs; in memory are no single images.

    Args:
        where: Name of this side for the user, such as "trainA".

    Attributes:
        dtypes: The dtypes of the files; ``None`` stands for plain 8 bits.
        channels: The first file with each number of channels; the number is 0 for plain images.
        invalid: The first file with invalid pixels, or an empty text.
        examples: The first file with integers (False) and with floats (True), and its dtype.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._used: dict[int, tuple[int, int]] = {}  # by the largest value of the type
        self._most_colours: int | None = 0
        self._counts = dict.fromkeys((_TRANSPARENT, _FRAMES, _EXTRA, _EMPTY), 0)
        self._firsts: dict[tuple[str, str], str] = {}
        self.dtypes = set[np.dtype[Any] | None]()
        self.channels = dict[int, str]()
        self.invalid = ""
        self.examples = dict[bool, tuple[Source, str]]()

    def add(self, path: Source, file: Probe, part: PixelStatistics) -> None:
        """Adds an image.

        Args:
            path: The file.
            file: Properties of the whole file.
            part: Statistics of the image, which is the whole file or a half of it.
        """
        low, high = self._used.get(part.full, (part.lowest, part.peak))
        self._used[part.full] = min(low, part.lowest), max(high, part.peak)
        if part.colours is None or self._most_colours is None:
            self._most_colours = None
        else:
            self._most_colours = max(part.colours, self._most_colours)
        for what, is_such in (
            (_TRANSPARENT, part.is_transparent),
            (_FRAMES, file.has_frames),
            (_EXTRA, file.left_out > 0),
            (_EMPTY, part.is_empty),
        ):
            if is_such:
                self._counts[what] += 1
                self._firsts.setdefault(what, path.name)
        self.dtypes.add(file.dtype)
        if part.channels not in self.channels:
            self.channels[part.channels] = str(path)
        if part.invalid and not self.invalid:
            self.invalid = str(path)
        dtype = file.dtype or np.dtype(np.uint8)
        if (dtype.kind == "f") not in self.examples:
            self.examples[dtype.kind == "f"] = path, dtype.name

    def warnings(self, has_range: bool = False, channels: int | None = None) -> list[str]:
        """Sentences about properties of the images that are probably not intended.

        Args:
            has_range: Whether the config says the range of their values.
            channels: How many channels the config reads; ``None`` without one.
        """
        found = []
        for full, (lowest, peak) in () if has_range else sorted(self._used.items()):
            if full in _SIGNED and peak - lowest < _USED * 2 * full:
                found.append(
                    f"{self._where}: the values are from {lowest} to {peak}, but the range is from "
                    f"{-full - 1} to {full}, so the network sees images of little contrast; set "
                    f"input_range and target_range of dataloader.load, such as [{lowest}, {peak}]."
                )
            elif full not in _SIGNED and peak < _USED * full:
                found.append(
                    f"{self._where}: no value is above {peak}, but the range goes up to {full}, so "
                    "the network sees dark images; set input_range and target_range of "
                    f"dataloader.load, such as [0, {peak}]."
                )
        return found + [
            f"{self._where}: {counted(self._counts[what], 'image')} with {what[0]}, such as "
            f"{first}: {what[1]}."
            for what, first in sorted(
                self._firsts.items(), key=lambda item: list(self._counts).index(item[0])
            )
            if what != _TRANSPARENT or channels not in _WITH_ALPHA
        ]

    def hints(self) -> list[str]:
        """Sentences that suggest better options."""
        if self._most_colours is None:
            return []
        return [
            f"{self._where}: at most {counted(self._most_colours, 'color')} in an image. If these "
            "are label maps, set dataloader.load.resize to 'nearest', which adds no new colors."
        ]
