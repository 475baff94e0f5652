"""`Schedule`: what a value does over the epochs, as plain data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import Any, Literal

from nectargan.errors import ScheduleError, UnknownScheduleError, did_you_mean
from nectargan.imports import import_path, is_import_path
from nectargan.scheduling.parameters import check_arguments, require_finite
from nectargan.scheduling.schedules import schedule_map
from nectargan.wording import in_short

_ENDS = {"start_epoch": 1.0, "end_epoch": 1.0, "initial_value": 1.0, "target_value": 1.0}


@dataclass(init=False)
class Schedule:
    """A value that moves from ``initial_value`` to ``target_value`` between two epochs.

    Epochs count from 1, as a person counts them: the initial value holds up to and in
    ``start_epoch``, and the target is reached in ``end_epoch``. A schedule is a pure function of
    the epoch; `current_value` only remembers the last value that somebody asked for, and takes no
    part in comparisons, so that ``Schedule() == Schedule()`` holds for ever.

    Attributes:
        schedule: A name in `schedule_map`; a callable ``fn(schedule, epoch, **arguments) ->
            float``; or the import path of one, which is only imported by `imported`.
        start_epoch: Last epoch with the initial value.
        end_epoch: First epoch with the target value.
        initial_value: Value up to and in ``start_epoch``; any finite number.
        target_value: Value from ``end_epoch`` on; any finite number.
        interval: ``"epoch"``: the value changes between epochs. ``"step"``: it moves with every
            step, and reaches what it would be in an epoch at that epoch's last step.
        arguments: What the function takes besides, given as further keywords or as a dictionary:
            ``power`` of ``polynomial``, ``cycles`` and ``ramp`` of ``cyclical``, ``steps`` of
            ``step`` (see there), or those of a function of one's own. ``points`` of ``piecewise``,
            ``(epoch, value)`` pairs with increasing epochs, set the two epochs and the two values
            above.
        current_value: The value last computed; the initial one before that.

    Raises:
        UnknownScheduleError: ``schedule`` is neither a known name nor callable.
        ScheduleError: a number is not finite or out of its range, the end comes before the start,
            or an argument was given that this schedule does not take.
    """

    schedule: str | Callable[..., float]
    start_epoch: float
    end_epoch: float
    initial_value: float
    target_value: float
    interval: Literal["epoch", "step"]
    arguments: dict[str, Any]
    current_value: float = field(init=False, compare=False)

    def __init__(
        self,
        schedule: str | Callable[..., float] = "linear",
        start_epoch: float = 1,
        end_epoch: float = 1,
        initial_value: float = 1.0,
        target_value: float = 1.0,
        interval: Literal["epoch", "step"] = "epoch",
        arguments: Mapping[str, Any] | None = None,
        **further: Any,
    ) -> None:
        self.schedule = schedule
        self.start_epoch, self.end_epoch = start_epoch, end_epoch
        self.initial_value, self.target_value = initial_value, target_value
        self.interval = interval
        self.arguments = {**(arguments or {}), **further}
        self._function = self._find_function()
        if self._function is not None:
            self._take_arguments()
        for name in _ENDS:
            require_finite(name, getattr(self, name))
        if self.interval not in ("epoch", "step"):
            raise ScheduleError(
                f"Schedule interval is {self.interval!r}; it must be 'epoch' or 'step'."
            )
        self._check_order()
        self.current_value = float(self.initial_value)

    @property
    def function(self) -> Callable[..., float]:
        """The function behind ``schedule``: ``fn(schedule, epoch, **kwargs) -> float``.

        Raises:
            ScheduleError: ``schedule`` is an import path, and this is not from `imported`.
        """
        if self._function is None:
            raise ScheduleError(f"Schedule {self.name!r} must be imported before it has values.")
        return self._function

    @property
    def is_imported(self) -> bool:
        """Whether the function is known; only that of an import path may be not."""
        return self._function is not None

    def imported(self, place: str) -> Schedule:
        """This schedule with the function that its import path names; itself if it has none.

        Args:
            place: What messages call it.

        Raises:
            ConfigError: the path cannot be imported, or names no function.
            ScheduleError: the function does not take the arguments.
        """
        if self.is_imported:
            return self
        found = import_path(place, self.name)
        if not callable(found):
            raise ScheduleError(f"{place} is {self.name!r}, which is no function.")
        ready = copy.copy(self)
        ready._function = found
        ready._take_arguments()
        return ready

    def value_at(self, epoch: float, **kwargs: Any) -> float:
        """The value in ``epoch`` (from 1, fractions allowed); changes nothing.

        Args:
            epoch: The epoch to look at.
            **kwargs: Passed on to the schedule function, in place of `arguments` of these names.

        Raises:
            ScheduleError: the function returned something that is not a finite number, or one that
                was imported failed.
        """
        arguments = {**self.arguments, **kwargs} if kwargs else self.arguments
        function = self.function
        try:
            value = function(self, epoch, **arguments)
        except Exception as error:
            if not is_import_path(self.schedule):
                raise
            raise ScheduleError(
                f"Schedule {self.name!r} fails in epoch {epoch}: {in_short(error)}."
            ) from error
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ScheduleError(
                f"Schedule {self.name!r} returned {value!r} for epoch {epoch}; "
                "it must return a finite number."
            )
        return float(value)

    @property
    def name(self) -> str:
        """The name of the schedule, its import path, or the name of the callable in its place."""
        if isinstance(self.schedule, str):
            return self.schedule
        return getattr(self.schedule, "__name__", repr(self.schedule))

    @property
    def _is_built_in(self) -> bool:
        return isinstance(self.schedule, str) and self.schedule in schedule_map

    def _find_function(self) -> Callable[..., float] | None:
        if self._is_built_in:
            return schedule_map[str(self.schedule)]
        if is_import_path(self.schedule):
            return None
        if not callable(self.schedule):
            raise UnknownScheduleError(
                f"{self.schedule!r} is no schedule."
                + did_you_mean(str(self.schedule), schedule_map)[:-1]
                + ", or a callable fn(schedule, epoch) -> float."
            )
        return self.schedule

    def _take_arguments(self) -> None:
        whole = check_arguments(self.name, self.function, self.arguments)
        if self._is_built_in:
            self.arguments = whole
        if self.schedule == "piecewise":
            self._take_ends_from_points()

    def _take_ends_from_points(self) -> None:
        points = self.arguments["points"]
        if isinstance(points, str) or not isinstance(points, Sequence):
            raise ScheduleError(
                f"Schedule points is {points!r}; it must be a list of [epoch, value]."
            )
        for index, point in enumerate(points):
            if isinstance(point, str) or not isinstance(point, Sequence) or len(point) != 2:
                raise ScheduleError(
                    f"Point {index + 1} of a schedule is {point!r}; it must be [epoch, value]."
                )
            require_finite(f"the epoch of point {index + 1}", point[0])
            require_finite(f"the value of point {index + 1}", point[1])
        epochs = [point[0] for point in points]
        if not epochs or any(late <= early for early, late in pairwise(epochs)):
            raise ScheduleError(
                f"Schedule 'piecewise' needs points of increasing epochs, not {list(points)!r}."
            )
        self.arguments = {"points": tuple((point[0], point[1]) for point in points)}
        (start, initial), (end, target) = points[0], points[-1]
        ends = zip(_ENDS.items(), (start, end, initial, target), strict=True)
        for (name, default), value in ends:
            if getattr(self, name) not in (default, value):
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
        moves = self._is_built_in and self.schedule not in ("constant", "piecewise")
        if moves and self.end_epoch == self.start_epoch and self.initial_value != self.target_value:
            raise ScheduleError(
                f"A {self.schedule!r} schedule starts and ends in epoch {self.start_epoch}; "
                "end_epoch must be after start_epoch."
            )
