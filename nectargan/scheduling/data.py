"""`Schedule`: what a value does over the epochs, as plain data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal

from nectargan.errors import ScheduleError, UnknownScheduleError, did_you_mean
from nectargan.scheduling.schedules import schedule_map

_EXTRAS = ("power", "cycles", "ramp", "steps", "points")


@dataclass
class Schedule:
    """A value that moves from ``initial_value`` to ``target_value`` between two epochs.

    Epochs count from 1, as a person counts them: the initial value holds up to and in
    ``start_epoch``, and the target is reached in ``end_epoch``. A schedule is a pure function of
    the epoch; `current_value` only remembers the last value that somebody asked for, and takes no
    part in comparisons, so that ``Schedule() == Schedule()`` holds for ever.

    Attributes:
        schedule: A name in `schedule_map`, or a callable
            ``fn(schedule, epoch, **kwargs) -> float``.
        start_epoch: Last epoch with the initial value.
        end_epoch: First epoch with the target value.
        initial_value: Value up to and in ``start_epoch``; any finite number.
        target_value: Value from ``end_epoch`` on; any finite number.
        interval: ``"epoch"``: the value changes between epochs. ``"step"``: it moves with every
            step, and reaches what it would be in an epoch at that epoch's last step.
        power: Exponent of ``polynomial``, above 0.
        cycles: Number of cycles of ``cyclical``, 1 or more.
        ramp: Part of each cycle that ``cyclical`` spends on its ramp, in (0, 1].
        steps: Number of jumps of ``step``, 1 or more.
        points: ``(epoch, value)`` pairs of ``piecewise``, epochs increasing. They set the two
            epochs and the two values above.
        current_value: The value last computed; the initial one before that.

    Raises:
        UnknownScheduleError: ``schedule`` is neither a known name nor callable.
        ScheduleError: a number is not finite or out of its range, the end comes before the start,
            or an argument was given that this schedule does not read.
    """

    schedule: str | Callable[..., float] = "linear"
    start_epoch: float = 1
    end_epoch: float = 1
    initial_value: float = 1.0
    target_value: float = 1.0
    interval: Literal["epoch", "step"] = "epoch"
    power: float = 2.0
    cycles: int = 4
    ramp: float = 0.5
    steps: int = 4
    points: Sequence[tuple[float, float]] = ()
    current_value: float = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.points, str) or not isinstance(self.points, Sequence):
            raise ScheduleError(
                f"Schedule points is {self.points!r}; it must be a list of [epoch, value]."
            )
        if isinstance(self.schedule, str) and self.schedule in schedule_map:
            self._check_extras(self.schedule)
        elif not callable(self.schedule):
            raise UnknownScheduleError(
                f"{self.schedule!r} is no schedule."
                + did_you_mean(str(self.schedule), schedule_map)[:-1]
                + ", or a callable fn(schedule, epoch) -> float."
            )
        self._check_numbers()
        self.points = tuple((point[0], point[1]) for point in self.points)
        if self.schedule == "piecewise":
            self._take_ends_from_points()
        self._check_order()
        self.current_value = float(self.initial_value)

    @property
    def function(self) -> Callable[..., float]:
        """The function behind ``schedule``: ``fn(schedule, epoch, **kwargs) -> float``."""
        return schedule_map[self.schedule] if isinstance(self.schedule, str) else self.schedule

    def value_at(self, epoch: float, **kwargs: Any) -> float:
        """The value in ``epoch`` (from 1, fractions allowed); changes nothing.

        Args:
            epoch: The epoch to look at.
            **kwargs: Passed on to the schedule function.

        Raises:
            ScheduleError: the function returned something that is not a finite number.
        """
        value = self.function(self, epoch, **kwargs)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ScheduleError(
                f"Schedule {self.name!r} returned {value!r} for epoch {epoch}; "
                "it must return a finite number."
            )
        return float(value)

    @property
    def name(self) -> str:
        """The name of the schedule, or of the callable in its place."""
        if isinstance(self.schedule, str):
            return self.schedule
        return getattr(self.schedule, "__name__", repr(self.schedule))

    def _check_extras(self, schedule: str) -> None:
        reads = set(inspect.signature(schedule_map[schedule]).parameters)
        if schedule == "piecewise":
            reads.add("points")
        defaults = {f.name: f.default for f in fields(self)}
        for name in _EXTRAS:
            given = getattr(self, name)
            if name not in reads and not (given == defaults[name] or given == []):
                raise ScheduleError(f"Schedule {schedule!r} takes no {name} (given: {given!r}).")

    def _check_numbers(self) -> None:
        for name in ("start_epoch", "end_epoch", "initial_value", "target_value", "power", "ramp"):
            _require_finite(name, getattr(self, name))
        for index, point in enumerate(self.points):
            if isinstance(point, str) or not isinstance(point, Sequence) or len(point) != 2:
                raise ScheduleError(
                    f"Point {index + 1} of a schedule is {point!r}; it must be [epoch, value]."
                )
            _require_finite(f"the epoch of point {index + 1}", point[0])
            _require_finite(f"the value of point {index + 1}", point[1])
        for name in ("cycles", "steps"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, Integral) or int(count) < 1:
                raise ScheduleError(
                    f"Schedule {name} is {count!r}; it must be a whole number >= 1."
                )
        if self.power <= 0:
            raise ScheduleError(f"Schedule power is {self.power!r}; it must be above 0.")
        if not 0 < self.ramp <= 1:
            raise ScheduleError(f"Schedule ramp is {self.ramp!r}; it must be in (0, 1].")
        if self.interval not in ("epoch", "step"):
            raise ScheduleError(
                f"Schedule interval is {self.interval!r}; it must be 'epoch' or 'step'."
            )

    def _take_ends_from_points(self) -> None:
        epochs = [point[0] for point in self.points]
        if not epochs or any(late <= early for early, late in pairwise(epochs)):
            raise ScheduleError(
                "Schedule 'piecewise' needs points of increasing epochs, not "
                f"{list(self.points)!r}."
            )
        (start, initial), (end, target) = self.points[0], self.points[-1]
        ends = {"start_epoch": start, "end_epoch": end}
        ends |= {"initial_value": initial, "target_value": target}
        defaults = {f.name: f.default for f in fields(self)}
        for name, value in ends.items():
            if getattr(self, name) not in (defaults[name], value):
                raise ScheduleError(
                    f"Schedule 'piecewise' has {name} {getattr(self, name)!r}, but its points say "
                    f"{value!r}; give the points alone."
                )
            setattr(self, name, value)

    def _check_order(self) -> None:
        if self.end_epoch < self.start_epoch:
            raise ScheduleError(
                f"A schedule ends in epoch {self.end_epoch}, before it starts in epoch "
                f"{self.start_epoch}; end_epoch must be the later one."
            )
        moves = isinstance(self.schedule, str) and self.schedule not in ("constant", "piecewise")
        if moves and self.end_epoch == self.start_epoch and self.initial_value != self.target_value:
            raise ScheduleError(
                f"A {self.schedule!r} schedule starts and ends in epoch {self.start_epoch}; "
                "end_epoch must be after start_epoch."
            )


def _require_finite(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ScheduleError(f"Schedule {name} is {value!r}; it must be a finite number.")
