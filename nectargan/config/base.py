"""What all sections of the config share: strictness, and the types of their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _size(value: object) -> object:
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    good = len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)
    if not good:
        raise ValueError("it must be a whole number of pixels above 0, or [height, width]")
    return list(value) if isinstance(value, (list, tuple)) else value


def _text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


def _name(name: str) -> str:
    plain = all(c.isalnum() or c in "_-. " for c in name)
    if not plain or not name.strip() or name.startswith(".") or len(name) > 100:
        raise ValueError(
            "it must be 1 to 100 letters, digits, '_', '-', '.' or spaces, with no dot in front"
        )
    return name


def on_or_off(value: object) -> object:
    """YAML reads on and off as booleans; where both are words of ours, they are read back."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Chance = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Channels = Annotated[int, Field(ge=1, le=4)]
Size = Annotated[int | list[int], BeforeValidator(_size)]
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
