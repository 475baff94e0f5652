"""How a config spells a loss: a number, a schedule, or a whole term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, create_model, model_validator
from pydantic_core import PydanticCustomError

from nectargan.config.base import MOST, Section
from nectargan.config.objectives import OPTIONAL, objective_weights
from nectargan.errors import NectarGANError, did_you_mean
from nectargan.imports import is_import_path
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.notation import parse_notation
from nectargan.scheduling.parameters import parameters_of
from nectargan.scheduling.schedules import Number, schedule_map

NO_LOSS = "no_loss"  # type of the error about a name that is no loss of the run

Moment = Annotated[float, Field(ge=-MOST, le=MOST)]  # an epoch, or between two


class _ScheduleConfig(Section):
    """A `Schedule` as a config file spells it; what is left out has the default of `Schedule`.

    May also be written in one line; see `nectargan.scheduling.notation`.
    """

    schedule: str | None = None
    """Name of a built-in schedule, such as "linear"."""
    function: str | None = None
    """In place of a built-in one: import path, "package.module.name", of a function of your own,
    fn(schedule, epoch, **arguments) -> float, without memory. It is imported when a run begins."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that function."""
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

    def build(self) -> Schedule:
        """The schedule itself, with a function of one's own not imported yet.

        Raises:
            ScheduleError: the numbers contradict each other; also `UnknownScheduleError`.
        """
        given = self.model_dump(exclude_none=True, exclude={"schedule", "function", "arguments"})
        return Schedule(self.function or self.schedule or "", arguments=self.arguments, **given)

    @model_validator(mode="before")
    @classmethod
    def _may_be_one_line(cls, value: object) -> object:
        try:
            given = parse_notation(value) if isinstance(value, str) else value
        except NectarGANError as error:
            raise ValueError(str(error)) from None
        if isinstance(given, dict) and is_import_path(given.get("schedule")):
            given = {
                "function": given["schedule"],
                **{k: given[k] for k in given if k != "schedule"},
            }
        return given

    @model_validator(mode="after")
    def _can_be_built(self) -> _ScheduleConfig:
        if (self.schedule is None) == (self.function is None):
            raise ValueError('it needs a "schedule" by name or a "function" of your own, not both')
        if self.arguments and self.function is None:
            raise ValueError("arguments are for a function; those of a schedule stand beside it")
        if self.function is not None:
            for name, value in self:
                if name not in _ScheduleConfig.model_fields and value is not None:
                    raise ValueError(f"give {name} to the function, in its arguments")
            if not is_import_path(self.function):
                raise ValueError(f'the function "{self.function}" is not package.module.name')
        try:
            self.build()
        except NectarGANError as error:
            raise ValueError(str(error)) from None
        return self


def _parameters() -> dict[str, Any]:
    """A field for each parameter of a built-in schedule, as its function declares it."""
    return {
        name: (
            parameter.annotation | None,
            Field(None, description=f'{parameter.description} Of "{schedule}".'),
        )
        for schedule, function in schedule_map.items()
        for name, parameter in (parameters_of(function) or {}).items()
    }


if TYPE_CHECKING:
    ScheduleConfig = _ScheduleConfig
else:
    ScheduleConfig = create_model(
        "ScheduleConfig",
        __base__=_ScheduleConfig,
        __module__=__name__,
        __doc__=_ScheduleConfig.__doc__,
        **_parameters(),
    )


def _weight_kind(value: object) -> str | None:
    if isinstance(value, (ScheduleConfig, str, dict)):
        return "schedule"
    return "number" if type(value) in (int, float) else None


def _option_kind(value: object) -> str | None:
    if isinstance(value, LossTerm) or (isinstance(value, dict) and "schedule" not in value):
        return "term"
    return _weight_kind(value)


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
    # A function alone could be that of a term as well.
    | Annotated[
        ScheduleConfig, Tag("schedule"), Field(json_schema_extra={"required": ["schedule"]})
    ]
    | Annotated[LossTerm, Tag("term")],
    Discriminator(
        _option_kind,
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
