"""Reads pairs of images of any dtype with 1 to 64 channels, in the dtype of their data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nectargan.dataset.decoding import MOST_COLOURS, PixelStatistics, Probe
from nectargan.dataset.pairs import Pair
from nectargan.errors import DataError
from nectargan.images.channels import convert_channels
from nectargan.images.pillow_files import MODES, is_decoded_elsewhere, opened, samples
from nectargan.images.raw import Kind, RawImage
from nectargan.images.reading import read_raw
from nectargan.sources import Source

Array = npt.NDArray[Any]
Selection = Sequence[str | int] | None


def probe_raw(path: Source, selections: Sequence[Selection] = (None,)) -> Probe:
    """Reads an image file of any kind completely and collects statistics; see `decoding.probe`.

    Args:
        path: The file.
        selections: The channels to read; of each half, if there are two.
    """
    images = [read_raw(path, each) for each in dict.fromkeys(map(_hashable, selections))]
    images = [images[0], images[-1]][: len(selections)]
    height, width = images[0].values.shape[:2]
    middle = width // 2
    spans = [slice(0, middle), slice(middle, width)] if len(images) == 2 else [slice(0, width)]
    parts = []
    for image, span in zip(images, spans, strict=True):
        part = image._replace(values=image.values[:, span])
        channels = part.values.shape[2]
        valid = valid_pixels(part)
        values = part.values[valid]  # (pixels, C)
        full = int(np.iinfo(values.dtype).max) if values.dtype.kind != "f" else 0
        has_alpha = full > 0 and channels in (2, 4) and values.dtype.kind == "u"
        has_alpha = has_alpha and not any(selections)
        is_transparent = bool(has_alpha and len(values) and values[:, -1].min() < full)
        colors = values[:, :-1] if has_alpha else values
        peak, lowest = (int(colors.max()), int(colors.min())) if full and len(values) else (0, 0)
        invalid = int(valid.size - len(values))
        colours = _count_colours(values) if full else None
        parts.append(
            PixelStatistics(
                peak, full, is_transparent, colours, invalid, not len(values), channels, lowest
            )
        )
    dtype = np.result_type(*(image.values.dtype for image in images))
    return Probe(height, width, tuple(parts), False, 0, dtype)


def _count_colours(values: Array) -> int | None:
    """The number of colors of ``(pixels, C)``; ``None`` if there are many."""
    for some in (values[:: 1 + len(values) // 1024], values):  # most images have many in a few
        count = len(np.unique(some, axis=0))
        if count > MOST_COLOURS:
            return None
    return count


def is_read_in_8_bits(path: Source, kind: Kind) -> bool:
    """Whether Pillow reads a file of 8 bits, perhaps without channels that are not gray, RGB or
    alpha."""
    if kind.dtype != np.uint8 or kind.channels > max(MODES) or kind.nodata is not None:
        return False
    try:
        with opened(path) as file:
            # Else the channels are pages.
            return samples(file) == kind.channels and not is_decoded_elsewhere(file)
    except DataError:
        return False


def storage_dtype(dtypes: Iterable[npt.DTypeLike]) -> np.dtype[Any]:
    """The smallest dtype that holds the values of all dtypes exactly and that torch can crop."""
    found = np.result_type(*dtypes)
    return np.dtype(np.float32) if found.itemsize > 2 else found


def read_sides(pair: Pair, swap: bool, selections: Sequence[Selection]) -> list[RawImage]:
    """Reads the input and the target of a pair, in their own dtypes.

    Args:
        pair: The pair.
        swap: Whether B is the input.
        selections: The channels to read of input and of target; ``None`` for all.

    Raises:
        DataError: If a file cannot be read, or cannot be divided into two halves.
    """
    if pair.b is not None:
        paths = (pair.b, pair.a) if swap else (pair.a, pair.b)
        return [read_raw(path, each) for path, each in zip(paths, selections, strict=True)]
    wholes = [read_raw(pair.a, each) for each in dict.fromkeys(map(_hashable, selections))]
    width = wholes[0].values.shape[1]
    if width % 2:
        raise DataError(f"{pair.a}: the width {width} is odd; it must be two equal halves")
    halves = [slice(0, width // 2), slice(width // 2, width)]
    return [
        whole._replace(values=whole.values[:, half])
        for whole, half in zip(
            (wholes[0], wholes[-1]), halves[::-1] if swap else halves, strict=True
        )
    ]


def _hashable(selection: Selection) -> tuple[str | int, ...] | None:
    return None if selection is None else tuple(selection)


def valid_pixels(image: RawImage) -> npt.NDArray[np.bool_]:
    """Where all channels are finite and none is nodata, ``(H, W)``."""
    values = image.values
    valid = np.ones(values.shape[:2], np.bool_)
    if values.dtype.kind == "f":
        valid &= np.isfinite(values).all(2)
    if image.nodata is not None and not np.isnan(image.nodata):
        valid &= (values != image.nodata).all(2)
    return valid


def check_channels(found: int, count: int, path: object, option: str) -> None:
    """Raises `DataError` if `with_channels` cannot convert an image.

    Args:
        found: The number of channels of the file; 0 for at most 4.
        count: The number of channels that is needed.
        path: The file, for the error message.
        option: The option with this number, for the error message.
    """
    if found != count and max(found, count) > max(MODES):
        has = f"{found} channels" if found else f"at most {max(MODES)} channels"
        raise DataError(
            f"{path}: it has {has}, but dataloader.load.{option} is {count}; set it to the number "
            "of channels, or choose channels with input_channels and target_channels."
        )


def with_channels(values: Array, count: int, path: object, option: str) -> Array:
    """Converts ``(H, W, C)`` to so many channels, if `convert_channels` can.

    Any other number of channels must be that of the file.

    Args:
        values: The values of the file.
        count: The number of channels that is needed.
        path: The file, for the error message.
        option: The option with this number, for the error message.

    Raises:
        DataError: If the file has another number of channels that cannot be converted.
    """
    check_channels(values.shape[2], count, path, option)
    return convert_channels(values, count)


def in_dtype(values: Array, dtype: npt.DTypeLike) -> Array:
    """Values in the dtype of their side of a data set; 8 bits are scaled to unsigned 16 bits."""
    if values.dtype == np.uint8 and dtype == np.uint16:
        return values.astype(np.uint16) * 257
    return values.astype(dtype, copy=False)


def resized(
    values: Array, size: tuple[int, int], resampling: Image.Resampling, valid: Array | None = None
) -> Array:
    """Resizes ``(H, W, C)`` to (height, width), channel by channel in float32, with Pillow.

    The result has the dtype of the values; integers are rounded, and clamped to their type.

    Args:
        values: The values.
        size: The new (height, width), in pixels.
        resampling: A filter of Pillow.
        valid: Where the values are valid, ``(H, W)``; the others count as 0.
    """
    if values.shape[:2] == size:
        return values
    if valid is not None:
        values = np.where(valid[..., None], values, np.zeros((), values.dtype))
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(values[..., i], np.float32)).resize(
                size[::-1], resampling
            )
        )
        for i in range(values.shape[2])
    ]
    return _as(np.stack(channels, axis=2), values.dtype)


def resized_mask(
    valid: npt.NDArray[np.bool_], size: tuple[int, int], resampling: Image.Resampling
) -> npt.NDArray[np.bool_]:
    """Where the result of `resized` comes from valid pixels only, ``(height, width)``."""
    if valid.shape == size:
        return valid
    touched = resized((~valid)[..., None].astype(np.float32), size, resampling)[..., 0]
    return np.asarray(touched == 0)


def _as(values: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)
