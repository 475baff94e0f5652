"""`Schedule` describes how a value changes over the epochs."""

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
from nectargan.scheduling.arguments import check_arguments, require_finite
from nectargan.scheduling.schedules import schedule_map
from nectargan.wording import one_line

_ENDS = {"start_epoch": 1.0, "end_epoch": 1.0, "initial_value": 1.0, "target_value": 1.0}


@dataclass(init=False)
class Schedule:
    """A value that changes from ``initial_value`` to ``target_value`` between two epochs.

    Epochs count from 1. The value is ``initial_value`` up to and including ``start_epoch``, and
    ``target_value`` from ``end_epoch`` on. A schedule is a pure function of the epoch.
    `current_value` only stores the value that was last computed by a `Scheduler` or a
    `LossManager`, and is ignored in comparisons.

    Attributes:
        schedule: A name in `schedule_map`, a callable ``fn(schedule, epoch, **arguments) ->
            float``, or the import path of such a callable. An import path is only imported by
            `imported`.
        start_epoch: Last epoch with the initial value.
        end_epoch: First epoch with the target value.
        initial_value: Value up to and including ``start_epoch``; any finite number.
        target_value: Value from ``end_epoch`` on; any finite number.
        interval: ``"epoch"`` if the value changes between epochs. ``"step"`` if it changes at every
            step; the last step of an epoch then has the value of the epoch.
        arguments: Further arguments of the function, given as keywords or as a dictionary:
            ``power`` of ``polynomial``, ``cycles`` and ``ramp`` of ``cyclical``, ``steps`` of
            ``step``, or those of a custom function. ``points`` of ``piecewise`` are
            ``(epoch, value)`` pairs with increasing epochs; they also set the four fields
            ``start_epoch`` to ``target_value``.
        current_value: The value that was last computed; at first the initial value.

    Raises:
        UnknownScheduleError: If ``schedule`` is neither a known name nor callable.
        ScheduleError: If a number is not finite or out of range, the end is before the start, or
            the schedule does not take a given argument.
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
        """The schedule function, ``fn(schedule, epoch, **kwargs) -> float``.

        Raises:
            ScheduleError: If ``schedule`` is an import path that has not been imported.
        """
        if self._function is None:
            raise ScheduleError(f"Schedule {self.name!r} must be imported before it has values.")
        return self._function

    @property
    def is_imported(self) -> bool:
        """Whether the function is available; false only for an import path before `imported`."""
        return self._function is not None

    def imported(self, place: str) -> Schedule:
        """Returns a copy with the function imported; the schedule itself if there is no need.

        Args:
            place: Name of the schedule in error messages.

        Raises:
            ConfigError: If the path cannot be imported.
            ScheduleError: If the path does not name a function, or the function does not take the
                arguments.
        """
        if self.is_imported:
            return self
        found = import_path(place, self.name)
        if not callable(found):
            raise ScheduleError(f"{place} is {self.name!r}, which is not a function.")
        ready = copy.copy(self)
        ready._function = found
        ready._take_arguments()
        return ready

    def value_at(self, epoch: float, **kwargs: Any) -> float:
        """Computes the value in an epoch, without changing the schedule.

        Args:
            epoch: The epoch, counted from 1; fractions are allowed.
            **kwargs: Arguments of the schedule function that override `arguments`.

        Raises:
            ScheduleError: If the function does not return a finite number, or an imported function
                raises an exception.
        """
        arguments = {**self.arguments, **kwargs} if kwargs else self.arguments
        function = self.function
        try:
            value = function(self, epoch, **arguments)
        except Exception as error:  # custom code may raise any
            if not is_import_path(self.schedule):
                raise
            raise ScheduleError(
                f"Schedule {self.name!r} fails in epoch {epoch}: {one_line(error)}."
            ) from error
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ScheduleError(
                f"Schedule {self.name!r} returned {value!r} for epoch {epoch}; "
                "it must return a finite number."
            )
        return float(value)

    @property
    def name(self) -> str:
        """The name of the schedule, its import path, or the name of its callable."""
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
                f"There is no schedule {self.schedule!r}."
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
                f"Schedule points is {points!r}; it must be a list of [epoch, value] pairs."
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
                f"Schedule 'piecewise' needs points with increasing epochs, not {list(points)!r}."
            )
        self.arguments = {"points": tuple((point[0], point[1]) for point in points)}
        (start, initial), (end, target) = points[0], points[-1]
        ends = zip(_ENDS.items(), (start, end, initial, target), strict=True)
        for (name, default), value in ends:
            if getattr(self, name) not in (default, value):
                raise ScheduleError(
                    f"Schedule 'piecewise' has {name} {getattr(self, name)!r}, but its points give "
                    f"{value!r}; give only the points."
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
