"""A loss that takes an hour in training, and no time when it is tried out."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor, nn


class SlowLoss(nn.Module):
    """L1, an hour late from the second call on.

    Args:
        mark: A file that is made when the hour begins.
    """

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._calls = 0
        self._mark = Path(mark)

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        """The mean absolute difference."""
        self._calls += 1
        if self._calls > 1:
            self._mark.touch()
            time.sleep(3600)
        return (generated - target).abs().mean()
