"""What moves over the epochs of a run: the weights of its losses and its learning rates."""

from __future__ import annotations

from nectargan.config.loss_options import ScheduleConfig, weight_of
from nectargan.config.schema import Config
from nectargan.scheduling.data import Schedule


def all_schedules(config: Config) -> dict[str, Schedule]:
    """Weights and learning rates over the epochs, under the names of their series."""
    weights = {f"weight/{name}": weight for name, weight in loss_weights(config).items()}
    return weights | {f"lr/{name}": rate for name, rate in lr_schedules(config).items()}


def loss_weights(config: Config) -> dict[str, Schedule]:
    """The weight of every loss of the run over the epochs."""
    return {name: _schedule(weight_of(option)) for name, option in config.train.loss.items()}


def lr_schedules(config: Config) -> dict[str, Schedule]:
    """The learning rate of each network over the epochs."""
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
