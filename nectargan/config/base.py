"""What all sections of the config share: strictness, and the types of their fields."""

from __future__ import annotations

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
from nectargan.names import FORMULA
from nectargan.scheduling.schedules import FLOAT32_MAX
from nectargan.shell import expanded

BACKSLASHES = 'in quotes a backslash is written twice, as in "D:\\\\new", or / in its place'


def _size(value: object) -> object:
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    good = len(sides) == 2 and all(type(s) is int and 0 < s <= MOST_PIXELS for s in sides)
    if not good:
        raise ValueError(
            f"it must be a whole number of pixels from 1 to {MOST_PIXELS}, or [height, width]"
        )
    return list(value) if isinstance(value, (list, tuple)) else value


def _resize(value: object) -> object:
    words = value if isinstance(value, (list, tuple)) else [value, value]
    known = get_args(choices.Resize)
    if len(words) != 2 or any(word not in known for word in words):
        raise ValueError(f"it must be {' or '.join(known)}, or [input, target] of these")
    return list(value) if isinstance(value, (list, tuple)) else value


def _one_or_two(item: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a value for both, or a list of one for each."""
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 2, "maxItems": 2}]}


def _text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


def _path(path: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in path):
        raise ValueError(f"it has a line break or another control character in it; {BACKSLASHES}")
    return expanded(path)


def _name(name: str) -> str:
    plain = all(c.isalnum() or c in "_-. " for c in name)
    if not plain or not name.strip() or name.startswith((".", *FORMULA)) or len(name) > 100:
        raise ValueError(
            "it must be 1 to 100 letters, digits, '_', '-', '.' or spaces, with no dot and no '-' "
            "in front"
        )
    return name


def on_or_off(value: object) -> object:
    """YAML reads on and off as booleans; where both are words of ours, they are read back."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


# Beyond what anybody could mean: what passes may be much, but it is no slip of the finger.
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
Depth = Annotated[int, Field(ge=0, le=16)]  # layers that halve an image of at most MOST_PIXELS
Channels = Annotated[int, Field(ge=1, le=4)]
Size = Annotated[
    int | list[int],
    BeforeValidator(_size),
    WithJsonSchema(_one_or_two({"type": "integer", "minimum": 1, "maximum": MOST_PIXELS})),
]
Resize = Annotated[
    str | list[str],
    BeforeValidator(_resize),
    WithJsonSchema(_one_or_two({"enum": list(get_args(choices.Resize))})),
]
PathText = Annotated[str, AfterValidator(_path)]
Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[Text, AfterValidator(_name)]  # of a file, and of things in a tracker


class Section(BaseModel):
    """Base of all sections: strict types, no unknown keys, a description on every field."""

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
        # Bytes of a file name that are no characters have no place in JSON or in a database.
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("it is not UTF-8")
        return value
