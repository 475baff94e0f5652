"""What a person compares between runs, under short names that stay the same."""

from __future__ import annotations

from nectargan.config.loss_options import ScheduleConfig, weight_of
from nectargan.config.network_options import LearningRate
from nectargan.config.objectives import objective_weights
from nectargan.config.schema import Config
from nectargan.runs.resume import flatten
from nectargan.scheduling.notation import format_number, notation_of

Param = str | int | float | bool


def run_params(config: Config) -> dict[str, Param]:
    """The parameters of a run for a table of runs.

    The weight of a loss is ``loss.<name>``, in one column whatever its kind: ``100``, or a schedule
    in one line. An own term has ``loss.<name>.function`` as well. What only says where files are or
    how fast they are read is left out: the config has it.
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
    if load.resize != "bicubic":
        params["resize"] = load.resize
    if train.separate_lr_schedules:
        params["lr.discriminator"] = _rate(train.discriminator.learning_rate)
    for name in ("generator", "discriminator"):
        options = getattr(train, name).model_dump(mode="json", exclude={"learning_rate"})
        params |= flatten(options, f"{name}.")
    for name, option in train.loss.items():
        weight = weight_of(option)
        if isinstance(weight, ScheduleConfig):
            params[f"loss.{name}"] = notation_of(weight.build())
        else:
            params[f"loss.{name}"] = format_number(weight)
        if getattr(option, "function", None) is not None:
            params[f"loss.{name}.function"] = option.function  # type: ignore[union-attr]
    augmentations = flatten(config.dataloader.augmentations.model_dump(mode="json"))
    # A table with a column for each augmentation that is off would be unreadable.
    chances = {key: value for key, value in augmentations.items() if key.endswith("chance")}
    params |= {f"augmentation.{_short(key)}": value for key, value in chances.items() if value}
    return {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in params.items()
    }


def other_params(config: Config) -> dict[str, type]:
    """What `run_params` of a run with other losses may have, with the types: a table of both needs
    a column for it."""
    names = dict.fromkeys([*objective_weights(), *config.train.loss])
    return dict.fromkeys(["lr.discriminator", *(f"loss.{name}" for name in names)], str)


def _rate(rate: LearningRate) -> str:
    return notation_of(rate.build())


def _short(key: str) -> str:
    """ "both.rot90_chance" as "both.rot90", "both.own.mine.chance" as "both.mine"."""
    return key.removesuffix("chance").rstrip("._").replace(".own.", ".")
