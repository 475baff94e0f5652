"""Schedules in one line of text, the same in configs, on the command line and in trackers::

    linear 100->0 @ 100-200
    polynomial 1->0 @ 1-50 power=3
    linear 0->1 @ 1-20 interval=step
    constant 5
    piecewise 1:0 10:1 20:0.5

The arrow may be written ``→`` and the dash between the epochs ``–``, as `notation_of` does.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from nectargan.errors import ScheduleError
from nectargan.scheduling.data import Schedule

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONSTANT = re.compile(rf"(?P<initial>{_NUMBER})")
_POINTS = re.compile(rf"{_NUMBER}:{_NUMBER}(?:\s+{_NUMBER}:{_NUMBER})*")
_MOVE = re.compile(
    rf"(?P<initial>{_NUMBER})\s*(?:->|→)\s*(?P<target>{_NUMBER})"
    rf"\s*@\s*(?P<start>{_NUMBER})\s*[-–]\s*(?P<end>{_NUMBER})"
)
_EXTRA = re.compile(r"\s+(power|cycles|ramp|steps|interval)=(\S+)$")
_DEFAULTS = {field.name: field.default for field in fields(Schedule)}


def parse_notation(text: str) -> dict[str, Any]:
    """Reads a schedule in one line.

    Args:
        text: See the module.

    Returns:
        The arguments of `Schedule`.

    Raises:
        ScheduleError: it cannot be read. The name and the numbers are for `Schedule` to check.
    """
    name, _, rest = text.strip().partition(" ")
    extras: dict[str, Any] = {}
    while match := _EXTRA.search(rest):
        key, value = match.groups()
        if key in extras:
            raise ScheduleError(f"Schedule {text!r} gives {key} twice.")
        extras[key] = value if key == "interval" else _number(value, text)
        rest = rest[: match.start()]
    rest = rest.strip()
    if name == "piecewise" and _POINTS.fullmatch(rest):
        pairs = [point.split(":") for point in rest.split()]
        return {"schedule": name, "points": [[float(e), float(v)] for e, v in pairs], **extras}
    if name == "constant" and (match := _CONSTANT.fullmatch(rest)):
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
    raise ScheduleError(
        f"{text!r} is no schedule; write 'linear 100->0 @ 100-200', 'constant 5' or "
        "'piecewise 1:0 10:1' (a plain number has no quotes)."
    )


def notation_of(schedule: Schedule) -> str:
    """A schedule in one line, which `parse_notation` reads back; for a callable, its name."""
    extras = [
        f" {name}={value if name == 'interval' else format_number(value)}"
        for name in ("power", "cycles", "ramp", "steps", "interval")
        if (value := getattr(schedule, name)) != _DEFAULTS[name]
    ]
    return schedule.name + _values_of(schedule) + "".join(extras)


def _values_of(schedule: Schedule) -> str:
    if schedule.schedule == "constant":
        return f" {format_number(schedule.initial_value)}"
    if schedule.schedule == "piecewise":
        return "".join(
            f" {format_number(epoch)}:{format_number(value)}" for epoch, value in schedule.points
        )
    if not isinstance(schedule.schedule, str):
        return ""
    return (
        f" {format_number(schedule.initial_value)}→{format_number(schedule.target_value)}"
        f" @ {format_number(schedule.start_epoch)}–{format_number(schedule.end_epoch)}"
    )


def format_number(value: float) -> str:
    """The shortest text that reads back to the same number; whole ones without a point."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def _number(text: str, whole: str) -> float:
    if not re.fullmatch(_NUMBER, text):
        raise ScheduleError(f"{text!r} in schedule {whole!r} is no number.")
    value = float(text)
    return int(value) if value.is_integer() else value
