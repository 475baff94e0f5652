"""What a schedule function declares in its signature, and what follows from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval, Lt
from pydantic import Field

from nectargan.config.loss_options import ScheduleConfig
from nectargan.errors import ScheduleError
from nectargan.scheduling.arguments import check_arguments, declared_parameters
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.notation import format_number, notation_of, parse_notation
from nectargan.scheduling.schedules import schedule_map


def declared(
    schedule: Schedule,
    epoch: float,
    *,
    period: Annotated[int, Interval(ge=2, le=50), "Epochs of a wave."] = 10,
    part: Annotated[float, Interval(gt=0, lt=1)] = 0.5,
    gain: Annotated[float, Ge(0), Lt(8)] = 1.0,
    field: Annotated[float, Field(gt=2)] = 3.0,
    shape: Literal["saw", "sine"] = "saw",
    anything: Any = None,
    of_a_type_that_does_not_exist: Nowhere = None,  # type: ignore[name-defined]  # noqa: F821
) -> float:
    return float(period)


def test_the_signature_says_it_all() -> None:
    def short(
        schedule: Unknown,  # type: ignore[name-defined]  # noqa: F821
        epoch: float,
        *,
        period: Annotated[int, Interval(ge=2, le=50), "Epochs of a wave."] = 10,
    ) -> float:
        return 0.0

    (parameter,) = (declared_parameters(short) or {}).values()
    assert (parameter.type, parameter.default) == (int, 10)
    assert parameter.bounds == {"ge": 2, "le": 50}
    assert parameter.description == "Epochs of a wave."
    assert declared_parameters(lambda schedule, epoch, **given: 0.0) is None
    assert declared_parameters(schedule_map["linear"]) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"period": 1}, "period is 1; it must be a whole number >= 2 and <= 50"),
        ({"period": 51}, "period is 51"),
        ({"period": 2.5}, "period is 2.5; it must be a whole number"),
        ({"period": True}, "period is True"),
        ({"part": 0}, r"part is 0; it must be in \(0, 1\)"),
        ({"part": 1}, "part is 1"),
        ({"part": "x"}, "part is 'x'; it must be a finite number"),
        ({"gain": -1}, "gain is -1; it must be >= 0 and below 8"),
        ({"gain": 8.0}, "gain is 8.0"),
        ({"field": 2}, "field is 2; it must be above 2"),
        ({"shape": "square"}, "shape is 'square'; it must be 'saw' or 'sine'"),
        ({"perod": 3}, "has no argument perod .given: 3.* Did you mean 'period'"),
        ({"epoch": 3}, "has no argument epoch"),
    ],
)
def test_arguments_are_held_to_it(arguments: dict[str, Any], sentence: str) -> None:
    def function(
        schedule: Schedule,
        epoch: float,
        *,
        period: Annotated[int, Interval(ge=2, le=50)] = 10,
        part: Annotated[float, Interval(gt=0, lt=1)] = 0.5,
        gain: Annotated[float, Ge(0), Lt(8)] = 1.0,
        field: Annotated[float, Field(gt=2)] = 3.0,
        shape: Literal["saw", "sine"] = "saw",
        anything: Any = None,
    ) -> float:
        return 0.0

    with pytest.raises(ScheduleError, match=sentence):
        check_arguments("mine", function, arguments)
    with pytest.raises(ScheduleError, match=sentence):
        Schedule(function, **arguments)
    given = {"period": 2, "part": 0.1, "gain": 0, "shape": "sine", "anything": [1]}
    assert check_arguments("mine", function, given) == {**given, "field": 3.0}


def test_an_annotation_that_cannot_be_evaluated_is_ignored() -> None:
    assert check_arguments("mine", declared, {"period": -5})["period"] == -5
    with pytest.raises(ScheduleError, match="has no argument nothing"):
        check_arguments("mine", declared, {"nothing": 1})


def test_what_a_call_must_give_need_not_be_given_before() -> None:
    def custom(schedule: Schedule, epoch: float, gain: float) -> float:
        return gain * epoch

    assert Schedule(custom).value_at(3, gain=2.0) == 6.0
    assert Schedule(custom, gain=4.0).value_at(3) == 12.0
    assert Schedule(custom, arguments={"gain": 4.0}) == Schedule(custom, gain=4.0)


@pytest.mark.parametrize("name", sorted(schedule_map))
def test_config_and_notation_know_every_parameter(name: str) -> None:
    """Nothing but the function had to be told of them."""
    for key, parameter in (declared_parameters(schedule_map[name]) or {}).items():
        assert parameter.description
        option = ScheduleConfig.model_fields[key]
        assert option.description == f'{parameter.description} Only for "{name}".'
        if key == "points":
            continue
        other = parameter.default / 2 if parameter.type is float else parameter.default + 1
        schedule = Schedule(name, 1, 9, 0.0, 1.0, arguments={key: other})
        config = {"schedule": name, "end_epoch": 9, "initial_value": 0, key: other}
        assert ScheduleConfig.model_validate(config).build() == schedule
        assert f" {key}={format_number(other)}" in notation_of(schedule)
        assert Schedule(**parse_notation(notation_of(schedule))) == schedule
