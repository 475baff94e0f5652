"""What a schedule function declares about its own parameters, and whether values keep to it.

A parameter is a keyword of the function. Its type, bounds and meaning are in its annotation::

    def polynomial(schedule, epoch, *, power: Annotated[float, Gt(0), "Exponent."] = 2.0): ...

The bounds are those of `annotated_types`, which pydantic reads as well; the text is for people.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from annotated_types import GroupedMetadata, Interval

from nectargan.errors import ScheduleError, did_you_mean

REQUIRED = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A keyword of a schedule function.

    Attributes:
        annotation: Its type with all that is annotated; ``Any`` where the function says nothing.
        default: Its default, or `REQUIRED`.
    """

    annotation: Any
    default: Any

    @property
    def type(self) -> Any:
        """The type alone."""
        is_annotated = get_origin(self.annotation) is Annotated
        return get_args(self.annotation)[0] if is_annotated else self.annotation

    @property
    def description(self) -> str:
        """The text in the annotation; empty without one."""
        return next((each for each in self._metadata if isinstance(each, str)), "")

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds in the annotation: ``gt``, ``ge``, ``lt`` and ``le``."""
        return {
            kind: getattr(each, kind)
            for each in _flat(self._metadata)
            for kind in ("gt", "ge", "lt", "le")
            if getattr(each, kind, None) is not None
        }

    @property
    def bounds_in_words(self) -> str:
        """ "above 0 and <= 5"; for an `Interval` of numbers that need not be whole, "in (0, 5]"."""
        bounds = self.bounds
        if self.type is int or not any(isinstance(each, Interval) for each in self._metadata):
            words = {"gt": "above", "ge": ">=", "lt": "below", "le": "<="}
            return " and ".join(f"{words[kind]} {limit}" for kind, limit in bounds.items())
        low, high = bounds.get("gt", bounds.get("ge")), bounds.get("lt", bounds.get("le"))
        return f"in {'(' if 'gt' in bounds else '['}{low}, {high}{')' if 'lt' in bounds else ']'}"

    @property
    def _metadata(self) -> tuple[Any, ...]:
        return get_args(self.annotation)[1:] if self.type is not self.annotation else ()


def _flat(metadata: Any) -> Iterator[Any]:
    for each in metadata:
        if isinstance(each, GroupedMetadata):
            yield from each
        else:
            yield each
            yield from getattr(each, "metadata", ())  # pydantic's Field


def parameters_of(function: Callable[..., float]) -> dict[str, Parameter] | None:
    """The parameters of a schedule function by name: all but its first two.

    Returns:
        ``None`` if it takes any keyword, or nothing is known about it.
    """
    try:
        declared = list(inspect.signature(function).parameters.values())[2:]
    except (TypeError, ValueError):
        return None
    if any(each.kind is each.VAR_KEYWORD for each in declared):
        return None
    names = [each.name for each in declared if each.kind is not each.VAR_POSITIONAL]
    hints = _hints(inspect.unwrap(function), names)
    return {
        each.name: Parameter(hints.get(each.name, Any), each.default)
        for each in declared
        if each.name in names
    }


def _hints(function: Callable[..., float], names: list[str]) -> dict[str, Any]:
    """The annotations of some parameters, without evaluating those of others."""
    written = getattr(function, "__annotations__", {})
    some = SimpleNamespace(__annotations__={n: written[n] for n in names if n in written})
    try:
        scope = getattr(function, "__globals__", {})
        return get_type_hints(some, globalns=scope, include_extras=True)
    except Exception:  # what stands there is for the author's type checker, not for us
        return {}


def check_arguments(
    name: str, function: Callable[..., float], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a schedule function, with the defaults of those that are not given.

    Raises:
        ScheduleError: one is unknown, of the wrong type or out of its bounds.
    """
    parameters = parameters_of(function)
    if parameters is None:
        return dict(arguments)
    for key, value in arguments.items():
        if key not in parameters:
            hint = did_you_mean(key, parameters) if parameters else ""
            raise ScheduleError(f"Schedule {name!r} takes no {key} (given: {value!r}).{hint}")
        _check_value(key, value, parameters[key])
    defaults = {key: each.default for key, each in parameters.items()}
    return {**{k: v for k, v in defaults.items() if v is not REQUIRED}, **arguments}


def _check_value(key: str, value: Any, parameter: Parameter) -> None:
    kind = parameter.type
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            allowed = " or ".join(map(repr, get_args(kind)))
            raise ScheduleError(f"Schedule {key} is {value!r}; it must be {allowed}.")
    elif kind is int:
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole or not _is_within(value, parameter.bounds):
            wanted = f"a whole number {parameter.bounds_in_words}".rstrip()
            raise ScheduleError(f"Schedule {key} is {value!r}; it must be {wanted}.")
    elif kind is float:
        require_finite(key, value)
        if not _is_within(value, parameter.bounds):
            wanted = parameter.bounds_in_words
            raise ScheduleError(f"Schedule {key} is {value!r}; it must be {wanted}.")


def require_finite(name: str, value: object) -> None:
    """Raises `ScheduleError` for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ScheduleError(f"Schedule {name} is {value!r}; it must be a finite number.")


def _is_within(value: float, bounds: Mapping[str, float]) -> bool:
    return (
        value > bounds.get("gt", -math.inf)
        and value >= bounds.get("ge", -math.inf)
        and value < bounds.get("lt", math.inf)
        and value <= bounds.get("le", math.inf)
    )
