"""Random changes to the training images, as a config spells them; the names of v0.2.3."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from nectargan.config.base import Chance, Section

SectionT = TypeVar("SectionT", bound=Section)

Distortion = Annotated[float, Field(ge=-10.0, le=10.0)]
Holes = Annotated[int, Field(ge=1, le=10_000)]
Brightness = Annotated[float, Field(ge=0.0, le=1e4)]
Gamma = Annotated[float, Field(gt=0.0, le=1e5)]


class BothAugmentations(Section):
    """Augmentations with the same parameters for both images of a pair."""

    h_flip_chance: Chance = 0.5
    """Chance of a left-right flip."""
    v_flip_chance: Chance = 0.0
    """Chance of a top-bottom flip."""
    rot90_chance: Chance = 0.0
    """Chance of one to three quarter turns; needs a square crop_size."""
    elastic_transform_chance: Chance = 0.0
    """Chance of an elastic deformation."""
    elastic_transform_alpha: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    """Strength of the deformation."""
    elastic_transform_sigma: Annotated[float, Field(gt=0.0, le=1000.0)] = 50.0
    """Smoothness of the deformation, pixels."""
    optical_distortion_chance: Chance = 0.0
    """Chance of a lens distortion."""
    optical_distortion_min: Distortion = -0.05
    """Lowest distortion coefficient."""
    optical_distortion_max: Distortion = 0.05
    """Highest distortion coefficient."""
    optical_distortion_mode: Literal["camera", "fisheye"] = "camera"
    """Model of the lens."""
    coarse_dropout_chance: Chance = 0.0
    """Chance of holes in the images."""
    coarse_dropout_holes_min: Holes = 1
    """Fewest holes."""
    coarse_dropout_holes_max: Holes = 2
    """Most holes."""
    coarse_dropout_height_min: Chance = 0.1
    """Lowest height of a hole, as part of the image's."""
    coarse_dropout_height_max: Chance = 0.2
    """Largest height of a hole."""
    coarse_dropout_width_min: Chance = 0.1
    """Lowest width of a hole, as part of the image's."""
    coarse_dropout_width_max: Chance = 0.2
    """Largest width of a hole."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> BothAugmentations:
        return _check_ranges(self)


class InputAugmentations(Section):
    """Augmentations of the input image alone."""

    colorjitter_chance: Chance = 0.0
    """Chance of a change of brightness."""
    colorjitter_min_brightness: Brightness = 0.8
    """Lowest brightness factor."""
    colorjitter_max_brightness: Brightness = 1.2
    """Highest brightness factor."""
    gaussnoise_chance: Chance = 0.0
    """Chance of Gaussian noise."""
    gaussnoise_min: Chance = 0.2
    """Lowest standard deviation, as part of the value range."""
    gaussnoise_max: Chance = 0.44
    """Highest standard deviation."""
    motionblur_chance: Chance = 0.0
    """Chance of a motion blur."""
    motionblur_limit: Annotated[int, Field(ge=3, le=255)] = 7
    """Largest kernel, pixels."""
    randgamma_chance: Chance = 0.0
    """Chance of a gamma curve."""
    randgamma_min: Gamma = 80.0
    """Lowest gamma, percent."""
    randgamma_max: Gamma = 120.0
    """Highest gamma, percent."""
    grayscale_chance: Chance = 0.0
    """Chance of losing all colour."""
    grayscale_method: Literal["weighted_average", "from_lab", "average", "max", "desaturation"] = (
        "weighted_average"
    )
    """How the channels become one: luma, CIE lightness, mean, largest, or mean of the extremes."""
    compression_chance: Chance = 0.0
    """Chance of compression artefacts."""
    compression_type: Literal["jpeg"] = "jpeg"
    """Kind of compression."""
    compression_quality_min: Annotated[int, Field(ge=1, le=100)] = 99
    """Lowest quality."""
    compression_quality_max: Annotated[int, Field(ge=1, le=100)] = 100
    """Highest quality."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> InputAugmentations:
        return _check_ranges(self)


def _check_ranges(section: SectionT) -> SectionT:
    """Refuses every pair of fields ..._min.../..._max... whose minimum is the larger one."""
    for low in type(section).model_fields:
        high = low.replace("_min", "_max")
        if high != low and getattr(section, low) > getattr(section, high):
            raise ValueError(f"{low} must not be above {high}")
    return section


class TargetAugmentations(Section):
    """Augmentations of the target image alone: there are none, as in v0.2.3."""


class Augmentations(Section):
    """Random changes to the training images."""

    both: BothAugmentations = BothAugmentations()
    """The same change to input and target."""
    input: InputAugmentations = InputAugmentations()
    """Changes to the input alone."""
    target: TargetAugmentations = TargetAugmentations()
    """Changes to the target alone."""
