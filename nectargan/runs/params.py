"""The parameters of a run for tables: the options that people compare, with short names."""

from __future__ import annotations

from nectargan.config.loss_options import ScheduleConfig, ShareConfig, weight_of
from nectargan.config.network_options import LearningRate
from nectargan.config.objectives import PENALTY, objective_weights
from nectargan.config.schema import Config
from nectargan.runs.resume import flatten
from nectargan.scheduling.notation import format_number, notation_of

Param = str | int | float | bool


# Options of dataloader.load that are listed if they are set.
_READING = (
    *("resize", "input_channels", "target_channels", "invalid"),
    *("input_range", "target_range", "transfer"),
)


def run_params(config: Config) -> dict[str, Param]:
    """The parameters of a run for a table of runs.

    ``loss.<name>`` is the weight of a loss: a number, or a schedule in one-line notation. A custom
    loss also has ``loss.<name>.function``. Options for paths and speed are left out.
    """
    load, train = config.dataloader.load, config.train
    params: dict[str, object] = {
        "objective": train.objective,
        "gan_mode": train.gan_mode,
        "epochs": train.epochs,
        "batch_size": config.dataloader.batch_size,
        "direction": config.dataloader.direction,
        "load_size": load.load_size,
        "crop_size": load.crop_size,
        "channels": f"{load.input_nc}→{load.output_nc}",
        "seed": config.common.seed,
        "precision": config.common.precision,
        "lr.generator": _rate(train.generator.learning_rate),
    }
    fields = type(load).model_fields
    params |= {
        key: getattr(load, key) for key in _READING if getattr(load, key) != fields[key].default
    }
    if train.label_smoothing:
        params["label_smoothing"] = train.label_smoothing
    if PENALTY in train.loss:
        params["r1_every_n_steps"] = train.r1_every_n_steps
    if train.accumulate > 1:
        params["accumulate"] = train.accumulate
    if train.init_from is not None:
        params["init_from"] = train.init_from
    if train.separate_lr_schedules:
        params["lr.discriminator"] = _rate(train.discriminator.learning_rate)
    for name in ("generator", "discriminator"):
        options = getattr(train, name).model_dump(
            mode="json", exclude={"learning_rate"}, exclude_none=True
        )
        params |= flatten(options, f"{name}.")
    for name, option in train.loss.items():
        weight = weight_of(option)
        if isinstance(weight, ScheduleConfig):
            params[f"loss.{name}"] = notation_of(weight.build())
        elif isinstance(weight, ShareConfig):
            params[f"loss.{name}"] = weight.notation
        else:
            params[f"loss.{name}"] = format_number(weight)
        if getattr(option, "function", None) is not None:
            # mypy does not narrow a union by `getattr`.
            params[f"loss.{name}.function"] = option.function  # type: ignore[union-attr]
    if train.balancer is not None:
        params["balancer"] = train.balancer.name or train.balancer.function
        params |= flatten(train.balancer.arguments, "balancer.")
    augmentations = flatten(config.dataloader.augmentations.model_dump(mode="json"))
    # Augmentations that are off get no columns.
    chances = {key: value for key, value in augmentations.items() if key.endswith("chance")}
    params |= {f"augmentation.{_short(key)}": value for key, value in chances.items() if value}
    return {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in params.items()
    }


def other_params(config: Config) -> dict[str, type]:
    """Further parameters that `run_params` of a run with other losses may have, with their types. A
    table of both runs needs columns for them."""
    names = dict.fromkeys([*objective_weights(), *config.train.loss])
    return dict.fromkeys(["lr.discriminator", "balancer", *(f"loss.{name}" for name in names)], str)


def _rate(rate: LearningRate) -> str:
    return notation_of(rate.build())


def _short(key: str) -> str:
    """ "both.rot90_chance" as "both.rot90", "both.own.mine.chance" as "both.mine"."""
    return key.removesuffix("chance").rstrip("._").replace(".own.", ".")
