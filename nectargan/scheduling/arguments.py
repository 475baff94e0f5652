"""Reads the parameters that a schedule function declares, and checks values against them.

A parameter is a keyword argument of the function, annotated as `nectargan.parameters` describes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nectargan.errors import ScheduleError, did_you_mean
from nectargan.parameters import REQUIRED, Parameter


def declared_parameters(function: Callable[..., float]) -> dict[str, Parameter] | None:
    """The parameters of a schedule function by name, without ``schedule`` and ``epoch``.

    Returns:
        ``None`` if the function takes ``**kwargs`` or has no readable signature.
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
    """The evaluated annotations of the named parameters only."""
    written = getattr(function, "__annotations__", {})
    some = SimpleNamespace(__annotations__={n: written[n] for n in names if n in written})
    try:
        scope = getattr(function, "__globals__", {})
        return get_type_hints(some, globalns=scope, include_extras=True)
    except Exception:  # an annotation may only be valid for a type checker
        return {}


def check_arguments(
    name: str, function: Callable[..., float], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Checks the arguments of a schedule function and adds the defaults of missing ones.

    Raises:
        ScheduleError: If an argument is unknown, has the wrong type or is out of bounds.
    """
    parameters = declared_parameters(function)
    if parameters is None:
        return dict(arguments)
    for key, value in arguments.items():
        if key not in parameters:
            hint = did_you_mean(key, parameters) if parameters else ""
            raise ScheduleError(
                f"Schedule {name!r} has no argument {key} (given: {value!r}).{hint}"
            )
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
    """Raises `ScheduleError` if a value is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ScheduleError(f"Schedule {name} is {value!r}; it must be a finite number.")


def _is_within(value: float, bounds: Mapping[str, float]) -> bool:
    return (
        value > bounds.get("gt", -math.inf)
        and value >= bounds.get("ge", -math.inf)
        and value < bounds.get("lt", math.inf)
        and value <= bounds.get("le", math.inf)
    )
