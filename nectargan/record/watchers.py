"""Watchers look at the rows of each window, which are on the host anyway."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nectargan.record.ledger import LossRow

# A vanilla D that cannot tell real from generated has 1.39 (two times ln 2), an lsgan one 0.5.
_THRESHOLD = 0.01
_WINDOWS = 20


class NonFiniteWatch:
    """Finds losses that became NaN or infinite.

    Attributes:
        found: The first row that is not finite; ``None`` as long as all are.
    """

    def __init__(self) -> None:
        self.found: LossRow | None = None
        self._last_finite: dict[str, LossRow] = {}

    def look(self, rows: Iterable[LossRow]) -> None:
        """Looks at rows, in their order, until something is found."""
        if self.found is not None:
            return
        for row in rows:
            if not math.isfinite(row.raw) or not math.isfinite(row.weighted):
                self.found = row
                return
            self._last_finite[row.loss] = row

    def describe(self) -> str:
        """What was found, in one sentence: the loss, its weight, where, and what it was before."""
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
    """Notices a discriminator that has won: the generator learns nothing from it any more.

    Args:
        names: The losses whose sum is D's.
        threshold: A window counts if the mean of that sum over its steps is below.
        windows: So many windows in a row are a collapse.

    Attributes:
        found: In which step it was noticed; ``None`` until then.
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
        """Takes the rows of a window."""
        mine = [row for row in rows if row.loss in self._names]
        if self.found is not None or not mine:
            return
        steps = len({row.step for row in mine})
        is_low = sum(row.raw for row in mine) / steps < self._threshold
        self._in_a_row = self._in_a_row + 1 if is_low else 0
        if self._in_a_row >= self._windows:
            self.found = mine[-1].step

    def describe(self) -> str:
        """What was found, in one sentence."""
        return (
            f"The discriminator has won: its loss was below {self._threshold:g} for "
            f"{self._windows} windows up to step {self.found}; the generator learns little from it."
        )
