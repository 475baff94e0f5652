"""A schedule in one line, there and back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.config.config_manager import ConfigManager
from nectargan.config.loss_options import ScheduleConfig
from nectargan.errors import ConfigError, ScheduleError
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.notation import notation_of, parse_notation

VALUES = st.floats(-1e6, 1e6, allow_nan=False)
EPOCHS = st.integers(1, 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear 100->0 @ 100-200", Schedule("linear", 100, 200, 100.0, 0.0)),
        ("linear 100→0 @ 100–200", Schedule("linear", 100, 200, 100.0, 0.0)),
        ("linear 1e-3->-1e-5@1-20", Schedule("linear", 1, 20, 1e-3, -1e-5)),
        (
            "polynomial 1->0 @ 1-50 power=3 interval=step",
            Schedule("polynomial", 1, 50, 1.0, 0.0, power=3, interval="step"),
        ),
        (
            "cyclical 0->1 @ 1-50 cycles=2 ramp=.25",
            Schedule("cyclical", 1, 50, 0, 1, cycles=2, ramp=0.25),
        ),
        ("constant 5", Schedule("constant", initial_value=5.0, target_value=5.0)),
        ("piecewise 1:0 10:1 20:0.5", Schedule("piecewise", points=[(1, 0), (10, 1), (20, 0.5)])),
    ],
)
def test_what_can_be_written(text: str, expected: Schedule) -> None:
    assert Schedule(**parse_notation(text)) == expected


@given(
    name=st.sampled_from(["linear", "exponential", "cosine", "step", "cyclical"]),
    a=VALUES,
    b=VALUES,
    start=EPOCHS,
    length=EPOCHS,
    interval=st.sampled_from(["epoch", "step"]),
)
def test_there_and_back(
    name: str, a: float, b: float, start: int, length: int, interval: Any
) -> None:
    schedule = Schedule(name, start, start + length, a, b, interval=interval)
    assert Schedule(**parse_notation(notation_of(schedule))) == schedule


def test_the_notation_of_the_issue() -> None:
    assert notation_of(Schedule("linear", 100, 200, 100.0, 0.0)) == "linear 100→0 @ 100–200"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linear",
        "linear 1->",
        "linear 1->0",
        "linear 1->0 @ 5",
        "constant",
        "constant a",
        "piecewise",
        "piecewise 1:",
        "linear 1->0 @ 1-2 speed=3",
        "linear 1->0 @ 1-2 power=x",
        "step 1->0 @ 1-9 steps=2 steps=3",
        "linear nan->0 @ 1-2",
        "1.0",
    ],
)
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"Schedule|schedule"):
        parse_notation(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ScheduleError):
        parse_notation(text)


def test_configs_take_it_wherever_they_take_a_schedule() -> None:
    long = {
        "schedule": "linear",
        "start_epoch": 1,
        "end_epoch": 20,
        "initial_value": 0.0,
        "target_value": 1.0,
    }
    short = "linear 0->1 @ 1-20"
    for loss in (
        lambda s: {"loss": {"G_GAN": s}},
        lambda s: {"loss": {"G_GAN": {"weight": s}}},
        lambda s: {"generator": {"learning_rate": {"schedule": s}}},
    ):
        data = ConfigManager({"train": loss(short)}).data
        assert data == ConfigManager({"train": loss(long)}).data
        assert ConfigManager(data.model_dump(mode="json")).data == data
    assert isinstance(
        ConfigManager(None, [("train.loss.G_L1", "constant 5")]).data.train.loss["G_L1"],
        ScheduleConfig,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lineal 0->1 @ 1-20", "Did you mean 'linear'"),
        ("linear 0->1 @ 20-1", "before it starts"),
        ("much", "'much' is not a schedule"),
    ],
)
def test_a_config_says_what_is_wrong_with_it(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.loss\.G_GAN") as error:
        ConfigManager({"train": {"loss": {"G_GAN": text}}})
    assert expected in str(error.value)
