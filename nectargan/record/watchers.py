"""Watchers detect problems in the rows of each window, which are on the CPU already."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nectargan.record.ledger import LossRow

# For comparison: the loss of a discriminator that cannot distinguish real from generated images is
# 1.39 (two times ln 2) with the vanilla objective, and 0.5 with lsgan.
_THRESHOLD = 0.01
_WINDOWS = 20


class NonFiniteWatch:
    """Detects losses that became NaN or infinite.

    Attributes:
        found: The first row with such a value; ``None`` if there is none so far.
    """

    def __init__(self) -> None:
        self.found: LossRow | None = None
        self._last_finite: dict[str, LossRow] = {}

    def look(self, rows: Iterable[LossRow]) -> None:
        """Checks the rows of a window, in order. Does nothing after a row was found."""
        if self.found is not None:
            return
        for row in rows:
            if not math.isfinite(row.raw) or not math.isfinite(row.weighted):
                self.found = row
                return
            self._last_finite[row.loss] = row

    def describe(self) -> str:
        """A sentence with the loss, its weight, epoch and step, and the last finite values."""
        row = self.found
        if row is None:
            return "All losses are finite."
        before = ", ".join(
            f"{each.loss} {each.raw:.4g} (step {each.step})" for each in self._last_finite.values()
        )
        return (
            f"Loss '{row.loss}' is {row.raw} with weight {row.weight:g} in epoch {row.epoch}, step "
            f"{row.step}; the last finite values are {before or 'none'}."
        )


class CollapseWatch:
    """Detects a discriminator whose loss stays near zero, so that the generator cannot learn.

    Args:
        names: Names of the losses that add up to the loss of the discriminator.
        threshold: A window counts if the mean of this sum over its steps is below ``threshold``.
        windows: Number of successive windows that must count.

    Attributes:
        found: The step at which the collapse was detected; ``None`` if there was none so far.
    """

    def __init__(
        self, names: Sequence[str], threshold: float = _THRESHOLD, windows: int = _WINDOWS
    ) -> None:
        self.found: int | None = None
        self._names = frozenset(names)
        self._threshold = threshold
        self._windows = windows
        self._in_a_row = 0

    def look(self, rows: Iterable[LossRow]) -> None:
        """Checks the rows of a window."""
        mine = [row for row in rows if row.loss in self._names]
        if self.found is not None or not mine:
            return
        steps = len({row.step for row in mine})
        is_low = sum(row.raw for row in mine) / steps < self._threshold
        self._in_a_row = self._in_a_row + 1 if is_low else 0
        if self._in_a_row >= self._windows:
            self.found = mine[-1].step

    def describe(self) -> str:
        """A sentence that says what was found, and at which step."""
        return (
            f"The discriminator is too strong: its loss was below {self._threshold:g} for "
            f"{self._windows} windows up to step {self.found}, so the generator learns little."
        )
