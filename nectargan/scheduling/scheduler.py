"""`Scheduler` evaluates a schedule in a loop that counts epochs from 0, as torch does."""

from __future__ import annotations

from nectargan.scheduling.data import Schedule


class Scheduler:
    """Evaluates a `Schedule` for epochs counted from 0.

    Args:
        schedule: The schedule. Its epochs count from 1, so epoch 0 here is epoch 1 there.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def eval_schedule(self, epoch: float) -> float:
        """Computes the value in an epoch and stores it as `current_value` of the schedule.

        Args:
            epoch: The epoch, counted from 0.
        """
        self.schedule.current_value = self.schedule.value_at(epoch + 1)
        return self.schedule.current_value
