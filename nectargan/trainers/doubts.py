"""Warnings about a valid config: options without effect, schedules outside of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nectargan.config.base import Section
from nectargan.config.loss_options import LossTerm
from nectargan.config.network_options import LearningRate
from nectargan.config.objectives import ADVERSARIAL, PENALTY, objective_weights
from nectargan.config.run_schedules import loss_shares, loss_weights, lr_schedules
from nectargan.config.schema import Config, Save
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.schedules import schedule_map
from nectargan.wording import counted

_VGG = "G_VGG"


def doubts_about(config: Config) -> list[str]:
    """Warnings about likely mistakes in a valid config, one sentence each."""
    unused = (f"{key} is {value} and is not used: {why}." for key, value, why in _unused(config))
    return [*unused, *_schedules_outside(config), *_negative_weights(config)]


# --- options without effect ----------------------------------------------------------------------


def _unused(config: Config) -> Iterator[tuple[str, object, str]]:
    """Key, value and reason of each option that differs from its default and has no effect.

    Options of a section that is turned off as a whole, as by ``logging.mlflow.enable``, are not
    reported.
    """
    train, save, logging = config.train, config.save, config.logging
    terms = {name: term for name, term in train.loss.items() if isinstance(term, LossTerm)}
    replaced = {name for name, term in terms.items() if term.function is not None}
    own = set(objective_weights(train.objective)) - replaced
    if train.vgg_weights is not None and _VGG not in own:
        yield "train.vgg_weights", train.vgg_weights, f"no loss is the objective's {_VGG}"
    if train.gan_mode != type(train)().gan_mode and not own.intersection(ADVERSARIAL):
        yield "train.gan_mode", train.gan_mode, "every adversarial loss has a function of its own"

    if train.label_smoothing and "D_real" not in own:
        yield "train.label_smoothing", train.label_smoothing, "D_real has a function of its own"
    if train.r1_every_n_steps != type(train)().r1_every_n_steps and PENALTY not in train.loss:
        yield "train.r1_every_n_steps", train.r1_every_n_steps, f"no loss is {PENALTY}"

    why = "train.separate_lr_schedules is off, and the generator's learning rate is that of both"
    rate = train.discriminator.learning_rate
    given = _changed_from(rate, _scaled(LearningRate(), rate.epochs + rate.epochs_decay))
    if given and not train.separate_lr_schedules and rate != train.generator.learning_rate:
        yield "train.discriminator.learning_rate", dict(given), why
    read = ["generator", *(["discriminator"] if train.separate_lr_schedules else [])]
    for network in read:
        rate = getattr(train, network).learning_rate
        place = f"train.{network}.learning_rate"
        if rate.schedule is not None:
            for key, value in _changed_from(rate, LearningRate()):
                if key in ("initial", "target"):
                    yield f"{place}.{key}", value, f"{place}.schedule takes its place"
        elif not rate.epochs_decay and rate.target != LearningRate().target:
            yield f"{place}.target", rate.target, f"{place}.epochs_decay is 0"

    if config.dataloader.num_workers and config.dataloader.cache in ("ram", "disk", "device"):
        why = f"dataloader.cache is {config.dataloader.cache}, and nothing is read while training"
        yield "dataloader.num_workers", config.dataloader.num_workers, why
    for side in ("both", "input"):
        section = getattr(config.dataloader.augmentations, side)
        for key, value in _changed_from(section, type(section)()):
            if key == "own":
                continue
            chance = _chance_of(key, section)
            if chance != key and not getattr(section, chance):
                place = f"dataloader.augmentations.{side}"
                yield f"{place}.{key}", value, f"{place}.{chance} is 0"

    if train.stop is not None and train.stop.patience >= train.epochs:
        length = counted(train.epochs, "epoch")
        yield "train.stop.patience", train.stop.patience, f"the run has {length}"
    if not save.save_model:
        for key in ("model_save_rate", "every_minutes", "keep_last", "keep_best"):
            if getattr(save, key) != getattr(Save(), key):
                yield f"save.{key}", getattr(save, key), "save.save_model is off"
    if not save.save_examples and save.example_save_rate != Save().example_save_rate:
        yield "save.example_save_rate", save.example_save_rate, "save.save_examples is off"
    if logging.gradients != type(logging)().gradients and not logging.csv:
        yield "logging.gradients", logging.gradients, "logging.csv is off"
    if logging.histogram_every_n_epochs and not logging.tensorboard.enable:
        why = "only TensorBoard shows histograms, and logging.tensorboard.enable is off"
        yield "logging.histogram_every_n_epochs", logging.histogram_every_n_epochs, why


def _changed_from(section: Section, usual: Section) -> list[tuple[str, Any]]:
    """The options of ``section`` whose values differ from those of ``usual``."""
    return [(key, v) for key, v in section if v != getattr(usual, key)]


def _scaled(rate: LearningRate, epochs: int) -> LearningRate:
    """The learning rate with both phases scaled to ``epochs`` in all, as ``--epochs`` does."""
    constant = round(epochs * rate.epochs / max(1, rate.epochs + rate.epochs_decay))
    return rate.model_copy(update={"epochs": constant, "epochs_decay": epochs - constant})


def _chance_of(key: str, section: Section) -> str:
    """The option with the probability of the augmentation that ``key`` belongs to."""
    chances = [name for name in type(section).model_fields if name.endswith("_chance")]
    return next(c for c in chances if key.startswith(c.removesuffix("chance")))


# --- schedules -----------------------------------------------------------------------------------


def _schedules_outside(config: Config) -> Iterator[str]:
    """Warnings about schedules that do not start, or do not end, within the run."""
    for place, schedule in _own_schedules(config):
        start, end = schedule.start_epoch, schedule.end_epoch
        epochs = config.train.epochs
        if schedule.name == "constant" or start == end or schedule.name not in schedule_map:
            continue  # a user's function may use the epochs in another way
        move = f"{place} moves from epoch {start:g} to epoch {end:g}"
        length = f"the run has {counted(epochs, 'epoch')}"
        if start >= epochs or end < 1:
            value = schedule.value_at(epochs)
            yield f"{move}, but {length}: its value is always {value:g}."
        elif start < 0 or end > epochs + 1:
            first, last = schedule.value_at(1), schedule.value_at(epochs)
            yield f"{move}, but {length}: in them it goes from {first:g} to {last:g}."


def _own_schedules(config: Config) -> Iterator[tuple[str, Schedule]]:
    """Keys and schedules of all weights and shares of losses, and of learning rates that name a
    schedule."""
    for name, schedule in loss_weights(config).items():
        yield f"train.loss.{name}", schedule
    for name, share in loss_shares(config).items():
        yield f"train.loss.{name}", share
    for network, schedule in lr_schedules(config).items():
        shared = network == "discriminator" and not config.train.separate_lr_schedules
        if not shared and getattr(config.train, network).learning_rate.schedule is not None:
            yield f"train.{network}.learning_rate.schedule", schedule


def _negative_weights(config: Config) -> Iterator[str]:
    for name, schedule in loss_weights(config).items():
        values = [(schedule.value_at(e), e) for e in range(1, config.train.epochs + 1)]
        lowest, epoch = min(values)
        if lowest < 0:
            yield (
                f"train.loss.{name} has the weight {lowest:g} in epoch {epoch}: with a negative "
                "weight, training increases the loss."
            )
