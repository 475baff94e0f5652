"""The base class of all sections of the config, and the types of their fields."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
)

from nectargan.config import choices
from nectargan.imports import is_import_path
from nectargan.names import FORMULA
from nectargan.scheduling.schedules import FLOAT32_MAX
from nectargan.shell import expanded

_LAST_CHANNEL = 65_535  # of a TIFF
BACKSLASHES = 'in quotes, write a backslash twice, as in "D:\\\\new", or use / instead'


def _checked_size(value: object) -> object:
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    good = len(sides) == 2 and all(type(s) is int and 0 < s <= MOST_PIXELS for s in sides)
    if not good:
        raise ValueError(
            f"it must be a whole number of pixels from 1 to {MOST_PIXELS}, or [height, width]"
        )
    return list(value) if isinstance(value, (list, tuple)) else value


def _channels(value: Any) -> object:
    if type(value) in (str, int):  # as --set gives them: R,G,B
        parts = (part.strip() for part in str(value).strip("[] ").split(","))
        value = [int(part) if re.fullmatch(r"-?[0-9]{1,99}", part) else part for part in parts]
    good = isinstance(value, list) and 1 <= len(value) <= 64
    if not good or not all(
        (type(v) is str and v) or (type(v) is int and 1 <= v <= _LAST_CHANNEL) for v in value
    ):
        raise ValueError(
            f"it must be a list of 1 to 64 names, or numbers from 1 to {_LAST_CHANNEL}, of channels"
        )
    return value


def words_in(value: object) -> object:
    """A list of words as ``--set`` gives it, such as "linear,log" or "[linear, log]", as a list."""
    if isinstance(value, str) and ("," in value or value.startswith("[")):
        return [word.strip(" '\"") for word in value.strip("[] ").split(",")]
    return value


def _resize(value: object) -> object:
    value = words_in(value)
    words = value if isinstance(value, (list, tuple)) else [value, value]
    known = get_args(choices.Interpolation)
    if len(words) != 2 or any(word not in known for word in words):
        raise ValueError(f"it must be {' or '.join(known)}, or [input, target] of these")
    return list(value) if isinstance(value, (list, tuple)) else value


def one_or_two(item: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a single value, or a list of two values."""
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 2, "maxItems": 2}]}


def _number_as_text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


def _path(path: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in path):
        raise ValueError(f"it contains a line break or another control character; {BACKSLASHES}")
    return expanded(path)


def _name(name: str) -> str:
    plain = all(c.isalnum() or c in "_-. " for c in name)
    if not plain or not name.strip() or name.startswith((".", *FORMULA)) or len(name) > 100:
        raise ValueError(
            "it must be 1 to 100 letters, digits, '_', '-', '.' or spaces, and must not begin with "
            "'.' or '-'"
        )
    return name


def _import_path(path: str) -> str:
    if not is_import_path(path):
        raise ValueError("it must have the form package.module.Name")
    return path


def on_or_off(value: object) -> object:
    """Turns a boolean back into "on" or "off", because YAML reads these words as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


_EVERY = re.compile(r"every ([0-9]{1,10})(?: steps?)?")


def _on_off_or_steps(value: object) -> object:
    value = on_or_off(value)
    if isinstance(value, str) and (count := _EVERY.fullmatch(value.strip())):
        value = int(count[1])
    is_count = type(value) is int and 1 <= value <= MOST
    if value not in get_args(choices.OnOff) and not is_count:
        raise ValueError(f"it must be on, off, or a whole number of steps from 1 to {MOST}")
    return value


# Limits far above any sensible value, to catch typing errors.
MOST_EPOCHS = 100_000
MOST_PIXELS = 65_536
MOST = 10**9
DAY = 86_400.0

Chance = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=FLOAT32_MAX)]
NotNegative = Annotated[float, Field(ge=0.0, le=FLOAT32_MAX)]
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
Epochs = Annotated[int, Field(ge=0, le=MOST_EPOCHS)]
Width = Annotated[int, Field(ge=1, le=8192)]  # channels of a layer
Depth = Annotated[int, Field(ge=0, le=16)]  # halvings of an image side; 2**16 is MOST_PIXELS
Channels = Annotated[int, Field(ge=1, le=64)]
ChannelList = Annotated[
    list[str | int],
    BeforeValidator(_channels),
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "integer", "minimum": 1, "maximum": _LAST_CHANNEL},
                ]
            },
            "minItems": 1,
            "maxItems": 64,
        }
    ),
]
ImageSize = Annotated[
    int | list[int],
    BeforeValidator(_checked_size),
    WithJsonSchema(one_or_two({"type": "integer", "minimum": 1, "maximum": MOST_PIXELS})),
]
Resize = Annotated[
    str | list[str],
    BeforeValidator(_resize),
    WithJsonSchema(one_or_two({"enum": list(get_args(choices.Interpolation))})),
]
OnOffOrSteps = Annotated[
    choices.OnOff | int,
    BeforeValidator(_on_off_or_steps),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(get_args(choices.OnOff))},
                {"type": "integer", "minimum": 1, "maximum": MOST},
            ]
        }
    ),
]
PathText = Annotated[str, AfterValidator(_path)]
ImportPath = Annotated[str, AfterValidator(_import_path)]
# YAML reads a name such as 12 as a number.
Text = Annotated[str, BeforeValidator(_number_as_text, json_schema_input_type=str | float)]
Name = Annotated[Text, AfterValidator(_name)]  # part of file names, and of names in a tracker


class Section(BaseModel):
    """Base class of all sections. Types are strict and unknown keys are rejected.

    The docstring below a field is its description in the help and in the JSON Schema.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_assignment=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_utf_8(cls, value: object) -> object:
        # Surrogates stand for bytes of a file name that are not UTF-8. JSON files and databases
        # cannot store them.
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("it is not UTF-8")
        return value
