"""Another number of channels, the same for training and for what was trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]


def convert_channels(values: Values, count: int) -> Values:
    """Converts ``(H, W, C)`` between gray and RGB, with or without alpha.

    As Pillow does it for 8 bits: if alpha is dropped, transparent pixels are composited over black.
    Integers are rounded, halves up, without floating point: a pixel has the same result in every
    image and on every machine.

    Args:
        values: 1 to 4 channels of any dtype, alpha last.
        count: The number of channels of the result, 1 to 4.
    """
    found = values.shape[2]
    if found == count:
        return values
    dtype = values.dtype
    colors, alpha = (values[..., :-1], values[..., -1:]) if found in (2, 4) else (values, None)
    if alpha is not None and count in (1, 3):
        colors = _composited(colors, alpha)
    if count <= 2 and colors.shape[2] == 3:
        colors = _gray(colors)
    elif count >= 3 and colors.shape[2] == 1:
        colors = colors.repeat(3, axis=2)
    if count in (1, 3):
        return colors
    if alpha is None:
        opaque = np.iinfo(dtype).max if dtype.kind != "f" else 1
        alpha = np.full((*values.shape[:2], 1), opaque, dtype)
    return np.concatenate([colors, alpha], axis=2)


def _composited(colors: Values, alpha: Values) -> Values:
    """Colors over black."""
    dtype = colors.dtype
    if dtype.kind == "f":
        return (colors.astype(np.float64) * alpha).astype(dtype)
    limits = np.iinfo(dtype)
    rounded = (colors.astype(np.int64) * alpha + limits.max // 2) // limits.max
    return rounded.clip(limits.min, limits.max).astype(dtype)  # a signed type has a negative alpha


def _gray(colors: Values) -> Values:
    """The luma of ``(H, W, 3)``, as ``(H, W, 1)``."""
    is_float = colors.dtype.kind == "f"
    wide: Values = colors.astype(np.float64 if is_float else np.int32)
    # ITU-R BT.601, as Pillow has it, in thousandths, so that integers stay exact. Not `@`: the sums
    # of a BLAS depend on the machine, and on the size of the image.
    total = 299 * wide[..., 0] + 587 * wide[..., 1] + 114 * wide[..., 2]
    gray: Values = total / 1000 if is_float else (total + 500) // 1000
    return gray.astype(colors.dtype)[..., None]
