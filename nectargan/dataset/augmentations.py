"""`PairAugmentation` applies augmentations to whole batches on their device.

`PairedDataset` does flips and quarter turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nectargan.dataset.augmentation import Augmentation, onto
from nectargan.dataset.built_in_augmentations import ON_BOTH, ON_INPUT
from nectargan.errors import DataError, did_you_mean

_WITH_ALPHA = (2, 4)  # channels, the last of which is alpha
_MOST_COLORS = 4  # channels, alpha included
_ALL_VALID = 0.999  # of a mask in [-1, 1] that was interpolated
_DONE_BY_THE_DATASET = ("h_flip_chance", "v_flip_chance", "rot90_chance")


class Chosen(NamedTuple):
    """An augmentation and the probability that it is applied to a pair."""

    chance: float
    augmentation: Augmentation


class PairAugmentation(nn.Module):
    """Applies the augmentations of a config to batches in [-1, 1].

    An augmentation of `both` changes input and target of a pair in the same way, and each pair
    differently. An augmentation of `input` does not change the target. Alpha (the last of 2 or 4
    channels) is moved with its pixels, but not changed otherwise. A pair that no augmentation is
    applied to is returned unchanged.

    Args:
        both: The options of elastic_transform, optical_distortion and coarse_dropout in
            `dataloader.augmentations.both`. h_flip, v_flip and rot90 are accepted and ignored.
        input: The options of colorjitter, gaussnoise, motionblur, randgamma, grayscale and
            compression in `dataloader.augmentations.input`.
        input_nc: Channels of the input; grayscale and compression need 3.
        own: Custom augmentations for "both", "input" and "target", applied after the built-in ones.
        nearest: Whether the colors of the input, and of the target, must not be mixed (label maps).
            Augmentations that move pixels then use the nearest pixel.

    Raises:
        DataError: If an option is unknown, missing or invalid; the message names its key.
    """

    def __init__(
        self,
        both: Mapping[str, Any],
        input: Mapping[str, Any],
        input_nc: int = 3,
        own: Mapping[str, Sequence[Chosen]] | None = None,
        nearest: tuple[bool, bool] = (False, False),
    ) -> None:
        super().__init__()
        self._nearest = nearest
        own = own or {}
        built_in = _build(input, "input", ON_INPUT)
        for _, augmentation in built_in:
            if augmentation.needs_rgb and input_nc != 3:
                name = augmentation.name
                raise DataError(
                    f"augmentations.input.{name}_chance is above zero and input_nc is {input_nc}; "
                    f"{name} needs 3 channels."
                )
            if augmentation.is_of_colors and input_nc > _MOST_COLORS:
                name = augmentation.name
                raise DataError(
                    f"augmentations.input.{name}_chance is above zero and input_nc is {input_nc}; "
                    f"{name} is for colors, which have at most {_MOST_COLORS} channels."
                )
        self._both = [
            *_build(both, "both", ON_BOTH, _DONE_BY_THE_DATASET),
            *_possible(own.get("both", ())),
        ]
        self._input = [*built_in, *_possible(own.get("input", ()))]
        self._target = _possible(own.get("target", ()))

    @property
    def enabled(self) -> bool:
        """Whether there is any augmentation. Without one, the module returns its arguments."""
        return bool(self._both or self._input or self._target)

    @torch.no_grad()
    def forward(
        self, input: Tensor, target: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Augments two batches `(N, C, H, W)` of the same size, with float values in [-1, 1].

        Args:
            input: The input images.
            target: The target images.
            mask: Where the pixels of both are valid, ``(N, 1, H, W)``, bool. Pixels that are moved
                stay valid if no invalid pixel is mixed in.

        Returns:
            Both images and, if one is given, the mask. Both images are 0 where it is false.
        """
        of_input, of_target = self._nearest
        for chance, each in self._both:
            images = [(input, of_input), (target, of_target)]
            if mask is not None and each.moves_pixels:
                images.append((mask.to(input.dtype).mul(2.0).sub(1.0), False))
            input, target, *moved = _augment(each, chance, *images)
            mask = moved[0] > _ALL_VALID if moved else mask
        for chance, each in self._input:
            (input,) = _augment(each, chance, (input, of_input))
        for chance, each in self._target:
            (target,) = _augment(each, chance, (target, of_target))
        if mask is None:
            return input, target
        return torch.where(mask, input, 0.0), torch.where(mask, target, 0.0), mask


