"""Parses the options of a sweep and their values, ``key=value,value,…``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nectargan.config.config_manager import parse_override
from nectargan.errors import ConfigError
from nectargan.scheduling.schedules import FLOAT32_MAX

_CLOSING = {"[": "]", "{": "}"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<log>:log)?")
# They determine where runs are stored, and are the same for all runs of a sweep.
_NOT_SWEPT = (
    "common.output_directory",
    "common.experiment_name",
    "common.experiment_version",
    "logging.mlflow.group",
    "logging.mlflow.experiment",
    "logging.mlflow.tracking_uri",  # may contain a password, and the values are shown
)


class Range(NamedTuple):
    """All numbers from ``low`` to ``high`` inclusive; with ``log``, sampled on a log scale."""

    low: float
    high: float
    log: bool

    @property
    def is_whole(self) -> bool:
        """Whether both ends are whole numbers."""
        return self.low.is_integer() and self.high.is_integer()


class Axis(NamedTuple):
    """One swept option.

    Attributes:
        key: Its dotted key in the config.
        items: The values as text; empty for a range.
        range: The range; ``None`` for a list of values.
    """

    key: str
    items: list[str]
    range: Range | None = None

    def value_of(self, item: str) -> Any:
        """Parses an item as JSON; if it is not valid JSON, it is taken as text."""
        return parse_override(f"{self.key}={item}")[1]


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Parses texts such as ``key=10,50,100``, ``key=1..100`` or ``key=0.01..10:log``.

    Raises:
        ConfigError: a text cannot be parsed, a key is given twice or is part of another one, or it
            determines where runs are stored.
    """
    axes = [_parse_axis(text) for text in texts]
    keys = [axis.key for axis in axes]
    for index, key in enumerate(keys):
        for other in keys[:index]:
            if key == other:
                raise ConfigError(f"--sweep gives {key} twice; put all its values into one.")
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise ConfigError(f"--sweep gives {other} and {key}, but one contains the other.")
        if any(f"{fixed}.".startswith(f"{key}.") for fixed in _NOT_SWEPT):
            raise ConfigError(f"--sweep {key} cannot be used: it determines where runs are stored.")
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
            raise ConfigError(f"--sweep {key}: range '{values}' exceeds the range of a float32.")
        return Axis(key, [], span)
    try:
        items = split_values(values)
    except ValueError as error:
        raise ConfigError(f"--sweep {key}: {error} in '{values}'.") from None
    if "" in items:
        raise ConfigError(f"--sweep {text!r} has an empty value; write key=10,50,100.")
    return Axis(key, items)


def split_values(text: str) -> list[str]:
    """Splits text at the commas outside of brackets, braces and double quotes.

    Raises:
        ValueError: brackets, braces or quotes are not balanced.
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
            raise ValueError(f"{character!r} has no opening bracket")
    if quoted or closing:
        missing = '"' if quoted else closing[-1]
        raise ValueError(f"a {missing!r} is missing")
    return [item.strip() for item in items]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key if no other key has the same; else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    return {k: name if last.count(name) == 1 else k for k, name in zip(keys, last, strict=True)}


def name_of(values: Mapping[str, str]) -> str:
    """Options and their values in one line, with short names."""
    short = short_names(list(values))
    return "  ".join(f"{short[key]}={value}" for key, value in values.items())
