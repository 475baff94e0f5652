"""The built-in schedule functions, listed in `schedule_map`.

Each function takes a `Schedule` and an epoch (counted from 1, fractions allowed) and returns the
value in that epoch. The functions are pure: they keep no state and change nothing. With the initial
value ``a``, the target value ``b``, the start epoch ``s``, the end epoch ``e`` and

    t = (epoch - s) / (e - s)   clipped to [0, 1],

all functions but `constant` and `piecewise` return ``a + (b - a) * c(t)`` for a curve ``c`` with
``c(0) = 0`` and ``c(1) = 1``. The value is exactly ``a`` up to and including epoch ``s`` and
exactly ``b`` from epoch ``e`` on, for all signs of ``a``, ``b`` and ``b - a``.

Further arguments of a function are declared in its signature, with bounds and defaults. `Schedule`,
the config and the one-line notation read them there. The functions in `schedule_map` take these
arguments from the schedule; a keyword overrides one for a single call. To add a schedule, write its
function and add it to `schedule_map`.
"""

from __future__ import annotations

import bisect
import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Interval, Le, MaxLen

if TYPE_CHECKING:
    from nectargan.scheduling.data import Schedule

# The ratio that `exponential` uses if b / a is not a positive number, because an end is zero or the
# ends have opposite signs. 1000 spans three decades, the usual range of such decays.
_STAND_IN_RATIO = 1e3

FLOAT32_MAX = 3.4e38
Number = Annotated[float, Interval(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
_NO_POINTS: list[list[float]] = []
Repetitions = Interval(ge=1, le=10**9)


def _blend(schedule: Schedule, epoch: float, curve: Callable[[float], float]) -> float:
    """``a + (b - a) * curve(t)``, exact at both ends."""
    a, b = float(schedule.initial_value), float(schedule.target_value)
    if epoch <= schedule.start_epoch or a == b:
        return a
    if epoch >= schedule.end_epoch:
        return b
    c = curve((epoch - schedule.start_epoch) / (schedule.end_epoch - schedule.start_epoch))
    return a + (b - a) * c


def _times(count: int, schedule: Schedule, epoch: float) -> float:
    """``count * t``, rounded only once; with a rounded ``t`` a jump could be an epoch late."""
    return count * (epoch - schedule.start_epoch) / (schedule.end_epoch - schedule.start_epoch)


def constant(schedule: Schedule, epoch: float) -> float:
    """The initial value ``a`` in every epoch."""
    return float(schedule.initial_value)


def linear(schedule: Schedule, epoch: float) -> float:
    """A straight line: ``c(t) = t`` (the learning rate of Isola et al. 2017, pix2pix)."""
    return _blend(schedule, epoch, lambda t: t)


def exponential(schedule: Schedule, epoch: float) -> float:
    """A constant ratio from epoch to epoch: ``a * (b / a) ** t`` (torch's ``ExponentialLR``).

    The curve is ``c(t) = (r ** t - 1) / (r - 1)`` with ``r = b / a``. If this ratio is not a
    positive number (an end is zero, or the ends have opposite signs), ``r`` is 1000 if the
    magnitude grows and 1/1000 if it shrinks. Both ends are still exact.
    """
    a, b = float(schedule.initial_value), float(schedule.target_value)
    ratio = b / a if a else 0.0
    if not 0.0 < ratio < math.inf:
        ratio = _STAND_IN_RATIO if abs(b) > abs(a) else 1.0 / _STAND_IN_RATIO
    log_ratio = math.log(ratio)
    if log_ratio > 0.0:
        # The same curve in a form in which no exponential can overflow.
        return _blend(
            schedule,
            epoch,
            lambda t: (
                math.exp((t - 1.0) * log_ratio)
                * math.expm1(-t * log_ratio)
                / math.expm1(-log_ratio)
            ),
        )
    return _blend(schedule, epoch, lambda t: math.expm1(t * log_ratio) / math.expm1(log_ratio))


def cosine(schedule: Schedule, epoch: float) -> float:
    """Half a cosine: ``c(t) = (1 - cos(pi t)) / 2`` (Loshchilov & Hutter 2017, SGDR, eq. 5)."""
    return _blend(schedule, epoch, lambda t: (1.0 - math.cos(math.pi * t)) / 2.0)


def polynomial(
    schedule: Schedule, epoch: float, *, power: Annotated[float, Gt(0), Le(1000), "Exponent."] = 2.0
) -> float:
    """A power of the remaining time: ``c(t) = 1 - (1 - t) ** power`` (the "poly" policy of Chen et
    al. 2017, DeepLab). With ``power`` = 1 it equals `linear`; with more, most of the change happens
    early."""
    return _blend(schedule, epoch, lambda t: 1.0 - (1.0 - t) ** power)


def step(
    schedule: Schedule,
    epoch: float,
    *,
    steps: Annotated[int, Repetitions, "Number of jumps."] = 4,
) -> float:
    """``steps`` equal jumps: ``c(t) = floor(steps * t) / steps`` (step decay as in torch's
    ``StepLR``, but with given ends). The last jump is in the end epoch."""
    return _blend(schedule, epoch, lambda _: math.floor(_times(steps, schedule, epoch)) / steps)


def piecewise(
    schedule: Schedule,
    epoch: float,
    *,
    points: Annotated[list[list[Number]], MaxLen(10_000), "[epoch, value] pairs."] = _NO_POINTS,
) -> float:
    """Linear interpolation between ``points``, pairs of (epoch, value), as in ``numpy.interp``.

    Between two points, the value is ``v0 + (v1 - v0) * (epoch - e0) / (e1 - e0)``. Before the first
    point it is the first value, after the last point the last value.
    """
    if epoch <= points[0][0]:
        return points[0][1]
    if epoch >= points[-1][0]:
        return points[-1][1]
    right = bisect.bisect_right(points, epoch, key=lambda point: point[0])
    (e0, v0), (e1, v1) = points[right - 1], points[right]
    c = (epoch - e0) / (e1 - e0)
    return v0 + (v1 - v0) * c


def cyclical(
    schedule: Schedule,
    epoch: float,
    *,
    cycles: Annotated[int, Repetitions, "Number of cycles."] = 4,
    ramp: Annotated[float, Interval(gt=0, le=1), "Fraction of a cycle taken by the ramp."] = 0.5,
) -> float:
    """``cycles`` repetitions of a linear ramp from ``a`` to ``b`` followed by a constant ``b``:
    ``c(t) = min(1, frac(cycles * t) / ramp)``. ``ramp`` in (0, 1] is the fraction of a cycle taken
    by the ramp (Fu et al. 2019, Cyclical Annealing Schedule, eq. 6-7, there ``M`` and ``R``)."""
    return _blend(schedule, epoch, lambda _: min(1.0, _times(cycles, schedule, epoch) % 1.0 / ramp))


def _with_arguments_of_the_schedule(function: Callable[..., float]) -> Callable[..., float]:
    keywords = list(inspect.signature(function).parameters)[2:]
    if not keywords:
        return function

    @functools.wraps(function)
    def with_arguments(schedule: Schedule, epoch: float, **given: Any) -> float:
        own = schedule.arguments
        return function(schedule, epoch, **{k: own[k] for k in keywords if k in own} | given)

    return with_arguments


schedule_map: dict[str, Callable[..., float]] = {
    function.__name__: _with_arguments_of_the_schedule(function)
    for function in (
        constant,
        linear,
        exponential,
        cosine,
        polynomial,
        step,
        piecewise,
        cyclical,
    )
}
