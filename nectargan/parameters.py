"""Reads the type, bounds, description and default of a parameter from its declaration.

A function or class declares a parameter as in::

    power: Annotated[float, Gt(0), "Exponent."] = 2.0

The bounds come from `annotated_types`, which pydantic also reads. The text is the description.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from annotated_types import GroupedMetadata, Interval

REQUIRED = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A keyword argument of a function, or a field of a class.

    Attributes:
        annotation: The type, or an ``Annotated`` type; ``Any`` if there is no annotation.
        default: The default value, or `REQUIRED`.
    """

    annotation: Any
    default: Any

    @property
    def type(self) -> Any:
        """The type without its annotations."""
        is_annotated = get_origin(self.annotation) is Annotated
        return get_args(self.annotation)[0] if is_annotated else self.annotation

    @property
    def description(self) -> str:
        """The text in the annotation; empty if there is none."""
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
        """The bounds as text: "above 0 and <= 5", or "in (0, 5]" for an `Interval` of floats."""
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
