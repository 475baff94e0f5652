"""Crops against NumPy's own slicing, flipping and turning."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nectargan.dataset.crops import crop_images, draw_crops

SIDES = st.integers(1, 12)


def possible(
    image: np.ndarray, size: tuple[int, int], flips: tuple[bool, bool]
) -> list[np.ndarray]:
    """Every crop of (C, H, W), mirrored, by its place."""
    height, width = size
    step = (slice(None), slice(None, None, -1 if flips[1] else 1))
    return [
        image[:, top : top + height, left : left + width][step][..., :: -1 if flips[0] else 1]
        for top in range(image.shape[1] - height + 1)
        for left in range(image.shape[2] - width + 1)
    ]


@given(
    crop=st.tuples(SIDES, SIDES),
    margin=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    flips=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 1000),
)
def test_crops_and_flips(
    crop: tuple[int, int], margin: tuple[int, int], flips: tuple[bool, bool], seed: int
) -> None:
    load = (crop[0] + margin[0], crop[1] + margin[1])
    # No two pixels are alike, so that a crop has one place.
    images = np.arange(3 * 2 * load[0] * load[1]).reshape(3, 2, *load)
    crops = draw_crops(3, load, crop, (*flips, 0.0), (seed,))
    found = crop_images(torch.from_numpy(images), torch.from_numpy(crops), crop).numpy()
    for image, result in zip(images, found, strict=True):
        assert sum(np.array_equal(result, each) for each in possible(image, crop, flips)) == 1


@given(side=SIDES, flips=st.tuples(st.booleans(), st.booleans()), seed=st.integers(0, 1000))
def test_turns_come_after_the_flips(side: int, flips: tuple[bool, bool], seed: int) -> None:
    size = (side, side)
    images = torch.arange(5 * side * side).view(5, 1, side, side)
    plain = crop_images(
        images, torch.from_numpy(draw_crops(5, size, size, (*flips, 0.0), (seed,))), size
    )
    turned = crop_images(
        images, torch.from_numpy(draw_crops(5, size, size, (*flips, 1.0), (seed,))), size
    )
    for before, after in zip(plain, turned, strict=True):
        assert any(torch.equal(before.rot90(k, (1, 2)), after) for k in (1, 2, 3))


def test_every_place_and_every_turn_is_as_likely_as_another() -> None:
    crops = draw_crops(40_000, (4, 5), (3, 3), (0.25, 0.0, 0.5), (0,))
    counts = np.unique(crops, axis=0, return_counts=True)[1]
    # 6 places, mirrored or not, and no turn (1/2) or one of three (1/6 each).
    assert len(counts) == 6 * 2 * 4
    expected = sorted([40_000 / 6 * f * t for f in (0.25, 0.75) for t in (1 / 2, *[1 / 6] * 3)] * 6)
    deviations = (np.sort(counts) - expected) / np.sqrt(expected)
    assert np.abs(deviations).max() < 5


def test_one_chance_does_not_move_the_draws_of_another() -> None:
    def flipped(*chances: float) -> np.ndarray:
        return draw_crops(1000, (9, 9), (5, 5), chances, (3, 1))[:, 2] < 0

    assert np.array_equal(flipped(0.5, 0.0, 0.0), flipped(0.5, 0.7, 0.0))
