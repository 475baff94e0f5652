"""The types of the options that say how the values of files become those of a network."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, WithJsonSchema

from nectargan.config.base import one_or_two, words_in
from nectargan.images.ranges import ALLOWED, OF_DTYPE, Transfer, percentiles_of, ranges_of


def _checked_range(value: object) -> object:
    if isinstance(value, str):
        if value.strip() != OF_DTYPE and percentiles_of(value) is None:
            raise ValueError(ALLOWED)
        return value.strip()
    ranges_of(value)
    return value


def _checked_transfer(value: object) -> object:
    value = words_in(value)
    words = value if isinstance(value, (list, tuple)) else [value, value]
    known = get_args(Transfer)
    if len(words) != 2 or any(word not in known for word in words):
        raise ValueError(f"it must be {', '.join(known)}, or [input, target] of these")
    return list(value) if isinstance(value, (list, tuple)) else value


_PAIR: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}

ValueRange = Annotated[
    str | list[float] | list[list[float]],
    BeforeValidator(_checked_range),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": OF_DTYPE},
                {"type": "string", "pattern": r"^percentile\s"},
                _PAIR,
                {"type": "array", "items": _PAIR, "minItems": 1},
            ]
        }
    ),
]
Transfers = Annotated[
    str | list[str],
    BeforeValidator(_checked_transfer),
    WithJsonSchema(one_or_two({"enum": list(get_args(Transfer))})),
]
