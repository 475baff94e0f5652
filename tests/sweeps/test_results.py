from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.config.schema import Config
from nectargan.record.ledger import MetricRow
from nectargan.record.run_directory import RunDirectory
from nectargan.sweeps.grid import GridOutcome, GridPoint
from nectargan.sweeps.results import Result, ranked, result_of_grid_point, result_of_trial
from nectargan.sweeps.search import Trial

VALUES = st.none() | st.floats(allow_infinity=False)


def result(best: float | None, name: str = "run", state: str = "FINISHED") -> Result:
    return Result({"train.loss.G_L1": "1"}, state, "", best, RunDirectory(name))


@given(st.lists(VALUES), st.booleans())
def test_the_best_comes_first_and_what_has_no_value_last(
    values: list[float | None], is_lower_better: bool
) -> None:
    results = [result(value, str(number)) for number, value in enumerate(values)]
    found = ranked(results, is_lower_better)
    assert sorted(map(id, found)) == sorted(map(id, results))
    numbers = [each.best for each in found if each.best is not None and not math.isnan(each.best)]
    assert numbers == sorted(numbers, reverse=not is_lower_better)
    rest = found[len(numbers) :]
    assert all(each.best is None or math.isnan(each.best) for each in rest)
    # What is equal, or has no value, keeps its order.
    assert [each.directory for each in rest] == [r.directory for r in results if r in rest]


@pytest.mark.parametrize("state", ["NEW", "RUNNING", "UNFINISHED", "FAILED", "WAITING"])
def test_only_finished_runs_with_a_directory_are_ranked(state: str) -> None:
    one = result(0.5)
    elsewhere = one._replace(directory=None, best=0.9)
    assert ranked([result(0.9, state=state), elsewhere, one], False) == [one]


@pytest.mark.parametrize(("metric", "best"), [("val/ssim", 0.75), ("val/l1", 0.25)])
def test_a_cell_has_the_best_value_of_its_run(
    tiny: Callable[..., Config], tmp_path: Path, metric: str, best: float
) -> None:
    """A number that is not finite is no best value."""
    rows = [
        MetricRow(3 * epoch, epoch, 0, metric, value)
        for epoch, value in enumerate([0.5, 0.75, math.nan, 0.25, math.inf], 1)
    ]
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    run = RunDirectory(tmp_path)
    run.metrics.write_text("step,epoch,time,metric,value\n" + text)
    point = GridPoint({"train.loss.G_L1": "1"}, tiny())
    found = result_of_grid_point(GridOutcome(point, "FINISHED", run), metric)
    assert found == Result(point.values, "FINISHED", "", best, run)
    assert result_of_grid_point(GridOutcome(point, "FAILED", None, "no room"), metric) == Result(
        point.values, "FAILED", "no room", None, None
    )


@pytest.mark.parametrize(
    ("optunas", "state"), [("COMPLETE", "FINISHED"), ("FAIL", "FAILED"), ("RUNNING", "RUNNING")]
)
def test_a_trial_stands_as_a_run_does(optunas: str, state: str) -> None:
    trial = Trial(0, optunas, {"a": "1"}, 0.5, RunDirectory("runs/a_v1"), "why")
    assert result_of_trial(trial) == Result(
        {"a": "1"}, state, "why", 0.5, RunDirectory("runs/a_v1")
    )
