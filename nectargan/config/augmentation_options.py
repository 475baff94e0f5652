"""Random changes to the training images, as a config spells them; the names of v0.2.3.

The keys of built-in augmentations are those that their classes declare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model, field_validator, model_validator

from nectargan.config.base import Chance, Section
from nectargan.dataset.augmentation import Augmentation
from nectargan.dataset.built_in_augmentations import ON_BOTH, ON_INPUT
from nectargan.imports import is_import_path


class OwnAugmentation(Section):
    """An augmentation of your own; see `nectargan.dataset.augmentation.Augmentation`."""

    function: str
    """Import path, "package.module.Name", of a class with the methods draw and apply. It is
    imported when a run begins."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class."""
    chance: Chance
    """Chance of it, for each pair."""

    @field_validator("function")
    @classmethod
    def _is_an_import_path(cls, path: str) -> str:
        if not is_import_path(path):
            raise ValueError("it must have the form package.module.Name")
        return path


class _Augmentations(Section):
    own: dict[str, OwnAugmentation] = Field(default_factory=dict)
    """Augmentations of your own by any name, in the order in which they are applied, after the
    built-in ones."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> _Augmentations:
        """Refuses every pair of fields ..._min.../..._max... whose minimum is the larger one."""
        for low in type(self).model_fields:
            high = low.replace("_min", "_max")
            if high != low and getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} must not be above {high}")
        return self


class _BothAugmentations(_Augmentations):
    """Augmentations with the same parameters for both images of a pair."""

    h_flip_chance: Chance = 0.5
    """Chance of a left-right flip."""
    v_flip_chance: Chance = 0.0
    """Chance of a top-bottom flip."""
    rot90_chance: Chance = 0.0
    """Chance of one to three quarter turns; needs a square crop_size."""


class _InputAugmentations(_Augmentations):
    """Augmentations of the input image alone."""


def _fields(kinds: tuple[type[Augmentation], ...]) -> dict[str, Any]:
    """The chance of each augmentation and what it declares."""
    fields: dict[str, Any] = {}
    for kind in kinds:
        fields[f"{kind.name}_chance"] = (Chance, Field(0.0, description=f"Chance of {kind.does}."))
        for name, parameter in kind.parameters().items():
            fields[f"{kind.name}_{name}"] = (
                parameter.annotation,
                Field(parameter.default, description=parameter.description),
            )
    return fields


def _with_fields(base: type[Section], kinds: tuple[type[Augmentation], ...]) -> Any:
    name = base.__name__.removeprefix("_")
    return create_model(
        name, __base__=base, __module__=__name__, __doc__=base.__doc__, **_fields(kinds)
    )


if TYPE_CHECKING:
    BothAugmentations = _BothAugmentations
    InputAugmentations = _InputAugmentations
else:
    BothAugmentations = _with_fields(_BothAugmentations, ON_BOTH)
    InputAugmentations = _with_fields(_InputAugmentations, ON_INPUT)


class TargetAugmentations(_Augmentations):
    """Augmentations of the target image alone: those of your own, for v0.2.3 had none."""


class Augmentations(Section):
    """Random changes to the training images."""

    both: BothAugmentations = BothAugmentations()
    """The same change to input and target."""
    input: InputAugmentations = InputAugmentations()
    """Changes to the input alone."""
    target: TargetAugmentations = TargetAugmentations()
    """Changes to the target alone."""
