from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.record.running_means import RunningMeans, StepValues


def values(step: int, epoch: int = 1, **metrics: float) -> StepValues:
    return StepValues(step, epoch, 1000 + step, metrics, {"cosine": float(step)})


def test_windows_can_end_at_multiples_and_epochs() -> None:
    means = RunningMeans(3)
    done = [each for step in range(1, 8) for each in means.add(values(step, a=step))]
    assert done == [
        StepValues(3, 1, 1003, {"a": 2.0}, {}),
        StepValues(6, 1, 1006, {"a": 5.0}, {}),
    ]
    assert means.end_epoch() == {"a": 7.0, "cosine": 4.0}
    assert means.end_epoch() == {}


def test_a_loop_that_ends_no_epoch_averages_over_none_of_two() -> None:
    means = RunningMeans(10)
    assert means.add(values(1, 1, a=1.0)) == means.add(values(2, 1, a=3.0)) == []
    assert means.add(values(3, 2, a=7.0)) == [StepValues(2, 1, 1002, {"a": 2.0}, {})]
    assert means.end_epoch() == {"a": 7.0, "cosine": 3.0}


def test_a_series_may_miss_steps_and_whole_windows() -> None:
    """As a regularisation that is computed at every fourth step."""
    means, done = RunningMeans(2), []
    for step in range(1, 9):
        done += means.add(values(step, **({"r1": step} if step % 4 == 1 else {})))
    assert done == [
        StepValues(2, 1, 1002, {"r1": 1.0}, {}),
        StepValues(6, 1, 1006, {"r1": 5.0}, {}),
    ]


def test_cosines_that_are_undefined_are_left_out_and_other_values_are_not() -> None:
    means = RunningMeans(2)
    for step, value in ((1, 0.5), (2, math.nan), (3, 1.0)):
        done = means.add(StepValues(step, 1, 0, {"a": value}, {"one": value, "none": math.nan}))
        assert len(done) == (step == 2)
        if done:
            assert math.isnan(done[0].metrics["a"])
    assert means.end_epoch() == {"a": 1.0, "one": 0.75}


@given(
    numbers=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    stop=st.integers(0, 20),
    window=st.integers(1, 6),
)
def test_a_checkpoint_goes_on_with_the_same_sums(
    numbers: list[float], stop: int, window: int
) -> None:
    whole, before, after = RunningMeans(window), RunningMeans(window), RunningMeans(window)
    expected, found = [], []
    for step, number in enumerate(numbers, start=1):
        if step - 1 == stop:
            after.restore(json.loads(json.dumps(before.state())))
        half = before if step - 1 < stop else after
        expected += whole.add(values(step, a=number))
        found += half.add(values(step, a=number))
    assert found == expected
    if stop < len(numbers):
        assert after.end_epoch() == whole.end_epoch()


def test_the_mean_is_not_that_of_the_means() -> None:
    means = RunningMeans(100)
    for step, number in enumerate((1.0, 1.0, 1.0, 5.0), start=1):
        means.add(values(step, a=number))
    assert means.end_epoch()["a"] == pytest.approx(2.0)
