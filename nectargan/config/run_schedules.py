"""The schedules of a run: weights and shares of its losses, and learning rates, over the epochs."""

from __future__ import annotations

import math

from nectargan.config.balancing_options import share_problems, shares_of, weights_of
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, ScheduleError
from nectargan.scheduling.data import Schedule


def all_schedules(config: Config, imports: bool = True) -> dict[str, Schedule]:
    """The schedules of all weights, shares and learning rates, by the names of their series.

    Args:
        config: The config.
        imports: Whether to import custom functions. Without it, their schedules have no values.

    Raises:
        ConfigError: If a custom function cannot be used; see `usable`.
    """
    losses = config.train.loss
    weights, shares, rates = (
        (loss_weights(config), loss_shares(config), lr_schedules(config))
        if imports
        else (weights_of(losses), shares_of(losses), _rates(config))
    )
    return {
        **{f"weight/{name}": weight for name, weight in weights.items()},
        **{f"share/{name}": share for name, share in shares.items()},
        **{f"lr/{name}": rate for name, rate in rates.items()},
    }


def loss_weights(config: Config) -> dict[str, Schedule]:
    """The schedule of the weight of each loss that has no share, by the name of the loss.

    Raises:
        ConfigError: If a custom function cannot be used; see `usable`.
    """
    return {
        name: usable(weight, f"train.loss.{name}", config.train.epochs)
        for name, weight in weights_of(config.train.loss).items()
    }


def loss_shares(config: Config) -> dict[str, Schedule]:
    """The schedule of the share of each loss that has one, by the name of the loss.

    Raises:
        ConfigError: If a custom function cannot be used (see `usable`), or the shares cannot be
            held; see `share_problems`.
    """
    train = config.train
    shares = {
        name: usable(share, f"train.loss.{name}", train.epochs)
        for name, share in shares_of(train.loss).items()
    }
    for name, problem in share_problems(shares, loss_weights(config), train.epochs):
        raise ConfigError(f"train.loss.{name} {problem}")
    return shares


def lr_schedules(config: Config) -> dict[str, Schedule]:
    """The schedule of the learning rate of ``generator`` and ``discriminator``.

    Raises:
        ConfigError: If a custom function cannot be used (see `usable`) or returns a negative rate.
    """
    return {
        name: usable(rate, f"train.{name}.learning_rate", config.train.epochs, least=0.0)
        for name, rate in _rates(config).items()
    }


def usable(schedule: Schedule, place: str, epochs: int, least: float = -math.inf) -> Schedule:
    """Imports the custom function of a schedule and tries it in every epoch of the run.

    Args:
        schedule: A schedule of a config. A built-in one is returned unchanged.
        place: The config key of the schedule, for error messages.
        epochs: Length of the run.
        least: The lowest allowed value.

    Raises:
        ConfigError: If the function cannot be imported, fails in an epoch, returns a value that is
            not allowed, or returns different values for the same epoch.
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
                f"{again[epoch]:g} for epoch {epoch}; its value must depend only on the epoch."
            )
    return schedule


def _rates(config: Config) -> dict[str, Schedule]:
    """The schedules of the learning rates; custom functions are not imported."""
    train = config.train
    shared = train.generator if not train.separate_lr_schedules else train.discriminator
    return {
        "generator": train.generator.learning_rate.build(),
        "discriminator": shared.learning_rate.build(),
    }
