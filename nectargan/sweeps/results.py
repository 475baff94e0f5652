"""What came of the runs of a sweep, and which was the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from nectargan.analysis.last_values import best_of
from nectargan.record.run_directory import RunDirectory
from nectargan.sweeps.grid import GridOutcome
from nectargan.sweeps.search import Trial

_STATES = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}


class Result(NamedTuple):
    """A run of a sweep.

    Attributes:
        values: What was tried, as text, by dotted key.
        state: How the run stands.
        reason: Why it failed.
        best: Its best value of the metric, if it has one.
        directory: The run directory, if there is one, as the machine that has it calls it.
    """

    values: dict[str, str]
    state: str
    reason: str
    best: float | None
    directory: RunDirectory | None


def result_of_grid_point(outcome: GridOutcome, metric: str) -> Result:
    """The result of a grid point; the metric is read from its run directory."""
    point, state, directory, reason = outcome
    is_lower_better = point.config.validation.is_lower_better(metric)
    best = None if directory is None else best_of(directory, metric, is_lower_better)
    return Result(point.values, state, reason, None if best is None else best[0], directory)


def result_of_trial(trial: Trial) -> Result:
    """The result of a trial of a search."""
    state = _STATES.get(trial.state, trial.state)
    return Result(trial.values, state, trial.reason, trial.value, trial.directory)


def ranked(results: Sequence[Result], is_lower_better: bool) -> list[Result]:
    """The finished runs, the best one first; those without the metric, or with NaN, in their order
    behind the others."""
    finished = [each for each in results if each.state == "FINISHED" and each.directory is not None]

    def place(result: Result) -> float:
        if result.best is None or math.isnan(result.best):
            return math.inf
        return result.best if is_lower_better else -result.best

    return sorted(finished, key=place)
