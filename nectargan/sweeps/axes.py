"""What a sweep goes through: ``key=value,value,…`` for each option of the config that varies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from nectargan.config.config_manager import parse_override
from nectargan.errors import ConfigError
from nectargan.scheduling.schedules import FLOAT32_MAX

_CLOSING = {"[": "]", "{": "}"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<log>:log)?")
# They say where runs are kept, and are the same for all of a sweep.
_NOT_SWEPT = (
    "common.output_directory",
    "common.experiment_name",
    "common.experiment_version",
    "logging.mlflow.group",
    "logging.mlflow.experiment",
    "logging.mlflow.tracking_uri",  # it may hold a password, and names of runs are shown
)


class Range(NamedTuple):
    """All numbers from ``low`` to ``high``, both included; ``log`` for equal chances per decade."""

    low: float
    high: float
    log: bool

    @property
    def is_whole(self) -> bool:
        """Whether both ends are whole numbers."""
        return self.low.is_integer() and self.high.is_integer()


class Axis(NamedTuple):
    """One option that varies.

    Attributes:
        key: Its dotted key in the config.
        items: The values as they were written; none for a range.
        range: The range, if that is what was written.
    """

    key: str
    items: list[str]
    range: Range | None = None

    def value_of(self, item: str) -> Any:
        """The value that an item stands for: JSON where it parses as JSON, text otherwise."""
        return parse_override(f"{self.key}={item}")[1]


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Reads ``key=10,50,100`` or ``key=1..100`` or ``key=0.01..10:log``, for each option.

    Raises:
        ConfigError: one cannot be read, a key is given twice or lies within another one, or says
            where runs are kept.
    """
    axes = [_parse_axis(text) for text in texts]
    keys = [axis.key for axis in axes]
    for index, key in enumerate(keys):
        for other in keys[:index]:
            if key == other:
                raise ConfigError(f"--sweep gives {key} twice; put all its values into one.")
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise ConfigError(f"--sweep gives both {other} and {key}, one within the other.")
        if any(f"{fixed}.".startswith(f"{key}.") for fixed in _NOT_SWEPT):
            raise ConfigError(f"--sweep {key}: it says where runs are kept, and cannot be swept.")
    return axes


def _parse_axis(text: str) -> Axis:
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"--sweep {text!r} is not of the form section.key=value,value.")
    if found := _RANGE.fullmatch(values):
        span = Range(float(found["low"]), float(found["high"]), bool(found["log"]))
        if not span.low < span.high or (span.log and span.low <= 0):
            above = ", above 0 for a logarithmic one" if span.log else ""
            raise ConfigError(f"--sweep {key}: range '{values}' must go from low to high{above}.")
        if max(-span.low, span.high) > FLOAT32_MAX:
            raise ConfigError(f"--sweep {key}: range '{values}' is beyond what a float32 can hold.")
        return Axis(key, [], span)
    try:
        items = split_values(values)
    except ValueError as error:
        raise ConfigError(f"--sweep {key}: {error} in '{values}'.") from None
    if "" in items:
        raise ConfigError(f"--sweep {text!r} has an empty value; write key=10,50,100.")
    return Axis(key, items)


def split_values(text: str) -> list[str]:
    """Splits at the commas that are within no brackets, braces or double quotes.

    Raises:
        ValueError: one of these is not closed, or closes what was not open.
    """
    items, closing, quoted, escaped = [""], list[str](), False, False
    for character in text:
        if character == "," and not closing and not quoted:
            items.append("")
            continue
        items[-1] += character
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in _CLOSING:
            closing.append(_CLOSING[character])
        elif character in _CLOSING.values() and (not closing or closing.pop() != character):
            raise ValueError(f"nothing was opened that {character!r} could close")
    if quoted or closing:
        missing = '"' if quoted else closing[-1]
        raise ValueError(f"a {missing!r} is missing")
    return [item.strip() for item in items]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, where it is not that of another one too; else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    return {k: name if last.count(name) == 1 else k for k, name in zip(keys, last, strict=True)}
