"""The section ``train.loss`` of a config: a loss is a number, a schedule, a share or a term."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, create_model, model_validator
from pydantic_core import PydanticCustomError

from nectargan.config.base import MOST, NotNegative, Positive, Section
from nectargan.config.objectives import OPTIONAL, PENALTY, objective_weights
from nectargan.errors import NectarGANError, did_you_mean
from nectargan.imports import is_import_path
from nectargan.scheduling.arguments import declared_parameters
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.notation import format_number, notation_of, parse_notation
from nectargan.scheduling.schedules import Number, schedule_map

NO_LOSS = "no_loss"  # the type of the pydantic error about an unknown loss

Moment = Annotated[float, Field(ge=-MOST, le=MOST)]  # an epoch; fractions are allowed


class _ScheduleConfig(Section):
    """A schedule in a config file. Missing fields have the default values of `Schedule`.

    A schedule may also be written in one line; see `nectargan.scheduling.notation`.
    """

    schedule: str | None = None
    """Name of a built-in schedule, such as "linear"."""
    function: str | None = None
    """Instead of a built-in schedule: import path, "package.module.name", of your own function
    fn(schedule, epoch, **arguments) -> float. The value must depend only on the arguments. The
    function is imported when a run starts."""
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
    """Whether the value changes between epochs ("epoch") or at every step ("step")."""

    def build(self) -> Schedule:
        """Makes the `Schedule`; a custom function is not imported yet.

        Raises:
            ScheduleError: If the fields contradict each other.
            UnknownScheduleError: If there is no such built-in schedule.
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
            raise ValueError(
                'it needs either a "schedule" (a built-in name) or a "function" (an import path)'
            )
        if self.arguments and self.function is None:
            raise ValueError(
                "arguments are only for a function; write those of a built-in schedule as keys of "
                "this section"
            )
        if self.function is not None:
            for name, value in self:
                if name not in _ScheduleConfig.model_fields and value is not None:
                    raise ValueError(f"{name} of a function must be given in arguments")
            if not is_import_path(self.function):
                raise ValueError(f'the function "{self.function}" is not package.module.name')
        try:
            self.build()
        except NectarGANError as error:
            raise ValueError(str(error)) from None
        return self


