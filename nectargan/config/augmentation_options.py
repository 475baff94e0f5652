"""The section ``dataloader.augmentations`` of a config; its keys are those of v0.2.3.

The keys of a built-in augmentation are generated from the parameters that its class declares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model, model_validator

from nectargan.config.base import Chance, ImportPath, Section
from nectargan.dataset.augmentation import Augmentation
from nectargan.dataset.built_in_augmentations import ON_BOTH, ON_INPUT


class OwnAugmentation(Section):
    """An augmentation of your own; see `nectargan.dataset.augmentation.Augmentation`."""

    function: ImportPath
    """Import path, "package.module.Name", of a class with the methods draw and apply. The class is
    imported when a run starts."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class."""
    chance: Chance
    """Probability that a pair is changed."""


class _Augmentations(Section):
    own: dict[str, OwnAugmentation] = Field(default_factory=dict)
    """Your own augmentations, each under a name of your choice. They are applied in this order,
    after the built-in ones."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> _Augmentations:
        """Checks that no field "..._min..." is above its field "..._max..."."""
        for low in type(self).model_fields:
            high = low.replace("_min", "_max")
            if high != low and getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} must not be above {high}")
        return self


class _BothAugmentations(_Augmentations):
    """Augmentations that change both images of a pair in the same way."""

    h_flip_chance: Chance = 0.5
    """Chance of a left-right flip."""
    v_flip_chance: Chance = 0.0
    """Chance of a top-bottom flip."""
    rot90_chance: Chance = 0.0
    """Chance of one to three quarter turns; needs a square crop_size."""


class _InputAugmentations(_Augmentations):
    """Augmentations of the input image only."""


def _fields(kinds: tuple[type[Augmentation], ...]) -> dict[str, Any]:
    """The config fields of the augmentations: the chance and the declared parameters of each."""
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
    """Augmentations of the target image only. There are no built-in ones."""


class Augmentations(Section):
    """Random changes to the training images."""

    both: BothAugmentations = BothAugmentations()
    """The same changes to input and target."""
    input: InputAugmentations = InputAugmentations()
    """Changes to the input only."""
    target: TargetAugmentations = TargetAugmentations()
    """Changes to the target only."""
