"""Turns a config into a flat table from dotted keys, as ``--set`` takes them, to values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from nectargan.config.base import Section
from nectargan.config.loss_options import ScheduleConfig, ShareConfig
from nectargan.config.network_options import LearningRate
from nectargan.config.schema import Config
from nectargan.scheduling.notation import notation_of

Value = str | int | float | bool | None


def dotted(config: Config) -> dict[str, Value]:
    """All options of a config by dotted key.

    A schedule is written in the one-line notation, a list as JSON.
    """
    return dict(_options("", config))


def _options(key: str, value: object) -> Iterator[tuple[str, Value]]:
    if isinstance(value, ScheduleConfig):
        yield key, notation_of(value.build())
    elif isinstance(value, ShareConfig):
        yield key, value.notation
    elif isinstance(value, (BaseModel, dict)):
        # Iterating over a model also yields pairs of name and value.
        for name, below in value.items() if isinstance(value, dict) else value:
            yield from _options(f"{key}.{name}" if key else str(name), below)
    elif value is None or isinstance(value, (str, int, float, bool)):
        yield key, value
    else:
        yield key, json.dumps(value, default=_changed_options)


def _changed_options(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_defaults=True)


def used_options(config: Config) -> dict[str, Value]:
    """The options of a config by dotted key, without those that have no effect in this config."""
    unused = tuple(_unused(config))
    return {key: value for key, value in dotted(config).items() if not key.startswith(unused)}


def _unused(config: Config) -> Iterator[str]:
    """The prefixes of the keys that have no effect."""
    train, save, logging = config.train, config.save, config.logging
    if not train.separate_lr_schedules:
        yield "train.discriminator.learning_rate."
    for name in ("generator", "discriminator"):
        rate: LearningRate = getattr(train, name).learning_rate
        key = f"train.{name}.learning_rate."
        if rate.schedule is not None:
            yield from (f"{key}initial", f"{key}target")
        elif not rate.epochs_decay:
            yield f"{key}target"
    if not train.objective.endswith("+vgg"):
        yield from ("train.vgg_weights", "train.vgg_channels")
    augmentations = dotted(config)
    for key, value in augmentations.items():
        if key.startswith("dataloader.augmentations.") and key.endswith("_chance") and not value:
            yield key.removesuffix("chance")
    if not save.save_model:
        yield from ("save.model_save_rate", "save.every_minutes", "save.keep_")
    if not save.save_examples:
        yield "save.example_save_rate"
    if not logging.csv:
        yield "logging.gradients"
    for sink in ("tensorboard", "mlflow"):
        if not getattr(logging, sink).enable:
            yield from (
                f"logging.{sink}.{option}"
                for option in type(getattr(logging, sink)).model_fields
                if option != "enable"
            )
