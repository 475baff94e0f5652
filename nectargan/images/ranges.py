"""What a user may write for the range of the values of files. Imports neither NumPy nor torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

# The curve from the values of a file to those of a network; see `mapping`.
Transfer = Literal["linear", "log", "asinh", "gamma"]

OF_DTYPE = "dtype"
"""All values that the files can hold."""
ALLOWED = (
    "it must be 'dtype', 'percentile LOW HIGH' such as 'percentile 1 99', [low, high] with low "
    "below high, or a list of these pairs, one for each channel"
)

_PERCENTILES = re.compile(r"percentile\s+(\S+)\s+(\S+)")


def percentiles_of(value: object) -> tuple[float, float] | None:
    """The two percentiles in a range such as "percentile 1 99"; ``None`` if it has none.

    Raises:
        ValueError: If they are not two numbers with 0 <= low < high <= 100.
    """
    found = _PERCENTILES.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    try:
        low, high = map(float, found.groups())
    except ValueError:
        raise ValueError(ALLOWED) from None
    if not 0 <= low < high <= 100:
        raise ValueError("percentiles must be from 0 to 100, and the first one below the second")
    return low, high


def ranges_of(value: object) -> list[tuple[float, float]] | None:
    """The ranges in a list of numbers or of pairs of numbers; ``None`` for words."""
    if isinstance(value, str):
        return None
    rows = value if isinstance(value, Sequence) else []
    pairs = rows if rows and all(isinstance(row, Sequence) for row in rows) else [rows]
    found = []
    for pair in pairs:
        numbers = [n for n in pair if type(n) in (int, float) and math.isfinite(n)]
        if len(pair) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise ValueError(ALLOWED)
        found.append((float(numbers[0]), float(numbers[1])))
    return found