def _parameters() -> dict[str, Any]:
    """A config field for each parameter that a built-in schedule function declares."""
    return {
        name: (
            parameter.annotation | None,
            Field(None, description=f'{parameter.description} Only for "{schedule}".'),
        )
        for schedule, function in schedule_map.items()
        for name, parameter in (declared_parameters(function) or {}).items()
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
    if isinstance(value, ShareConfig) or _begins_with_share(value):
        return "share"
    if isinstance(value, dict) and "share" in value:
        return "share"
    return _number_kind(value)


def _number_kind(value: object) -> str | None:
    if isinstance(value, (ScheduleConfig, str, dict)):
        return "schedule"
    return "number" if type(value) in (int, float) else None


def _option_kind(value: object) -> str | None:
    is_term = isinstance(value, dict) and not {"schedule", "share"}.intersection(value)
    return "term" if is_term or isinstance(value, LossTerm) else _weight_kind(value)


def _begins_with_share(value: object) -> bool:
    return isinstance(value, str) and value.split(maxsplit=1)[:1] == ["share"]


ScheduledNumber = Annotated[
    Annotated[Number, Tag("number")] | Annotated[ScheduleConfig, Tag("schedule")],
    Discriminator(
        _number_kind,
        custom_error_type="scheduled_number",
        custom_error_message="it must be a number or a schedule",
    ),
]
_SHARE_OPTION = re.compile(r"\s(smoothing|min|max)=(\S+)")


class ShareConfig(Section):
    """A share of the pull on the generated images, from which the weight follows at every step; see
    `nectargan.losses.balancing`.

    It may also be written in one line: ``share 0.2``, ``share linear 0->0.3 @ 1-20`` or ``share 0.2
    smoothing=0 max=100``.
    """

    share: ScheduledNumber
    """Part of the sum of the gradient norms of all generator losses at the generated images: a
    number or a schedule, from 0 to below 1."""
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Part of the smoothed gradient norm that is kept at each step. With 0 the share is held at
    every step. With more the weight moves slowly, and the share is held on average."""
    min: NotNegative = 0.0
    """Lowest weight."""
    max: Positive = 1e4
    """Highest weight."""

    @property
    def schedule(self) -> Schedule:
        """The share over the epochs; a custom function is not imported yet."""
        return schedule_of(self.share)

    @property
    def notation(self) -> str:
        """The share in one line."""
        share = self.share
        text = notation_of(share.build()) if isinstance(share, Section) else format_number(share)
        changed = self.model_dump(exclude_defaults=True, exclude={"share"})
        return " ".join(
            ["share", text, *(f"{key}={format_number(value)}" for key, value in changed.items())]
        )

    @model_validator(mode="before")
    @classmethod
    def _may_be_one_line(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        share = _SHARE_OPTION.sub("", value).strip().removeprefix("share").strip()
        given = {key: _as_number(number) for key, number in _SHARE_OPTION.findall(value)}
        name = share.split(maxsplit=1)[:1]
        is_schedule = name and (name[0] in schedule_map or is_import_path(name[0]))
        if not is_schedule and isinstance(_as_number(share), str):
            raise ValueError(
                "write 'share 0.2', 'share linear 0->0.3 @ 1-20' or 'share 0.2 smoothing=0.9 "
                "max=100'"
            )
        return {"share": _as_number(share), **given}

    @model_validator(mode="after")
    def _has_a_range(self) -> ShareConfig:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def schedule_of(weight: float | ScheduleConfig) -> Schedule:
    """A number or a schedule of a validated config as a `Schedule`."""
    if isinstance(weight, ScheduleConfig):
        return weight.build()
    return Schedule("constant", initial_value=weight, target_value=weight)


Weight = Annotated[
    Annotated[Number, Tag("number")]
    | Annotated[ScheduleConfig, Tag("schedule")]
    | Annotated[ShareConfig, Tag("share")],
    Discriminator(
        _weight_kind,
        custom_error_type="weight",
        custom_error_message="it must be a number, a schedule or a share",
    ),
]


class LossTerm(Section):
    """A whole loss: a new loss, or a change to the function, weight or tags of an existing one."""

    function: str | None = None
    """Import path, "package.module.Class", of an `nn.Module` that is called with (generated,
    target). Default: the function of the objective's loss."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class."""
    weight: Weight | None = None
    """Weight: a number, a schedule or a share. Default: the weight in the objective, or 1 for a new
    loss."""
    tags: list[str] | None = None
    """Labels by which the LossManager finds losses. Default: the tags in the objective, or "G"."""

    @model_validator(mode="after")
    def _arguments_have_a_function(self) -> LossTerm:
        if self.arguments and self.function is None:
            raise ValueError("arguments are given without a function")
        return self


LossWeight = float | ScheduleConfig | ShareConfig | LossTerm
LossOption = Annotated[
    Annotated[Number, Tag("number")]
    # A section with only a function is a term, so a schedule needs the key "schedule".
    | Annotated[
        ScheduleConfig, Tag("schedule"), Field(json_schema_extra={"required": ["schedule"]})
    ]
    | Annotated[ShareConfig, Tag("share")]
    | Annotated[LossTerm, Tag("term")],
    Discriminator(
        _option_kind,
        custom_error_type="loss_option",
        custom_error_message="it must be a number, a schedule, a share or a whole term",
    ),
]


def weight_of(option: LossWeight) -> float | ScheduleConfig | ShareConfig:
    """The weight of a loss of a validated config."""
    if not isinstance(option, LossTerm):
        return option
    return 1.0 if option.weight is None else option.weight


def resolve_losses(objective: str, given: Mapping[str, LossWeight]) -> dict[str, LossWeight]:
    """Merges the default losses of an objective with the losses that a config gives.

    Args:
        objective: Name of the objective.
        given: The section ``train.loss``.

    Returns:
        Every loss of the run with its weight.

    Raises:
        PydanticCustomError: If a name is not a loss of the objective and has no function.
    """
    own, everything = objective_weights(objective), objective_weights()
    options: dict[str, LossWeight] = dict(own)
    for name, option in given.items():
        is_whole = isinstance(option, LossTerm) and option.function is not None
        if name == PENALTY and is_whole:
            reason = "cannot have a 'function' of its own; give your loss another name."
            raise PydanticCustomError(NO_LOSS, "{reason}", {"reason": reason, "loss": name})
        if name not in own and not is_whole and (name not in OPTIONAL or option == 0):
            if option == 0 and name in everything | OPTIONAL:
                continue  # a migrated config of v0.2.3 lists all losses, unused ones with 0
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
            f"has a weight, but objective '{objective}' does not have this loss; choose another "
            "train.objective, or give the loss a 'function'."
        )
    return (
        f"is not a loss of objective '{objective}', and has no 'function'."
        f"{did_you_mean(name, [*own, *OPTIONAL])}"
    )
