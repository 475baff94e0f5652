from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nectargan.scheduling.data import Schedule
from nectargan.scheduling.schedules import schedule_map

BETWEEN_ENDS = sorted(set(schedule_map) - {"constant", "piecewise"})
MONOTONE = sorted(set(BETWEEN_ENDS) - {"cyclical"})

values = st.floats(-1e6, 1e6).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
starts = st.integers(0, 500)
lengths = st.integers(1, 500)


def make(name: str, start: float, length: float, a: float, b: float, **extra: Any) -> Schedule:
    return Schedule(name, start, start + length, a, b, **extra)


@pytest.mark.parametrize("name", BETWEEN_ENDS)
@given(start=starts, length=lengths, a=values, b=values, far=st.floats(0, 1e6))
def test_exact_at_and_beyond_both_ends(
    name: str, start: int, length: int, a: float, b: float, far: float
) -> None:
    schedule = make(name, start, length, a, b)
    assert schedule.value_at(start) == schedule.value_at(start - far) == a
    assert schedule.value_at(start + length) == schedule.value_at(start + length + far) == b


@pytest.mark.parametrize("name", BETWEEN_ENDS)
@given(length=lengths, a=values, b=values, t=st.floats(0, 1))
def test_values_stay_between_the_ends(name: str, length: int, a: float, b: float, t: float) -> None:
    value = make(name, 1, length, a, b).value_at(1 + t * length)
    slack = 1e-9 * max(abs(a), abs(b))
    assert min(a, b) - slack <= value <= max(a, b) + slack


@pytest.mark.parametrize("name", MONOTONE)
@given(length=lengths, a=values, b=values, t=st.floats(0, 1), u=st.floats(0, 1))
def test_values_never_turn_back(
    name: str, length: int, a: float, b: float, t: float, u: float
) -> None:
    schedule = make(name, 1, length, a, b)
    first, second = (schedule.value_at(1 + x * length) for x in sorted((t, u)))
    slack = 1e-9 * max(abs(a), abs(b))
    assert (second - first) * (1 if b >= a else -1) >= -slack


@pytest.mark.parametrize("name", sorted(schedule_map))
@given(epochs=st.lists(st.floats(0, 40), min_size=2, max_size=6))
def test_a_schedule_has_no_memory(name: str, epochs: list[float]) -> None:
    def fresh() -> Schedule:
        points = [(3, 5.0), (20, -1.0)] if name == "piecewise" else []
        return Schedule(name, points=points) if points else make(name, 3, 17, 5.0, -1.0)

    used = fresh()
    before = used.value_at(epochs[0])
    for epoch in epochs:
        assert used.value_at(epoch) == fresh().value_at(epoch)
    assert used.value_at(epochs[0]) == before
    assert used == fresh()
    assert used.current_value == fresh().current_value


def test_the_page_of_the_founder() -> None:
    schedule = Schedule(
        schedule="linear", start_epoch=100, end_epoch=200, initial_value=100.0, target_value=0.0
    )
    at = {1: 100.0, 99: 100.0, 100: 100.0, 101: 99.0, 150: 50.0, 199: 1.0, 200: 0.0, 999: 0.0}
    assert {epoch: schedule.value_at(epoch) for epoch in at} == pytest.approx(at)


@pytest.mark.parametrize(
    ("name", "extra", "c"),
    [
        ("linear", {}, lambda t: t),
        ("cosine", {}, lambda t: (1 - math.cos(math.pi * t)) / 2),
        ("polynomial", {"power": 3.0}, lambda t: 1 - (1 - t) ** 3),
        ("polynomial", {"power": 0.5}, lambda t: 1 - (1 - t) ** 0.5),
        ("step", {"steps": 5}, lambda t: math.floor(5 * t) / 5),
        ("step", {"steps": 1}, lambda t: 0.0),
        ("cyclical", {"cycles": 4, "ramp": 0.5}, lambda t: min(1, 4 * t % 1 / 0.5)),
        ("cyclical", {"cycles": 3, "ramp": 1.0}, lambda t: 3 * t % 1),
    ],
)
@given(t=st.floats(0.001, 0.999), a=values, b=values)
def test_closed_forms(
    name: str, extra: dict[str, Any], c: Any, t: float, a: float, b: float
) -> None:
    epoch = 10 + 64 * t
    t = (epoch - 10) / 64
    expected = a + (b - a) * c(t)
    got = make(name, 10, 64, a, b, **extra).value_at(epoch)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(abs(a), abs(b), 1))


def test_constant_is_the_initial_value() -> None:
    assert Schedule("constant", 1, 5, 3.0, 9.0).value_at(4) == 3.0


