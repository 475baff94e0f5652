"""How a config spells a loss: a number, a schedule, or a whole term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from nectargan.config.base import MOST, Count, Number, Section
from nectargan.config.objectives import OPTIONAL, objective_weights
from nectargan.errors import NectarGANError, did_you_mean
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.notation import parse_notation

NO_LOSS = "no_loss"  # type of the error about a name that is no loss of the run

Moment = Annotated[float, Field(ge=-MOST, le=MOST)]  # an epoch, or between two


class ScheduleConfig(Section):
    """A `Schedule` as a config file spells it; what is left out has the default of `Schedule`.

    May also be written in one line; see `nectargan.scheduling.notation`.
    """

    schedule: str
    """Name of a built-in schedule, such as "linear"."""
    start_epoch: Moment | None = None
    """Last epoch with the initial value; epochs count from 1."""
    end_epoch: Moment | None = None
    """First epoch with the target value."""
    initial_value: Number | None = None
    """Value up to and in start_epoch."""
    target_value: Number | None = None
    """Value from end_epoch on."""
    interval: Literal["epoch", "step"] | None = None
    """Whether the value changes between epochs or moves with every step."""
    power: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None
    """Exponent of "polynomial"."""
    cycles: Count | None = None
    """Number of cycles of "cyclical"."""
    ramp: float | None = None
    """Part of a cycle that the ramp of "cyclical" takes, in (0, 1]."""
    steps: Count | None = None
    """Number of jumps of "step"."""
    points: Annotated[list[list[Number]], Field(max_length=10_000)] | None = None
    """[epoch, value] pairs of "piecewise"."""

    def build(self) -> Schedule:
        """The schedule itself; raises `ScheduleError` or `UnknownScheduleError`."""
        return Schedule(**self.model_dump(exclude_none=True))

    @model_validator(mode="before")
    @classmethod
    def _may_be_one_line(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return parse_notation(value)
        except NectarGANError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _can_be_built(self) -> ScheduleConfig:
        try:
            self.build()
        except NectarGANError as error:
            raise ValueError(str(error)) from None
        return self


def _weight_kind(value: object) -> str | None:
    if isinstance(value, (ScheduleConfig, str)):
        return "schedule"
    if isinstance(value, dict):
        return "schedule" if "schedule" in value else "term"
    if type(value) in (int, float):
        return "number"
    return "term" if isinstance(value, LossTerm) else None


Weight = Annotated[
    Annotated[Number, Tag("number")] | Annotated[ScheduleConfig, Tag("schedule")],
    Discriminator(
        _weight_kind,
        custom_error_type="weight",
        custom_error_message="it must be a number or a schedule",
    ),
]


class LossTerm(Section):
    """A whole loss: a new one, or another function, weight or tags for a registered one."""

    function: str | None = None
    """Importable `nn.Module` class, "package.module.Class"; it gets (generated, target). May be
    left out for a loss of the objective, which then keeps its own."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class."""
    weight: Weight | None = None
    """Weight, a number or a schedule. Left out: that of the objective, or 1 for a new loss."""
    tags: list[str] | None = None
    """Labels to query the LossManager by. Left out: those of the objective, or "G"."""

    @model_validator(mode="after")
    def _arguments_have_a_function(self) -> LossTerm:
        if self.arguments and self.function is None:
            raise ValueError("arguments need a function to be given to")
        return self


Option = float | ScheduleConfig | LossTerm
LossOption = Annotated[
    Annotated[Number, Tag("number")]
    | Annotated[ScheduleConfig, Tag("schedule")]
    | Annotated[LossTerm, Tag("term")],
    Discriminator(
        _weight_kind,
        custom_error_type="loss_option",
        custom_error_message="it must be a number, a schedule or a whole term",
    ),
]


def weight_of(option: float | ScheduleConfig | LossTerm) -> float | ScheduleConfig:
    """The weight of a resolved loss."""
    if not isinstance(option, LossTerm):
        return option
    return 1.0 if option.weight is None else option.weight


def resolve_losses(objective: str, given: Mapping[str, Option]) -> dict[str, Option]:
    """Every loss of a run with its weight: those of the objective, and those that were given.

    Raises:
        PydanticCustomError: a name is neither the objective's nor that of a whole term.
    """
    own, everything = objective_weights(objective), objective_weights()
    options: dict[str, Option] = dict(own)
    for name, option in given.items():
        is_whole = isinstance(option, LossTerm) and option.function is not None
        if name not in own and not is_whole and (name not in OPTIONAL or option == 0):
            if option == 0 and name in everything | OPTIONAL:
                continue  # a migrated config of v0.2.3 has all of them
            reason = _not_a_loss(name, objective, own, everything)
            raise PydanticCustomError(NO_LOSS, "{reason}", {"reason": reason, "loss": name})
        if isinstance(option, LossTerm) and option.weight is None:
            option = option.model_copy(update={"weight": (OPTIONAL | own).get(name, 1.0)})
        options[name] = option
    return options


def _not_a_loss(
    name: str, objective: str, own: Mapping[str, float], everything: Mapping[str, float]
) -> str:
    if name in everything:
        return (
            f"has a weight, but objective '{objective}' does not have that loss; choose another "
            "train.objective, or give it a 'function'."
        )
    return (
        f"is not a loss of objective '{objective}', and no whole term with a 'function'."
        f"{did_you_mean(name, [*own, *OPTIONAL])}"
    )
