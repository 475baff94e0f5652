"""The time that rows on record have: it never falls, whatever happens to the system's clock."""

from __future__ import annotations

import time


class Clock:
    """Unix time that goes on from the last one where the system's clock was set back.

    A run that is resumed with such a clock would otherwise be drawn before its own beginning, and
    TensorBoard would drop what it takes for older.
    """

    def __init__(self) -> None:
        self._last = 0
        self._at = time.monotonic_ns()

    def __call__(self) -> int:
        """The time in milliseconds."""
        at = time.monotonic_ns()
        self._last = max(time.time_ns(), self._last + at - self._at)
        self._at = at
        return self._last // 1_000_000

    def go_on_from(self, milliseconds: int) -> None:
        """Returns no earlier time from now on."""
        self._last = max(self._last, milliseconds * 1_000_000)
