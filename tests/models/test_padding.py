from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nectargan.models.padding import fitting_side, padded


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_pixels_are_mirrored_as_numpy_mirrors_them(
    height: int, width: int, below: int, right: int
) -> None:
    images = torch.rand(2, 3, height, width)
    expected = np.pad(images.numpy(), [(0, 0), (0, 0), (0, below), (0, right)], mode="reflect")
    got = padded(images, height + below, width + right)
    assert np.array_equal(got.numpy(), expected)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 200))
def test_the_fitting_side_is_the_least_that_fits(side: int, multiple: int, smallest: int) -> None:
    found = fitting_side(side, multiple, smallest)
    fits = [n for n in range(1, 1000) if n >= max(side, smallest) and n % multiple == 0]
    assert found == fits[0]
