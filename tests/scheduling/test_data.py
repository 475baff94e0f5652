from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.errors import NectarGANError, ScheduleError, UnknownScheduleError
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.schedules import schedule_map


def test_the_default_schedule_stays_equal_after_use() -> None:
    used = Schedule()
    used.current_value = 17.0
    assert used == Schedule()
    assert used.value_at(40) == 1.0
    assert Schedule() == Schedule()
    assert used != Schedule("linear", 1, 2, 1.0, 0.0)


def test_current_value_begins_with_the_initial_one() -> None:
    assert Schedule("linear", 1, 2, 7.0, 0.0).current_value == 7.0
    assert Schedule("piecewise", points=[(1, 4), (2, 5)]).current_value == 4.0


@pytest.mark.parametrize("given_schedule", ["lineal", "", "LINEAR", 3, None, ["linear"]])
def test_an_unknown_schedule_is_both_errors_and_says_what_is_allowed(given_schedule: Any) -> None:
    for kind in (TypeError, KeyError, NectarGANError, UnknownScheduleError):
        with pytest.raises(kind) as caught:
            Schedule(schedule=given_schedule)
    text = str(caught.value)
    assert repr(given_schedule) in text
    assert all(name in text for name in schedule_map)
    assert not text.startswith(('"', "'\\"))


def test_a_near_miss_gets_a_suggestion() -> None:
    with pytest.raises(UnknownScheduleError, match="Did you mean 'cosine'"):
        Schedule("cosin")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"start_epoch": 5, "end_epoch": 4}, "ends in epoch 4, before it starts in epoch 5"),
        ({"initial_value": 2.0}, "end_epoch must be after start_epoch"),
        ({"initial_value": float("nan")}, "initial_value is nan; it must be a finite number"),
        ({"target_value": float("inf")}, "target_value is inf"),
        ({"start_epoch": "1"}, "start_epoch is '1'"),
        ({"start_epoch": True}, "start_epoch is True"),
        ({"schedule": "polynomial", "power": 0}, "power is 0; it must be above 0"),
        ({"schedule": "cyclical", "cycles": 0}, "cycles is 0; it must be a whole number >= 1"),
        ({"schedule": "cyclical", "cycles": 1.5}, "cycles is 1.5"),
        ({"schedule": "cyclical", "ramp": 1.5}, r"ramp is 1.5; it must be in \(0, 1\]"),
        ({"schedule": "cyclical", "ramp": 0}, "ramp is 0"),
        ({"schedule": "step", "steps": -1}, "steps is -1"),
        ({"power": 3.0}, "'linear' has no argument power"),
        ({"schedule": "cosine", "points": [(1, 2)]}, "'cosine' has no argument points"),
        ({"schedule": "piecewise"}, "needs points with increasing epochs"),
        ({"schedule": "piecewise", "points": [(2, 1), (1, 1)]}, "needs points with increasing"),
        ({"schedule": "piecewise", "points": [(1, 1), (1, 2)]}, "needs points with increasing"),
        ({"schedule": "piecewise", "points": [(1, 2, 3)]}, r"Point 1 .* must be \[epoch, value\]"),
        ({"schedule": "piecewise", "points": ["ab"]}, "Point 1 of a schedule is 'ab'"),
        ({"schedule": "piecewise", "points": [(1, "x")]}, "value of point 1 is 'x'"),
        ({"schedule": "piecewise", "points": [(float("nan"), 1)]}, "epoch of point 1 is nan"),
        ({"schedule": "piecewise", "points": [(1, 1), (None, 2)]}, "epoch of point 2 is None"),
        ({"schedule": "piecewise", "points": 5}, r"points is 5; it must be a list of \[epoch, v"),
        ({"schedule": "piecewise", "points": "12"}, "points is '12'; it must be a list"),
        ({"schedule": "piecewise", "points": np.ones(2)}, "points is array.*; it must be a list"),
        (
            {"schedule": "linear", "points": np.ones(2)},
            "'linear' has no argument points .given: array",
        ),
        (
            {"schedule": "piecewise", "points": [(1, 5.0), (2, 6.0)], "initial_value": 4.0},
            "initial_value 4.0, but its points give 5.0",
        ),
        ({"interval": "batch"}, "interval is 'batch'; it must be 'epoch' or 'step'"),
    ],
)
def test_contradictions_are_found_when_it_is_made(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ScheduleError, match=sentence):
        Schedule(**options)


def test_numbers_of_numpy_are_numbers() -> None:
    schedule = Schedule("linear", np.int64(1), np.float32(3), np.float64(1), np.float32(0))
    assert schedule.value_at(2) == 0.5
    assert Schedule(lambda schedule, epoch: np.float32(0.5)).value_at(1) == 0.5


def test_piecewise_takes_its_ends_from_the_points() -> None:
    schedule = Schedule("piecewise", points=[[3, 1.5], [9, -2.0]])  # type: ignore[list-item]
    ends = (schedule.start_epoch, schedule.end_epoch)
    assert ends == (3, 9)
    assert (schedule.initial_value, schedule.target_value) == (1.5, -2.0)


def test_points_are_taken_over_not_shared() -> None:
    points = [[1, 4.0], [2, 5.0]]
    schedule = Schedule("piecewise", points=points)  # type: ignore[arg-type]
    points[1][1] = 9.0
    points.append([3, 6.0])
    assert schedule == Schedule("piecewise", points=((1, 4.0), (2, 5.0)))
    assert schedule.value_at(9) == 5.0


@given(start=st.integers(1, 50), length=st.integers(1, 50), a=st.floats(-9, 9), b=st.floats(-9, 9))
def test_equal_arguments_make_equal_schedules(start: int, length: int, a: float, b: float) -> None:
    one, other = (Schedule("cosine", start, start + length, a, b) for _ in range(2))
    one.current_value = one.value_at(start + length / 2)
    assert one == other


def test_a_callable_gets_the_schedule_and_the_keywords() -> None:
    seen = []

    def custom(schedule: Schedule, epoch: float, gain: float = 1.0) -> float:
        seen.append((schedule, epoch, gain))
        return schedule.initial_value * gain + epoch

    schedule = Schedule(custom, initial_value=10.0)
    assert schedule.value_at(3) == 13.0
    assert schedule.value_at(4, gain=2.0) == 24.0
    assert seen == [(schedule, 3, 1.0), (schedule, 4, 2.0)]
    assert schedule.name == "custom"
    assert Schedule("cosine").name == "cosine"


@pytest.mark.parametrize("result", [float("nan"), float("inf"), "3", None])
def test_a_callable_must_return_a_finite_number(result: Any) -> None:
    with pytest.raises(ScheduleError, match="must return a finite number"):
        Schedule(lambda schedule, epoch: result).value_at(2)
