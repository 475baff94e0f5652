"""The exponential moving average that smooths curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from nectargan.errors import RunError


class MovingAverage:
    """The exponential moving average that TensorBoard draws, over a series given in parts.

    ``m = weight * m + (1 - weight) * x``, starting with 0. The result after ``n`` values is divided
    by ``1 - weight**n``, which corrects the bias towards 0. A value that is not finite is returned
    unchanged and does not affect the average.

    Args:
        weight: Weight of the previous average, in [0, 1). With 0, values do not change; 0.99
            averages over about a hundred values.

    Raises:
        RunError: ``weight`` is not in [0, 1).
    """

    def __init__(self, weight: float) -> None:
        self.weight = check_weight(weight)
        self._average = 0.0
        self._count = 0

    def __call__(self, values: Any) -> Any:
        """Smooths the next values, an array ``(n,)``; returns a new array of float32."""
        import pandas as pd

        values = np.asarray(values, np.float64)
        is_finite = np.isfinite(values)
        # The previous average is the first value, so that pandas continues from it.
        series = pd.Series(np.concatenate([[self._average], np.where(is_finite, values, np.nan)]))
        averages = series.ewm(alpha=1 - self.weight, adjust=False, ignore_na=True).mean().to_numpy()
        counts = self._count + np.cumsum(is_finite)
        if len(values):
            self._average, self._count = float(averages[-1]), int(counts[-1])
        unbiased = averages[1:] / (1 - self.weight ** np.maximum(counts, 1))
        return np.where(is_finite, unbiased, values).astype(np.float32)


def check_weight(weight: float) -> float:
    """Raises `RunError` unless ``weight`` can be that of a moving average."""
    if not 0 <= weight < 1:
        raise RunError(f"A curve cannot be smoothed by {weight:g}; it must be in [0, 1).")
    return weight


def usual_weight(count: int) -> float:
    """A suitable weight for ``count`` values: it averages over 1/50 of them."""
    return 1 - 2 / (max(2, count // 50) + 1)
