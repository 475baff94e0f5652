"""What moves over the epochs of a run: the weights of its losses and its learning rates."""

from __future__ import annotations

import math

from nectargan.config.loss_options import ScheduleConfig, weight_of
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, ScheduleError
from nectargan.scheduling.data import Schedule


def all_schedules(config: Config, imports: bool = True) -> dict[str, Schedule]:
    """Weights and learning rates over the epochs, under the names of their series.

    Args:
        config: The config.
        imports: Whether functions that it names are imported; else their schedules have no values.

    Raises:
        ConfigError: see `usable`.
    """
    weights, rates = (
        (loss_weights(config), lr_schedules(config))
        if imports
        else (_weights(config), _rates(config))
    )
    return {
        **{f"weight/{name}": weight for name, weight in weights.items()},
        **{f"lr/{name}": rate for name, rate in rates.items()},
    }


def loss_weights(config: Config) -> dict[str, Schedule]:
    """The weight of every loss of the run over the epochs.

    Raises:
        ConfigError: see `usable`.
    """
    return {
        name: usable(weight, f"train.loss.{name}", config.train.epochs)
        for name, weight in _weights(config).items()
    }


def lr_schedules(config: Config) -> dict[str, Schedule]:
    """The learning rate of each network over the epochs.

    Raises:
        ConfigError: see `usable`; or it would be below 0.
    """
    return {
        name: usable(rate, f"train.{name}.learning_rate", config.train.epochs, least=0.0)
        for name, rate in _rates(config).items()
    }


def usable(schedule: Schedule, place: str, epochs: int, least: float = -math.inf) -> Schedule:
    """A schedule that has values; a function of one's own is imported and tried out.

    Args:
        schedule: From a config.
        place: Its key, for messages.
        epochs: Length of the run.
        least: Lowest value that is allowed.

    Raises:
        ConfigError: the function cannot be imported, fails in an epoch of the run, or has a memory.
    """
    if schedule.is_imported:
        return schedule
    schedule = schedule.imported(f"The schedule of {place}")
    times = range(1, epochs + 1)
    try:
        values = {epoch: schedule.value_at(epoch) for epoch in times}
        again = {epoch: schedule.value_at(epoch) for epoch in reversed(times)}
    except ScheduleError as error:
        raise ConfigError(f"{place}: {error}") from error
    for epoch, value in values.items():
        if value < least:
            raise ConfigError(
                f"{place}: schedule '{schedule.name}' returned {value:g} for epoch {epoch}; "
                f"at least {least:g} is allowed."
            )
        if value != again[epoch]:
            raise ConfigError(
                f"{place}: schedule '{schedule.name}' returned {value:g} and then "
                f"{again[epoch]:g} for epoch {epoch}; its value must depend on the epoch alone."
            )
    return schedule


def _weights(config: Config) -> dict[str, Schedule]:
    """The weights as the config has them: nothing is imported."""
    return {name: _schedule(weight_of(option)) for name, option in config.train.loss.items()}


def _rates(config: Config) -> dict[str, Schedule]:
    """The learning rates as the config has them: nothing is imported."""
    train = config.train
    shared = train.generator if not train.separate_lr_schedules else train.discriminator
    return {
        "generator": train.generator.learning_rate.build(),
        "discriminator": shared.learning_rate.build(),
    }


def _schedule(weight: float | ScheduleConfig) -> Schedule:
    if isinstance(weight, ScheduleConfig):
        return weight.build()
    return Schedule("constant", initial_value=weight, target_value=weight)
