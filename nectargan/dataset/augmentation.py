"""`Augmentation`, the base class of built-in and custom augmentations.

An augmentation is a dataclass. Its fields, annotated as `nectargan.parameters` describes, are its
parameters; the config keys, their checks and their documentation are generated from them. Random
numbers are drawn on the CPU, so that nothing waits for the device and `torch.manual_seed` makes
them reproducible. Images are in [0, 1].

This module does not import torch, because the config imports it to read the parameters.
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
    """Base class of an augmentation.

    A field with "min" in its name must not be above the field with "max" instead.

    Attributes:
        name: Prefix of the config keys of a built-in augmentation: ``<name>_<field>``.
        does: Description for the documentation of the config, such as "a motion blur".
        needs_rgb: Whether it only works on images with 3 channels.
        is_of_colors: Whether it changes colors as a camera does, which makes no sense for images
            with more than 4 channels.
        moves_pixels: Whether it moves pixels. Alpha is then moved too. All other augmentations
            change colors and leave alpha unchanged.

    Raises:
        DataError: If a field is out of bounds, not an allowed value, or above its maximum.
    """

    name: ClassVar[str] = ""
    does: ClassVar[str] = ""
    needs_rgb: ClassVar[bool] = False
    is_of_colors: ClassVar[bool] = False
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
        """The parameters that the class declares, by the names of its fields."""
        return _declared_fields(cls)

    @abstractmethod
    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        """Draws random parameters for `n` images ``(c, h, w)``, as tensors on the CPU."""

    @abstractmethod
    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        """Applies the augmentation.

        Args:
            images: ``(N, C, H, W)``, float32 in [0, 1].
            *params: The result of `draw`. With the same parameters, other images of the same size
                are changed in the same way.

        Returns:
            Images of the same shape. The caller clamps them to [0, 1].
        """


@functools.cache
def _declared_fields(kind: type[Augmentation]) -> Mapping[str, Parameter]:
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
    raise DataError(f"needs {' <= '.join([*ends[0], *values, *ends[1]])}, but got {given}.")


def _require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"has the {name} '{value}', allowed: {', '.join(allowed)}.")


def onto(images: Tensor, values: Tensor) -> Tensor:
    """Copies ``values`` to the device of ``images``."""
    # Only CUDA copies pageable memory to a staging buffer before it returns. On other devices the
    # source could be freed during a non-blocking copy.
    return values.to(images.device, non_blocking=images.is_cuda)
