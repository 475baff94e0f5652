"""The one-line notation of schedules, used in configs, on the command line and in trackers::

    linear 100->0 @ 100-200
    polynomial 1->0 @ 1-50 power=3
    linear 0->1 @ 1-20 interval=step
    constant 5
    piecewise 1:0 10:1 20:0.5
    my_package.my_schedule 100->10 @ 1-100 period=10

A word with ``=`` is an argument of the schedule function. For a custom function, named by its
import path, values and epochs may be omitted: ``my_package.my_schedule 5 period=10``.

The arrow may be written ``→`` and the dash between the epochs ``–``, as `notation_of` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from numbers import Real
from typing import Any

from nectargan.errors import ScheduleError, did_you_mean
from nectargan.imports import is_import_path
from nectargan.scheduling.arguments import declared_parameters
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.schedules import schedule_map

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONSTANT = re.compile(rf"(?P<initial>{_NUMBER})")
_POINTS = re.compile(rf"{_NUMBER}:{_NUMBER}(?:\s+{_NUMBER}:{_NUMBER})*")
_MOVE = re.compile(
    rf"(?P<initial>{_NUMBER})\s*(?:->|→)\s*(?P<target>{_NUMBER})"
    rf"\s*@\s*(?P<start>{_NUMBER})\s*[-–]\s*(?P<end>{_NUMBER})"
)
_EXTRA = re.compile(r"(?:^|\s+)([^\W\d]\w*)=(\S+)$")


def parse_notation(text: str) -> dict[str, Any]:
    """Parses a schedule in the one-line notation.

    The name and the values are not checked here; `Schedule` does that.

    Args:
        text: The notation, as described in this module.

    Returns:
        The arguments of `Schedule`.

    Raises:
        ScheduleError: If the text cannot be parsed.
    """
    name, _, rest = text.strip().partition(" ")
    is_own = is_import_path(name)
    extras: dict[str, Any] = {}
    while match := _EXTRA.search(rest):
        key, value = match.groups()
        if key in extras:
            raise ScheduleError(f"Schedule {text!r} gives {key} twice.")
        extras[key] = value if key == "interval" else _value(value, text, is_own)
        rest = rest[: match.start()]
    rest = rest.strip()
    if is_own:
        interval = {"interval": extras.pop("interval")} if "interval" in extras else {}
        extras = {"arguments": extras, **interval} if extras else interval
    if name in schedule_map:
        known = ["interval", *(declared_parameters(schedule_map[name]) or ())]
        for key in extras:
            if key not in known:
                raise ScheduleError(
                    f"Schedule {text!r} has the unknown argument {key}.{did_you_mean(key, known)}"
                )
    if name == "piecewise" and _POINTS.fullmatch(rest):
        pairs = [point.split(":") for point in rest.split()]
        return {"schedule": name, "points": [[float(e), float(v)] for e, v in pairs], **extras}
    if (name == "constant" or is_own) and (match := _CONSTANT.fullmatch(rest)):
        value = float(match["initial"])
        return {"schedule": name, "initial_value": value, "target_value": value, **extras}
    if match := _MOVE.fullmatch(rest):
        return {
            "schedule": name,
            "start_epoch": _number(match["start"], text),
            "end_epoch": _number(match["end"], text),
            "initial_value": float(match["initial"]),
            "target_value": float(match["target"]),
            **extras,
        }
    if is_own and not rest:
        return {"schedule": name, **extras}
    raise ScheduleError(
        f"{text!r} is not a schedule; write 'linear 100->0 @ 100-200', 'constant 5' or "
        "'piecewise 1:0 10:1' (write a plain number without quotes)."
    )


def notation_of(schedule: Schedule) -> str:
    """Formats a schedule in one line that `parse_notation` can read.

    A schedule whose function is a callable is formatted as the name of the callable.
    """
    return schedule.name + _values_of(schedule) + "".join(_extras_of(schedule))


def _extras_of(schedule: Schedule) -> Iterator[str]:
    if not isinstance(schedule.schedule, str):
        return
    function = schedule_map.get(schedule.schedule)
    parameters = (declared_parameters(function) if function else None) or {}
    for name, value in schedule.arguments.items():
        is_default = name in parameters and parameters[name].default == value
        if name != "points" and not is_default:
            yield f" {name}={_argument_text(value)}"
    if schedule.interval != "epoch":
        yield f" interval={schedule.interval}"


def _values_of(schedule: Schedule) -> str:
    a, b = format_number(schedule.initial_value), format_number(schedule.target_value)
    start, end = format_number(schedule.start_epoch), format_number(schedule.end_epoch)
    if schedule.schedule == "piecewise":
        return "".join(
            f" {format_number(epoch)}:{format_number(value)}"
            for epoch, value in schedule.arguments["points"]
        )
    if not isinstance(schedule.schedule, str):
        return ""
    is_own = schedule.schedule not in schedule_map
    if schedule.schedule == "constant" or (is_own and a == b and start == end == "1"):
        return f" {a}"
    return f" {a}→{b} @ {start}–{end}"


def format_number(value: float) -> str:
    """The shortest text that gives the same number when parsed; no decimal point if it is whole."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def _value(text: str, whole: str, is_own: bool) -> Any:
    """Parses the value of an argument: a number; for a custom function also JSON or a word."""
    if not is_own or re.fullmatch(_NUMBER, text):
        return _number(text, whole)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _argument_text(value: Any) -> str:
    """Formats an argument for `_value` to parse: a number, a word, or JSON without spaces."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return format_number(float(value))
    if isinstance(value, str) and re.fullmatch(r"\S+", value) and _value(value, "", True) == value:
        return value
    return json.dumps(value, separators=(",", ":")).replace(" ", "\\u0020")


def _number(text: str, whole: str) -> float:
    if not re.fullmatch(_NUMBER, text):
        raise ScheduleError(f"{text!r} in schedule {whole!r} is not a number.")
    value = float(text)
    return int(value) if value.is_integer() else value
