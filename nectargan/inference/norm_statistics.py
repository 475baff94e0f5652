"""Instance norm with statistics that are given: those of a whole image for each of its tiles.

Instance norm brings each channel to the mean and the variance that it has over the image. Over a
tile these are others, and tiles would differ in colour and contrast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Part(NamedTuple):
    """The part of a tile that counts: pixels that no other tile counts.

    Attributes:
        top: Its first row in the tile, and so on.
    """

    top: int
    bottom: int
    left: int
    right: int


@dataclass
class _Moments:
    """Mean and variance of each channel, gathered part by part (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    def add(self, maps: Tensor) -> None:
        """Counts ``(1, C, H, W)``."""
        count = maps[0, 0].numel()
        if not count:
            return
        values = maps.float()
        mean = values.mean((0, 2, 3))
        squares = (values - mean[:, None, None]).square_().sum((0, 2, 3))
        mean, squares = mean.cpu().double(), squares.cpu().double()
        apart, both = mean - self.mean, self.count + count
        self.squares = self.squares + squares + apart**2 * (self.count * count / both)
        self.mean = self.mean + apart * (count / both)
        self.count = both

    def get(self) -> tuple[Tensor, Tensor]:
        return self.mean.float(), (self.squares / self.count).float()


class NormStatistics:
    """The statistics of the instance norms of a network, each time that one is met in a pass.

    Args:
        network: The network; `in_place` makes its instance norms use these statistics.

    Attributes:
        known: Mean and variance, each ``(C,)``, by the norm's number in the network and how often
            it was met before in the pass.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = [each for each in network.modules() if _is_instance_norm(each)]
        self.known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._met = Counter[int]()
        self._moments = _Moments()
        self._counted_for = 0, 0
        self._part: Part | None = None
        self._width = self._height = 0
        self._takes_all = False
        self._is_paused = False

    def __bool__(self) -> bool:
        """Whether there is any instance norm."""
        return bool(self._norms)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For the time of a ``with`` statement, the network's norms use these statistics."""
        for number, norm in enumerate(self._norms):
            norm.forward = self._forward_of(number, norm)
        try:
            yield
        finally:
            for norm in self._norms:
                del norm.forward

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For the time of a ``with`` statement, the norms take the statistics of what they see, and
        are not counted."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def begin(self, height: int, width: int, part: Part | None = None) -> None:
        """To be called before each pass of an image or a tile of this size.

        Args:
            height: In pixels.
            width: In pixels.
            part: What counts for the first norm whose statistics are not known; that norm ends the
                pass with `StopIteration`. Without it, such norms take the statistics of what they
                see.
        """
        self._met.clear()
        self._height, self._width, self._part = height, width, part

    def learn(self) -> None:
        """Makes known what was counted, of one norm."""
        self.known[self._counted_for] = self._moments.get()
        self._moments = _Moments()

    def take_all(self, takes: bool = True) -> None:
        """Whether norms whose statistics are not known take those of what they see for good."""
        self._takes_all = takes

    def _forward_of(self, number: int, norm: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if self._is_paused:
                seen: Tensor = type(norm).forward(norm, x)
                return seen
            key = number, self._met[number]
            self._met[number] += 1
            if key in self.known:
                return _normed(norm, x, *self.known[key])
            if self._part is not None:
                self._moments.add(self._counted(x, self._part))
                self._counted_for = key
                # The rest of the pass is of no use yet. No error: nobody else sees it.
                raise StopIteration
            own = _Moments()
            own.add(x)
            if self._takes_all:
                self.known[key] = own.get()
            return _normed(norm, x, *own.get())

        return forward

    def _counted(self, x: Tensor, part: Part) -> Tensor:
        """The part of a map that has the place of a part of its tile."""
        down, across = self._height // x.shape[2], self._width // x.shape[3]
        return x[
            :,
            :,
            part.top // down : part.bottom // down,
            part.left // across : part.right // across,
        ]


def _is_instance_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats


def _normed(norm: nn.Module, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    mean, variance = mean.to(x.device), variance.to(x.device)
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    # In float32, as the statistics are; not all devices take them with values of 16 bits.
    # To mypy, an attribute of a module may be a module.
    y = F.batch_norm(x.float(), mean, variance, weight, bias, training=False, eps=eps)  # type: ignore[arg-type]
    return y.to(x.dtype)
