"""The deep levels of a generator, computed for a whole image and given to each of its tiles.

A deep level of a U-Net depends on the whole image, or on more of it than a tile has. Its maps are
small, so that it can be computed in one piece where the image cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from nectargan.inference.norm_statistics import Part


@runtime_checkable
class Levelled(Protocol):
    """A generator whose levels can be computed one by one; see `UnetGenerator`."""

    deepest: int

    def level(self, number: int, x: Tensor) -> Tensor:
        """What a level and those below it make of a map 2 ** ``number`` smaller than the image."""
        ...

    def reach(self, number: int) -> int:
        """From how many pixels away others change a generated pixel if this level is given."""
        ...


class WholeLevel:
    """A level and those below it, of a whole image.

    Args:
        network: The generator; for the time of `in_place` it takes what this level makes from here.
        number: Of the level.
        size: (height, width) of the image in pixels.
        alone: A context in which the level computes as if there were no tiles.

    Attributes:
        map: What the level takes, and after `make` what it makes, as far as it is known.
    """

    def __init__(
        self,
        network: Levelled,
        number: int,
        size: tuple[int, int],
        alone: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._network, self.number, self._alone = network, number, alone
        self._height, self._width = (side >> number for side in size)
        self.map: Tensor | None = None
        self._is_made = False
        self._top = self._left = 0
        self._part: Part | None = None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For the time of a ``with`` statement, the network takes this level from here."""
        network = cast("Any", self._network)
        original = network.level

        def level(number: int, x: Tensor) -> Tensor:
            return original(number, x) if number != self.number else self._given(x)

        # Tiles have other sizes than the network takes; the image has not.
        network.level, network.check_size = level, lambda height, width: None
        try:
            yield
        finally:
            del network.level, network.check_size

    def begin(self, top: int, left: int, part: Part | None) -> None:
        """To be called before each pass of a tile.

        Args:
            top: Its first row in the image.
            left: Its first column.
            part: What counts of it.
        """
        self._top, self._left, self._part = top >> self.number, left >> self.number, part

    def make(self) -> bool:
        """Computes the level, if the tiles have just given its input; whether they have."""
        if self.map is None or self._is_made:
            return False
        network = cast("Any", self._network)
        with self._alone():
            self.map = type(network).level(network, self.number, self.map)
        self._is_made = True
        return True

    def _given(self, x: Tensor) -> Tensor:
        """What the level made, in the place of a tile; first, its input is gathered."""
        height, width = x.shape[2:]
        if self._is_made and self.map is not None:
            return self.map[:, :, self._top : self._top + height, self._left : self._left + width]
        if self.map is None:
            self.map = x.new_empty(1, x.shape[1], self._height, self._width)
        part = Part(0, height, 0, width)
        if self._part is not None:
            part = Part(*(edge >> self.number for edge in self._part))
        self.map[
            :,
            :,
            self._top + part.top : self._top + part.bottom,
            self._left + part.left : self._left + part.right,
        ] = x[:, :, part.top : part.bottom, part.left : part.right]
        raise StopIteration


def input_of_level(network: Levelled, number: int, image: Tensor) -> Tensor | None:
    """What a level takes when the network generates from images; ``None`` if it is not reached."""
    whole = WholeLevel(network, number, (image.shape[2], image.shape[3]))
    with whole.in_place(), suppress(StopIteration), torch.no_grad():
        cast("Any", network)(image)
    return whole.map
