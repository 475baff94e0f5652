from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.scheduling import Schedule, Scheduler


@given(epoch=st.floats(0, 300))
def test_epochs_count_from_zero(epoch: float) -> None:
    schedule = Schedule("linear", 100, 200, 100.0, 0.0)
    assert Scheduler(schedule).eval_schedule(epoch) == schedule.value_at(epoch + 1)


def test_the_value_is_kept() -> None:
    schedule = Schedule("linear", 1, 11, 0.0, 1.0)
    assert Scheduler(schedule).eval_schedule(5) == pytest.approx(0.5)
    assert schedule.current_value == pytest.approx(0.5)
