"""Gray, RGB and alpha are converted into each other as by hand, pixel by pixel."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nectargan.dataset.decoding import in_mode
from nectargan.images.channels import convert_channels
from nectargan.images.pillow_files import MODES

INTEGERS = ("uint8", "int8", "uint16", "int16")
COUNTS = st.integers(1, 4)

Pixel = tuple[Any, ...]


@st.composite
def images(draw: st.DrawFn, dtypes: tuple[str, ...]) -> np.ndarray:
    """``(H, W, 1 to 4)``, with an alpha from 0 to opaque."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(COUNTS))
    if dtype.kind == "f":
        values = st.floats(-1000, 1000, width=16 if dtype == np.float16 else 32)  # type: ignore[arg-type]
    else:
        limits = np.iinfo(dtype)
        values = st.integers(int(limits.min), int(limits.max))  # type: ignore[assignment]
    size = int(np.prod(shape))
    flat = draw(st.lists(values, min_size=size, max_size=size))
    image = np.array(flat, dtype).reshape(shape)
    if shape[2] in (2, 4):
        image[..., -1] = image[..., -1].clip(0, 1 if dtype.kind == "f" else None)
    return image


def rounded(exact: Fraction) -> int:
    """To the nearest integer, halves up."""
    return floor(exact + Fraction(1, 2))


def by_hand(pixel: list[int], count: int, full: int) -> list[int]:
    """The pixel with so many channels, in exact arithmetic."""
    if len(pixel) == count:
        return pixel
    colors, alpha = (pixel[:-1], pixel[-1]) if len(pixel) in (2, 4) else (pixel, full)
    if count in (1, 3):
        colors = [rounded(Fraction(color * alpha, full)) for color in colors]
    if count <= 2 and len(colors) == 3:
        red, green, blue = colors
        colors = [rounded(Fraction(299 * red + 587 * green + 114 * blue, 1000))]
    if count >= 3 and len(colors) == 1:
        colors = colors * 3
    return [*colors, alpha] if count in (2, 4) else colors


@given(image=images(INTEGERS), count=COUNTS)
def test_integers_are_exact(image: np.ndarray, count: int) -> None:
    made = convert_channels(image, count)
    full = int(np.iinfo(image.dtype).max)
    expected = [[by_hand(pixel, count, full) for pixel in row] for row in image.tolist()]
    assert made.dtype == image.dtype
    assert made.tolist() == expected


@pytest.mark.parametrize(
    ("color", "gray"),
    # 299 + 587 + 114 is 1000; half a step is rounded up.
    [((1, 0, 0), 0), ((0, 1, 0), 1), ((1, 1, 1), 1), ((0, 0, 250), 29), ((250, 250, 0), 222)],
)
def test_some_grays(color: tuple[int, ...], gray: int) -> None:
    assert convert_channels(np.array([[color]], np.uint16), 1).tolist() == [[[gray]]]


@given(image=images(("float16", "float32")), count=COUNTS)
def test_floats_are_rounded_once_per_operation(image: np.ndarray, count: int) -> None:
    made = convert_channels(image, count)
    assert made.dtype == image.dtype
    # As with integers, but alpha is 1 where there is none, and nothing is rounded.
    values = image.astype(np.float64)
    colors, alpha = values, np.ones_like(values[..., :1])
    if values.shape[2] in (2, 4):
        colors, alpha = values[..., :-1], values[..., -1:]
        colors = colors * alpha if count in (1, 3) and values.shape[2] != count else colors
    scale = np.abs(colors).max()
    if count <= 2 and colors.shape[2] == 3:
        colors = colors @ np.array([[0.299], [0.587], [0.114]])
    colors = np.broadcast_to(colors, (*colors.shape[:2], 3 if count > 2 else 1))
    whole = np.concatenate([colors, alpha], axis=2) if count in (2, 4) else colors
    smallest = np.finfo(image.dtype).smallest_subnormal
    assert np.abs(made - whole).max() <= 2 * np.finfo(image.dtype).eps * scale + smallest


@given(image=images((*INTEGERS, "float16", "float32")), count=COUNTS)
def test_a_pixel_does_not_depend_on_the_others(image: np.ndarray, count: int) -> None:
    """Not on its place, and not on the size of the image."""
    made = convert_channels(image, count)
    height, width = image.shape[:2]
    for y in range(height):
        for x in range(width):
            alone = convert_channels(image[y : y + 1, x : x + 1].copy(), count)
            assert np.array_equal(made[y, x], alone[0, 0])


@given(image=images((*INTEGERS, "float16", "float32")), over=st.sampled_from([2, 3, 4]))
def test_gray_comes_back(image: np.ndarray, over: int) -> None:
    gray = image[..., :1]
    assert np.array_equal(convert_channels(convert_channels(gray, over), 1), gray)


@given(image=images((*INTEGERS, "float16", "float32")))
def test_opaque_colors_come_back(image: np.ndarray) -> None:
    colors = convert_channels(image, 3)
    assert np.array_equal(convert_channels(convert_channels(colors, 4), 3), colors)


@given(image=images(("uint8",)), count=COUNTS)
def test_8_bits_are_close_to_those_of_pillow(image: np.ndarray, count: int) -> None:
    found = image.shape[2]
    theirs = in_mode(Image.fromarray(image[..., 0] if found == 1 else image), MODES[count])
    pixels = np.asarray(theirs).reshape(*image.shape[:2], count)
    assert np.abs(convert_channels(image, count).astype(int) - pixels).max() <= 1
