"""Schedules, which are pure functions of the epoch.

Only `scheduler_torch` imports torch.
"""

from nectargan.scheduling.data import Schedule
from nectargan.scheduling.scheduler import Scheduler
from nectargan.scheduling.schedules import schedule_map

__all__ = ["Schedule", "Scheduler", "schedule_map"]
