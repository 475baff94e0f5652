"""Augmentations of whole batches on their device; flips and turns are `PairedDataset`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.dataset import stages
from nectargan.dataset.stages import Params, Stage, onto
from nectargan.errors import DataError, did_you_mean

# By the prefix of their keys, in the order in which they are applied.
BOTH_STAGES: dict[str, type[Stage]] = {
    "elastic_transform": stages.ElasticTransform,
    "optical_distortion": stages.OpticalDistortion,
    "coarse_dropout": stages.CoarseDropout,
}
INPUT_STAGES: dict[str, type[Stage]] = {
    "colorjitter": stages.ColorJitter,
    "gaussnoise": stages.GaussNoise,
    "motionblur": stages.MotionBlur,
    "randgamma": stages.RandGamma,
    "grayscale": stages.Grayscale,
    "compression": stages.Compression,
}
_WITH_ALPHA = (2, 4)  # channels, the last of which is alpha
_DONE_BY_THE_DATASET = ("h_flip_chance", "v_flip_chance", "rot90_chance")


class PairAugmentation(nn.Module):
    """The stages of a config whose chance is above zero, applied to batches in [-1, 1].

    Takes the flat keys of `dataloader.augmentations`. A stage of `both` does the same to input and
    target of a pair, and something else to each pair; a stage of `input` leaves the target alone.
    Alpha, the last of 2 or 4 channels, moves with its pixels and is not changed otherwise.
    A pair that no stage picks is returned bit for bit.

    Args:
        both: Keys of elastic_transform, optical_distortion and coarse_dropout; h_flip, v_flip
            and rot90 are accepted and ignored.
        input: Keys of colorjitter, gaussnoise, motionblur, randgamma, grayscale, compression.
        input_nc: Channels of the input; grayscale and compression need 3.
        nearest: Whether the input, and the target, has colours that are not to be mixed (label
            maps): whatever moves pixels takes the nearest one.

    Raises:
        DataError: An unknown, missing or impossible setting, named by its key.
    """

    def __init__(
        self,
        both: Mapping[str, Any],
        input: Mapping[str, Any],
        input_nc: int = 3,
        nearest: tuple[bool, bool] = (False, False),
    ) -> None:
        super().__init__()
        self._nearest = nearest
        self._both = _build(both, "both", BOTH_STAGES, _DONE_BY_THE_DATASET)
        self._input = _build(input, "input", INPUT_STAGES)
        for name, (_, stage) in self._input.items():
            if stage.needs_rgb and input_nc != 3:
                raise DataError(
                    f"augmentations.input.{name}_chance is above zero and input_nc is {input_nc}; "
                    f"{name} works on 3 channels."
                )

    @property
    def enabled(self) -> bool:
        """Whether any stage was built. If not, the module returns what it is given."""
        return bool(self._both or self._input)

    @torch.no_grad()
    def forward(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Augments `(N, C, H, W)` batches of equal size and float values in [-1, 1]."""
        of_input, of_target = self._nearest
        for chance, stage in self._both.values():
            input, target = _augment(stage, chance, (input, of_input), (target, of_target))
        for chance, stage in self._input.values():
            (input,) = _augment(stage, chance, (input, of_input))
        return input, target


def _augment(stage: Stage, chance: float, *batches: tuple[Tensor, bool]) -> Params:
    """Applies a stage to some rows, the same rows and parameters in each batch; with each, whether
    its pixels stay whole."""
    n, c, h, w = batches[0][0].shape
    rows = torch.nonzero(torch.rand(n) < chance).flatten()
    if not len(rows):
        return tuple(batch for batch, _ in batches)
    params = stage.draw(len(rows), c, h, w)
    return tuple(
        _move_whole_pixels(stage, batch, rows, params)
        if nearest and stage.moves_pixels
        else _on_rows(stage, batch, rows, params)
        for batch, nearest in batches
    )


def _on_rows(stage: Stage, batch: Tensor, rows: Tensor, params: Params) -> Tensor:
    rows = onto(batch, rows)
    images = batch.index_select(0, rows).add(1.0).div(2.0)
    images = stage.apply(images, *params).clamp(0.0, 1.0)
    images = images.mul(2.0).sub(1.0).to(batch.dtype)
    if batch.shape[1] in _WITH_ALPHA and not stage.moves_pixels:
        images[:, -1] = batch[rows, -1]
    return batch.index_copy(0, rows, images)


def _move_whole_pixels(stage: Stage, batch: Tensor, rows: Tensor, params: Params) -> Tensor:
    """Takes each pixel from the nearest to where it would be interpolated: no new colours.

    Where that is, two ramps say that are moved as an image: interpolation is exact on a ramp.
    """
    h, w = batch.shape[-2:]
    ramps = [torch.linspace(0.0, 1.0, side, device=batch.device) for side in (h, w)]
    places = torch.stack(torch.meshgrid(*ramps, indexing="ij")).expand(len(rows), 2, h, w)
    y, x = stage.apply(places, *params).clamp(0.0, 1.0).unbind(1)
    sources = (y.mul(h - 1).round() * w + x.mul(w - 1).round()).long().flatten(1)
    rows = onto(batch, rows)
    images = batch.index_select(0, rows).flatten(2)
    moved = images.gather(2, sources[:, None].expand_as(images))
    return batch.index_copy(0, rows, moved.view(-1, *batch.shape[1:]))


def _build(
    settings: Mapping[str, Any],
    place: str,
    kinds: Mapping[str, type[Stage]],
    ignored: tuple[str, ...] = (),
) -> dict[str, tuple[float, Stage]]:
    """The chance and the stage by name, of the stages whose chance is above zero."""
    known = {
        *ignored,
        *(f"{name}_{key}" for name in kinds for key in ("chance", *_keys(kinds[name]))),
    }
    for key in settings:
        if key not in known:
            raise DataError(f"augmentations.{place}.{key} is unknown.{did_you_mean(key, known)}")
    built: dict[str, tuple[float, Stage]] = {}
    for name, kind in kinds.items():
        chance = settings.get(f"{name}_chance", 0.0)
        if not 0.0 <= chance <= 1.0:
            at = f"augmentations.{place}.{name}_chance"
            raise DataError(f"{at} is {chance}; a chance lies between 0 and 1.")
        if chance > 0.0:
            built[name] = (chance, _make(kind, name, place, settings))
    return built


def _make(kind: type[Stage], name: str, place: str, settings: Mapping[str, Any]) -> Stage:
    at = f"augmentations.{place}.{name}"
    missing = [f"{name}_{key}" for key in _keys(kind) if f"{name}_{key}" not in settings]
    if missing:
        raise DataError(f"{at}_chance is above zero, but {', '.join(missing)} is not given.")
    try:
        return kind(**{key: settings[f"{name}_{key}"] for key in _keys(kind)})
    except DataError as error:
        raise DataError(f"{at} {error}") from None


def _keys(kind: type[Stage]) -> list[str]:
    return [field.name for field in fields(kind)]
