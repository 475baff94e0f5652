from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nectargan.analysis.smoothing import MovingAverage, usual_weight
from nectargan.errors import RunError

VALUES = np.random.default_rng(0).normal(size=200).astype(np.float32)


def by_hand(values: np.ndarray, weight: float) -> list[float]:
    """As TensorBoard computes it."""
    average, count, smooth = 0.0, 0, []
    for value in map(float, values):
        if not np.isfinite(value):
            smooth.append(value)
            continue
        count += 1
        average = weight * average + (1 - weight) * value
        smooth.append(average / (1 - weight**count))
    return smooth


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("part", [1, 7, 200])
def test_it_is_that_of_tensorboard_and_pandas_in_any_parts(weight: float, part: int) -> None:
    average = MovingAverage(weight)
    smooth = np.concatenate([average(VALUES[i : i + part]) for i in range(0, 200, part)])
    np.testing.assert_allclose(smooth, by_hand(VALUES, weight), rtol=1e-5, atol=1e-6)
    expected = pd.Series(VALUES, dtype=float).ewm(alpha=1 - weight).mean()
    np.testing.assert_allclose(smooth, expected, rtol=1e-5, atol=1e-6)
    assert smooth.dtype == np.float32


@pytest.mark.parametrize("part", [1, 3, 8])
def test_non_finite_values_do_not_hide_others(part: int) -> None:
    values = np.float32([np.nan, 1.0, np.inf, 1.0, 3.0, -np.inf, np.nan, 3.0])
    average = MovingAverage(0.5)
    smooth = np.concatenate([average(values[i : i + part]) for i in range(0, 8, part)])
    np.testing.assert_allclose(smooth, by_hand(values, 0.5), rtol=1e-6)
    finite = MovingAverage(0.5)(values[np.isfinite(values)])
    np.testing.assert_array_equal(smooth[np.isfinite(values)], finite)


def test_weights() -> None:
    assert len(MovingAverage(0.5)(np.empty(0))) == 0
    for weight in (-0.1, 1.0, float("nan")):
        with pytest.raises(RunError, match=r"must be in \[0, 1\)"):
            MovingAverage(weight)
    assert usual_weight(10) == pytest.approx(1 / 3)
    assert usual_weight(100_000) == pytest.approx(1 - 2 / 2001)
