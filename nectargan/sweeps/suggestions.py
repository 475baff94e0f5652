"""Values of a swept option, as Optuna describes and suggests them and as a config takes them."""

from __future__ import annotations

from typing import Any

from nectargan.sweeps.axes import Axis


def suggest(trial: Any, axis: Axis, is_whole: bool) -> str:
    """The value that Optuna suggests for a trial, as text; ``is_whole`` for whole numbers only."""
    if axis.range is None:
        return str(trial.suggest_categorical(axis.key, axis.items))
    low, high, log = axis.range
    if is_whole:
        return value_text(trial.suggest_int(axis.key, int(low), int(high), log=log))
    return value_text(trial.suggest_float(axis.key, low, high, log=log))


def distribution_of(axis: Axis, is_whole: bool) -> Any:
    """Optuna's description of the values of an axis."""
    from optuna import distributions

    if axis.range is None:
        return distributions.CategoricalDistribution(axis.items)
    low, high, log = axis.range
    if is_whole:
        return distributions.IntDistribution(int(low), int(high), log=log)
    return distributions.FloatDistribution(low, high, log=log)


def ends_of(axis: Axis) -> list[str]:
    """The values to check first. Whole ends are written as integers, which every option accepts."""
    if axis.range is None:
        return axis.items
    ends = (axis.range.low, axis.range.high)
    return [value_text(int(end) if axis.range.is_whole else end) for end in ends]


def value_text(value: object) -> str:
    """A suggested value as text; a number in JSON, without rounding."""
    return value if isinstance(value, str) else repr(value)
