"""`TorchScheduler` sets the learning rate of a torch optimizer from a `Schedule`."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nectargan.scheduling.data import Schedule
from nectargan.scheduling.scheduler import Scheduler


class TorchScheduler(LRScheduler):
    """Sets the learning rate of every parameter group to the schedule's value.

    The values of the schedule are learning rates, not factors. As with torch's own schedulers, the
    constructor sets the rate of the first epoch, and `step` must be called after each epoch.

    Args:
        optimizer: The optimizer.
        schedule: The learning rate over the epochs.
        last_epoch: Number of finished epochs minus 1, as in
            `torch.optim.lr_scheduler.LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        self.scheduler = Scheduler(schedule)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The learning rate of the current epoch, once per parameter group."""
        value = self.scheduler.eval_schedule(self.last_epoch)
        return [value] * len(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """The state without the schedule, which has no state and is part of the config."""
        return {key: value for key, value in super().state_dict().items() if key != "scheduler"}