@given(
    a=st.floats(1e-3, 1e3),
    ratio=st.floats(1e-5, 1e5),
    sign=st.sampled_from([1, -1]),
    t=st.floats(0, 1),
)
def test_exponential_has_a_constant_ratio(a: float, ratio: float, sign: int, t: float) -> None:
    schedule = make("exponential", 1, 100, sign * a, sign * a * ratio)
    expected = sign * a * ratio**t
    assert schedule.value_at(1 + 100 * t) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -2.0), (-1.0, 4.0)]
)
def test_exponential_with_an_end_at_zero_or_two_signs(a: float, b: float) -> None:
    schedule = make("exponential", 0, 90, a, b)
    # The stand-in ratio spans three decades: a third of the way is one of them.
    late = abs(b) > abs(a)
    c = (10 - 1) / (1000 - 1) if late else (0.1 - 1) / (0.001 - 1)
    assert schedule.value_at(30) == pytest.approx(a + (b - a) * c)


def test_exponential_of_extreme_ends_stays_finite() -> None:
    for a, b in [(5e-324, 1e308), (1e308, 5e-324), (-8e307, 8e307)]:
        schedule = make("exponential", 1, 10, a, b)
        assert all(math.isfinite(schedule.value_at(e / 7)) for e in range(100))


@given(
    points=st.lists(
        st.tuples(st.integers(1, 300), values), min_size=1, max_size=6, unique_by=lambda p: p[0]
    ),
    epoch=st.floats(0, 310),
)
def test_piecewise_is_numpy_interp(points: list[tuple[int, float]], epoch: float) -> None:
    points.sort()
    schedule = Schedule("piecewise", points=points)
    expected = np.interp(epoch, *zip(*points, strict=True))
    assert schedule.value_at(epoch) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    for at, value in points:
        assert schedule.value_at(at) == value


def rates(torch_scheduler: Any, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    seen = []
    for _ in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torch_scheduler.step()
    return seen


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def test_cosine_and_exponential_agree_with_torch() -> None:
    lr = torch.optim.lr_scheduler
    optimizer = sgd(0.5)
    cosine = rates(lr.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1), optimizer, 21)
    ours = make("cosine", 1, 20, 0.5, 0.1)
    assert [ours.value_at(e) for e in range(1, 22)] == pytest.approx(cosine)
    optimizer = sgd(0.5)
    falling = rates(lr.ExponentialLR(optimizer, gamma=0.8), optimizer, 21)
    ours = make("exponential", 1, 20, 0.5, 0.5 * 0.8**20)
    assert [ours.value_at(e) for e in range(1, 22)] == pytest.approx(falling)


def test_step_goes_down_as_step_lr_does() -> None:
    # Four jumps in 20 epochs; StepLR multiplies, so the drops are compared by their places.
    ours = make("step", 1, 20, 1.0, 0.0, steps=4)
    seen = [ours.value_at(e) for e in range(1, 22)]
    assert seen == [1.0] * 5 + [0.75] * 5 + [0.5] * 5 + [0.25] * 5 + [0.0]


def test_keywords_override_the_fields_for_one_call() -> None:
    schedule = make("polynomial", 0, 10, 0.0, 1.0, power=1.0)
    assert schedule.value_at(5, power=2.0) == 0.75
    assert schedule.value_at(5) == 0.5
    assert schedule_map["cyclical"](make("cyclical", 0, 10, 0.0, 1.0), 2.5, cycles=1) == 0.5
    assert schedule_map["step"](make("step", 0, 10, 0.0, 1.0), 5, steps=2) == 0.5


@given(start=st.integers(0, 400), steps=st.integers(1, 60), stride=st.integers(1, 8))
def test_every_jump_comes_in_its_own_epoch(start: int, steps: int, stride: int) -> None:
    # floor(steps * t) of a rounded t is one short for 22 jumps in 22 epochs, in the 15th of them.
    schedule = make("step", start, steps * stride, 0.0, float(steps), steps=steps)
    seen = [schedule.value_at(start + epoch) for epoch in range(steps * stride + 1)]
    assert seen == pytest.approx([epoch // stride for epoch in range(steps * stride + 1)])


@given(start=st.integers(0, 400), cycles=st.integers(1, 30), stride=st.integers(1, 30))
def test_every_cycle_begins_at_the_initial_value(start: int, cycles: int, stride: int) -> None:
    schedule = make("cyclical", start, cycles * stride, 3.0, -5.0, cycles=cycles)
    assert [schedule.value_at(start + cycle * stride) for cycle in range(cycles)] == [3.0] * cycles


def test_the_default_extras_are_those_that_are_documented() -> None:
    stairs, waves = make("step", 0, 8, 0.0, 8.0), make("cyclical", 0, 16, 0.0, 1.0)
    assert [stairs.value_at(epoch) for epoch in range(9)] == [0, 0, 2, 2, 4, 4, 6, 6, 8]
    assert [waves.value_at(epoch) for epoch in range(17)] == [0, 0.5, 1, 1] * 4 + [1]
    assert make("polynomial", 0, 2, 1.0, 0.0).value_at(1) == 0.25
