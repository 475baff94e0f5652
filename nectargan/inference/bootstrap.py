"""The bootstrap over images: intervals of means, and of differences of two models.

All metrics and models share the same samples of images, so that differences are paired.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
_SEED = 0

Floats = npt.NDArray[np.float64]


def draw_samples(count: int, resamples: int = RESAMPLES) -> npt.NDArray[np.intp]:
    """Samples of images with replacement, ``(resamples, count)``: the same ones in each call."""
    return np.random.default_rng(_SEED).integers(0, count, (resamples, count))


def means_of(values: Floats, samples: npt.NDArray[np.intp]) -> Floats:
    """The mean of the values ``(N,)`` in each sample, ``(resamples,)``."""
    return np.array([values[sample].mean() for sample in samples])


def counts_of(samples: npt.NDArray[np.intp]) -> Floats:
    """How often each image is in each sample, ``(resamples, N)``."""
    count = samples.shape[1]
    return np.array([np.bincount(sample, minlength=count) for sample in samples], np.float64)


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of the values of all samples."""
    if not np.isfinite(values).all():
        # Infinities, such as the PSNR of equal images, cannot be interpolated.
        low, high = np.quantile(values, (0.025, 0.975), method="nearest")
    else:
        low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


class Difference(NamedTuple):
    """How a model stands against another on the same images.

    Attributes:
        value: Its value less that of the other.
        low: Lower end of the 95 % interval.
        high: Upper end.
        chance: In how many of the samples it is better, a share; a tie counts one half.
    """

    value: float
    low: float
    high: float
    chance: float


def difference(
    mine: tuple[float, Floats], other: tuple[float, Floats], higher_is_better: bool
) -> Difference:
    """Compares two models.

    Args:
        mine: The value of the model, and those in each sample.
        other: The same of the other one.
        higher_is_better: Whether a higher value is better.
    """
    with np.errstate(invalid="ignore"):
        samples = mine[1] - other[1]
        samples[mine[1] == other[1]] = 0.0  # infinities
    wins = samples > 0 if higher_is_better else samples < 0
    chance = float(wins.mean() + (samples == 0).mean() / 2)
    value = 0.0 if mine[0] == other[0] else mine[0] - other[0]
    return Difference(value, *interval(samples), chance)
