"""The results of the runs of a sweep: their ranking, and what made the difference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from nectargan.record.last_values import best_of, values_in_best_epoch
from nectargan.record.run_directory import RunDirectory
from nectargan.sweeps.axes import Axis
from nectargan.sweeps.grid import GridOutcome
from nectargan.sweeps.search import Trial

_STATES = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}


class Result(NamedTuple):
    """A run of a sweep.

    Attributes:
        values: The values of the swept options as text, by dotted key.
        state: State of the run.
        reason: Why it failed.
        best: Its best value of the metric; ``None`` if it has none.
        directory: The run directory, if there is one. It may be on another machine.
        measured: With several metrics, the values of all of them in one epoch; else empty.
    """

    values: dict[str, str]
    state: str
    reason: str
    best: float | None
    directory: RunDirectory | None
    measured: tuple[float, ...] = ()


def result_of_grid_point(outcome: GridOutcome, metric: str, *others: str) -> Result:
    """The result of a grid point; the metrics are read from its run directory."""
    point, state, directory, reason = outcome
    if directory is None:
        return Result(point.values, state, reason, None, None)
    is_lower = point.config.validation.is_lower_better(metric)
    best = best_of(directory, metric, is_lower)
    measured = values_in_best_epoch(directory, [metric, *others], is_lower) if others else None
    value = None if best is None else best[0]
    return Result(point.values, state, reason, value, directory, measured or ())


def result_of_trial(trial: Trial) -> Result:
    """The result of a trial of a search."""
    state = _STATES.get(trial.state, trial.state)
    measured = trial.measured if len(trial.measured) > 1 else ()
    return Result(trial.values, state, trial.reason, trial.value, trial.directory, measured)


def ranked(results: Sequence[Result], is_lower_better: bool) -> list[Result]:
    """The finished runs, best first. Runs without the metric, or with NaN, come last in their
    original order."""
    finished = [each for each in results if each.state == "FINISHED" and each.directory is not None]

    def place(result: Result) -> float:
        if result.best is None or math.isnan(result.best):
            return math.inf
        return result.best if is_lower_better else -result.best

    return sorted(finished, key=place)


def pareto_front(results: Sequence[Result], are_lower_better: Sequence[bool]) -> list[Result]:
    """The finished runs that no other run beats: none is at least as good in every metric, and
    better in one. In their original order."""

    def costs(result: Result) -> list[float]:
        pairs = zip(result.measured, are_lower_better, strict=True)
        return [value if is_lower else -value for value, is_lower in pairs]

    measured = [each for each in results if each.state == "FINISHED" and each.measured]
    found = [(each, costs(each)) for each in measured]
    return [
        each
        for each, own in found
        if not any(
            other != own and all(b <= a for a, b in zip(own, other, strict=True))
            for _, other in found
        )
    ]


def importances(results: Sequence[Result], axes: Sequence[Axis]) -> dict[str, float]:
    """The importance of each option for the metric, the largest first: the part of the variance of
    the metric that it explains in a random forest (fANOVA, Hutter et al. 2014, by Optuna).

    Empty without Optuna, with fewer than four finished runs, if all have the same value, or if only
    one value of each option was tried.
    """
    finished = [
        each
        for each in results
        if each.state == "FINISHED" and each.best is not None and math.isfinite(each.best)
    ]
    varied = [axis for axis in axes if len({each.values[axis.key] for each in finished}) > 1]
    if len(finished) < 4 or len({each.best for each in finished}) < 2 or not varied:
        return {}
    try:
        import optuna
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    except ImportError:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental parts
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        study = optuna.create_study()
        for result in finished:
            params, distributions = {}, {}
            for axis in varied:
                params[axis.key], distributions[axis.key] = _param(axis, result, finished)
            trial = optuna.create_trial(
                params=params, distributions=distributions, value=result.best
            )
            study.add_trial(trial)
        try:
            found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        except (ImportError, RuntimeError, ValueError):
            return {}
    return {key: float(value) for key, value in found.items()}


def _param(axis: Axis, result: Result, finished: Sequence[Result]) -> tuple[Any, Any]:
    """The value of an option in a run, and Optuna's distribution of the option."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    text = result.values[axis.key]
    if axis.range is None:
        items = tuple(dict.fromkeys(each.values[axis.key] for each in finished))
        return text, CategoricalDistribution(items)
    low, high, log = axis.range
    return float(text), FloatDistribution(low, high, log=log)
