"""What somebody declares about a parameter: its type, bounds, default and meaning, in one place.

All but the default is in the annotation::

    power: Annotated[float, Gt(0), "Exponent."] = 2.0

The bounds are those of `annotated_types`, which pydantic reads as well; the text is for people.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from annotated_types import GroupedMetadata, Interval

REQUIRED = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A keyword of a function, or a field of a class.

    Attributes:
        annotation: Its type with all that is annotated; ``Any`` where nothing is said.
        default: Its default, or `REQUIRED`.
    """

    annotation: Any
    default: Any

    @property
    def type(self) -> Any:
        """The type alone."""
        is_annotated = get_origin(self.annotation) is Annotated
        return get_args(self.annotation)[0] if is_annotated else self.annotation

    @property
    def description(self) -> str:
        """The text in the annotation; empty without one."""
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
        """ "above 0 and <= 5"; for an `Interval` of numbers that need not be whole, "in (0, 5]"."""
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