def _possible(chosen: Sequence[Chosen]) -> list[Chosen]:
    return [each for each in chosen if each.chance > 0.0]


def _augment(
    augmentation: Augmentation, chance: float, *batches: tuple[Tensor, bool]
) -> tuple[Tensor, ...]:
    """Applies an augmentation to random rows, the same rows and parameters in each batch.

    Each batch comes with a boolean that says whether its colors must not be mixed.
    """
    n, c, h, w = batches[0][0].shape
    rows = torch.nonzero(torch.rand(n) < chance).flatten()
    if not len(rows):
        return tuple(batch for batch, _ in batches)
    params = augmentation.draw(len(rows), c, h, w)
    return tuple(
        _move_whole_pixels(augmentation, batch, rows, params)
        if nearest and augmentation.moves_pixels
        else _on_rows(augmentation, batch, rows, params)
        for batch, nearest in batches
    )


def _on_rows(
    augmentation: Augmentation, batch: Tensor, rows: Tensor, params: tuple[Tensor, ...]
) -> Tensor:
    rows = onto(batch, rows)
    images = batch.index_select(0, rows).add(1.0).div(2.0)
    images = augmentation.apply(images, *params).clamp(0.0, 1.0)
    images = images.mul(2.0).sub(1.0).to(batch.dtype)
    if batch.shape[1] in _WITH_ALPHA and not augmentation.moves_pixels:
        images[:, -1] = batch[rows, -1]
    return batch.index_copy(0, rows, images)


def _move_whole_pixels(
    augmentation: Augmentation, batch: Tensor, rows: Tensor, params: tuple[Tensor, ...]
) -> Tensor:
    """Moves pixels without interpolation, so that no new colors appear.

    The augmentation is applied to two ramps with the coordinates of each pixel. Interpolation is
    exact on a ramp, so the result gives the source of each pixel, which is then rounded.
    """
    h, w = batch.shape[-2:]
    ramps = [torch.linspace(0.0, 1.0, side, device=batch.device) for side in (h, w)]
    y, x = torch.meshgrid(*ramps, indexing="ij")
    # A custom augmentation may need 3 channels.
    places = torch.stack([y, x, x] if augmentation.needs_rgb else [y, x]).expand(
        len(rows), -1, h, w
    )
    y, x = augmentation.apply(places, *params).clamp(0.0, 1.0).unbind(1)[:2]
    sources = (y.mul(h - 1).round() * w + x.mul(w - 1).round()).long().flatten(1)
    rows = onto(batch, rows)
    images = batch.index_select(0, rows).flatten(2)
    moved = images.gather(2, sources[:, None].expand_as(images))
    return batch.index_copy(0, rows, moved.view(-1, *batch.shape[1:]))


def _build(
    settings: Mapping[str, Any],
    place: str,
    kinds: Sequence[type[Augmentation]],
    ignored: tuple[str, ...] = (),
) -> list[Chosen]:
    """Builds the augmentations whose chance is above zero."""
    known = {
        *ignored,
        *(f"{kind.name}_{key}" for kind in kinds for key in ("chance", *kind.parameters())),
    }
    for key, value in settings.items():
        # The key "own" of a section contains the custom augmentations, which are passed separately.
        if key not in known and not (key == "own" and not value):
            raise DataError(f"augmentations.{place}.{key} is unknown.{did_you_mean(key, known)}")
    chosen = []
    for kind in kinds:
        chance = settings.get(f"{kind.name}_chance", 0.0)
        if not 0.0 <= chance <= 1.0:
            at = f"augmentations.{place}.{kind.name}_chance"
            raise DataError(f"{at} is {chance}; a chance must be between 0 and 1.")
        if chance > 0.0:
            chosen.append(Chosen(chance, _make(kind, place, settings)))
    return chosen


def _make(kind: type[Augmentation], place: str, settings: Mapping[str, Any]) -> Augmentation:
    at = f"augmentations.{place}.{kind.name}"
    keys = {key: f"{kind.name}_{key}" for key in kind.parameters()}
    missing = [key for key in keys.values() if key not in settings]
    if missing:
        raise DataError(f"{at}_chance is above zero, but {', '.join(missing)} is missing.")
    try:
        return kind(**{key: settings[long] for key, long in keys.items()})
    except DataError as error:
        raise DataError(f"{at} {error}") from None
