"""`Scheduler`: a schedule seen from a loop that counts its epochs from 0, as torch does."""

from __future__ import annotations

from nectargan.scheduling.data import Schedule


class Scheduler:
    """Evaluates a `Schedule` for epochs counted from 0.

    Args:
        schedule: The schedule; its own epochs count from 1, so epoch 0 here is its epoch 1.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def eval_schedule(self, epoch: float) -> float:
        """The value in ``epoch`` (from 0), also kept as the schedule's `current_value`."""
        self.schedule.current_value = self.schedule.value_at(epoch + 1)
        return self.schedule.current_value
