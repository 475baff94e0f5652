"""What an augmentation is, built in or of one's own.

An augmentation declares its parameters as the fields of a dataclass, annotated as
`nectargan.parameters` says: the config, its checks and its documentation follow from them. It
draws random numbers on the CPU, so that no decision waits for the device and `torch.manual_seed`
makes them reproducible, and works on images in [0, 1].

Nothing here imports torch: the config reads what is declared.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal, get_args, get_origin, get_type_hints

from nectargan.errors import DataError
from nectargan.parameters import REQUIRED, Parameter

if TYPE_CHECKING:
    from torch import Tensor

    Params = tuple[Tensor, ...]


@dataclass(frozen=True)
class Augmentation(ABC):
    """One augmentation. A field ``min`` or ``…_min`` must not be above the one with "max".

    Attributes:
        name: Prefix of its keys in the config, where it is built in: ``<name>_<field>``.
        does: What it does, for the documentation of the config: "a motion blur".
        needs_rgb: Whether it works on 3 channels only.
        moves_pixels: Whether it says where a pixel comes from, so that alpha is to come along; all
            else changes colours, and leaves alpha alone.

    Raises:
        DataError: a value is out of its bounds, is none of those allowed, or above its maximum.
    """

    name: ClassVar[str] = ""
    does: ClassVar[str] = ""
    needs_rgb: ClassVar[bool] = False
    moves_pixels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parameters = self.parameters()
        for field, parameter in parameters.items():
            value, largest = getattr(self, field), field.replace("min", "max")
            if get_origin(parameter.type) is Literal:
                _require_one_of(field, value, get_args(parameter.type))
            elif largest != field and largest in parameters:
                both = {field: value, largest: getattr(self, largest)}
                _require_ordered(parameter.bounds, both)
            elif field.replace("max", "min") not in parameters or "max" not in field:
                _require_ordered(parameter.bounds, {field: value})

    @classmethod
    def parameters(cls) -> Mapping[str, Parameter]:
        """What its fields declare, by their names."""
        return _parameters_of(cls)

    @abstractmethod
    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        """Random parameters for `n` images ``(c, h, w)``, on the CPU."""

    @abstractmethod
    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to the same shape; clamped by the caller. With the same
        `params`, the same is done to other images of the same size."""


@functools.cache
def _parameters_of(kind: type[Augmentation]) -> Mapping[str, Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: Parameter(
            hints[field.name], REQUIRED if field.default is MISSING else field.default
        )
        for field in fields(kind)
    }


def _require_ordered(bounds: Mapping[str, float], values: Mapping[str, float]) -> None:
    least, most = bounds.get("ge", -math.inf), bounds.get("le", math.inf)
    # Written so that NaN fails.
    if all(low <= high for low, high in itertools.pairwise([least, *values.values(), most])):
        return
    ends = [str(least)] if least > -math.inf else [], [str(most)] if most < math.inf else []
    given = ", ".join(f"{name} = {value}" for name, value in values.items())
    raise DataError(f"needs {' <= '.join([*ends[0], *values, *ends[1]])}, got {given}.")


def _require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"has the {name} '{value}', allowed: {', '.join(allowed)}.")


def onto(images: Tensor, values: Tensor) -> Tensor:
    """``values`` on the device of ``images``."""
    # Only CUDA stages a pageable copy before it returns; elsewhere the source could be freed first.
    return values.to(images.device, non_blocking=images.is_cuda)
