"""Finds options that have no effect because another option switches them off."""

from __future__ import annotations

from collections.abc import Iterator

from nectargan.config.dotted import Value, dotted
from nectargan.config.network_options import LearningRate
from nectargan.config.schema import Config


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
        yield "train.vgg_weights"
    augmentations = dotted(config)
    for key, value in augmentations.items():
        if key.startswith("dataloader.augmentations.") and key.endswith("_chance") and not value:
            yield key.removesuffix("chance")
    if not save.save_model:
        yield from ("save.model_save_rate", "save.every_minutes", "save.keep_")
    if not save.save_examples:
        yield "save.example_save_rate"
    for sink in ("tensorboard", "mlflow"):
        if not getattr(logging, sink).enable:
            yield from (
                f"logging.{sink}.{option}"
                for option in type(getattr(logging, sink)).model_fields
                if option != "enable"
            )
