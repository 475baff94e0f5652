from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nectargan.errors import LossError
from nectargan.losses.lm_data import LMLoss, check_series_name
from nectargan.scheduling.data import Schedule


def test_without_a_schedule_the_weight_is_the_schedules_value() -> None:
    loss = LMLoss(name="a", function=nn.L1Loss(), loss_weight=7.0)
    assert loss.schedule == Schedule()
    assert loss.schedule.current_value == 7.0
    assert loss.loss_weight == 7.0
    assert not loss.is_scheduled


def test_with_a_schedule_its_initial_value_is_the_weight() -> None:
    schedule = Schedule("linear", 100, 200, 100.0, 0.0)
    loss = LMLoss(name="a", function=nn.L1Loss(), loss_weight=7.0, schedule=schedule)
    assert loss.loss_weight == 100.0
    assert loss.schedule is schedule
    assert loss.is_scheduled


def test_two_losses_share_neither_weight_nor_tags() -> None:
    one = LMLoss(name="a", function=nn.L1Loss(), loss_weight=1.0)
    other = LMLoss(name="b", function=nn.L1Loss(), loss_weight=2.0)
    assert (one.schedule.current_value, other.schedule.current_value) == (1.0, 2.0)
    one.tags.append("x")  # type: ignore[attr-defined]
    assert other.tags == []


def test_one_default_schedule_given_to_two_losses_is_not_shared() -> None:
    default = Schedule()
    one = LMLoss("a", nn.L1Loss(), 1.0, default)
    other = LMLoss("b", nn.L1Loss(), 2.0, default)
    assert (one.schedule.current_value, other.schedule.current_value) == (1.0, 2.0)


def test_no_loss_map_before_the_first_computation() -> None:
    assert LMLoss("a", nn.L1Loss()).last_loss_map is None


@pytest.mark.parametrize("name", ["G_L1", "G/L1", "a.b-c d", "π", "x" * 200])
def test_names_that_every_sink_takes(name: str) -> None:
    check_series_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a,b",
        "NA",
        "none",
        "12",
        "1.5",
        "a\nb",
        'a"b',
        "a:b",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        " a",
        "a ",
        3,
        None,
        "x" * 201,
    ],
)
def test_names_that_some_sink_refuses(name: Any) -> None:
    with pytest.raises(LossError, match="cannot name a series"):
        LMLoss(name, nn.L1Loss())


def test_mlflow_takes_what_we_take() -> None:
    from mlflow.utils.validation import _validate_metric_name

    for name in ("G_L1", "G/L1", "a.b-c d", "π", "x" * 200):
        _validate_metric_name(f"loss/{name}/weighted")


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", None, True, torch.ones(1)])
def test_weights_are_finite_numbers(weight: Any) -> None:
    with pytest.raises(LossError, match="weight of loss 'a'"):
        LMLoss("a", nn.L1Loss(), weight)


def test_the_function_must_be_callable_and_tags_a_list() -> None:
    with pytest.raises(LossError, match="'l1'; it must be callable"):
        LMLoss("a", "l1")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="tags of loss 'a' are a string"):
        LMLoss("a", nn.L1Loss(), tags="G")


@pytest.mark.parametrize("schedule", [None, "linear", lambda schedule, epoch: 1.0])
def test_the_schedule_must_be_one(schedule: Any) -> None:
    with pytest.raises(LossError, match=r"schedule of loss 'a' is .*; it must be a Schedule"):
        LMLoss("a", nn.L1Loss(), schedule=schedule)


@pytest.mark.parametrize("tag", ["=1+1", "@a", "", " ", "a\x1b[31m", "a\nb", 5, None])
def test_what_cannot_be_a_tag(tag: Any) -> None:
    """Tags are written to files and printed, as names are."""
    with pytest.raises(LossError, match="cannot be a tag of loss 'a'; it must be printable text"):
        LMLoss("a", abs, tags=["good", tag])
