"""Finding losses that became NaN or infinite, in rows that are on the host anyway."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nectargan.record.ledger import LossRow


class NonFiniteWatch:
    """Looks at the rows of each window.

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
