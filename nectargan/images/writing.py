"""Writes image files of every kind, in the values and the type of the image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nectargan.errors import DataError
from nectargan.files import replacing
from nectargan.images.exr_files import check_exr, write_exr
from nectargan.images.geo_files import write_geo
from nectargan.images.numpy_files import write_npy, write_npz
from nectargan.images.pillow_writing import WITH_16_BITS, WITH_ALPHA, write_pillow
from nectargan.images.raw import DTYPES, MOST_CHANNELS, SUPPORTED, RawImage
from nectargan.images.suffixes import IMAGE_SUFFIXES, PILLOW_SUFFIXES, TIFFS
from nectargan.images.tiff_files import LAYOUTS, write_tiff
from nectargan.wording import counted

_WRITERS: dict[str, Callable[[Path, RawImage], None]] = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".exr": write_exr,
    **dict.fromkeys(TIFFS, write_tiff),
}
_KEPT = ("icc", "exif", "dpi")  # see `write_pillow`


def write_raw(path: str | Path, image: RawImage, suffix: str | None = None) -> None:
    """Writes an image file, whole or not at all.

    The layout, the names of the channels and the metadata are those of ``image``, as far as the
    format has them; no value is changed, except by the formats that lose some: JPEG, WebP and AVIF.

    Args:
        path: The file.
        image: What is to be in it.
        suffix: Says the format; that of ``path`` if it is left out.

    Raises:
        DataError: If the format does not hold such values or so many channels, or if a library is
            not installed.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    suffix = (suffix or path.suffix).lower()
    if suffix not in IMAGE_SUFFIXES:
        raise DataError(f"{path}: no format; allowed are {' '.join(sorted(IMAGE_SUFFIXES))}")
    try:
        check_image(image)
        with replacing(path, or_stream=True) as part:
            _writer(suffix, image)(part, image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def check_image(image: RawImage) -> None:
    """Raises `DataError` unless the values are ``(H, W, C)`` of a kind that is read again."""
    values = image.values
    if values.ndim != 3 or not values.size:
        raise DataError(f"the values have the shape {values.shape}; it must be (H, W, C)")
    if values.dtype.name not in DTYPES or values.shape[2] > MOST_CHANNELS:
        found = f"{counted(values.shape[2], 'channel')} of {values.dtype}"
        raise DataError(f"the image has {found}; supported are {SUPPORTED}")


def check_format(suffix: str, image: RawImage) -> None:
    """Raises `DataError` if a format does not hold the type or the number of channels."""
    if suffix in PILLOW_SUFFIXES - TIFFS:
        _check_pillow(suffix, image)
    elif suffix == ".exr":
        check_exr(image)


def _writer(suffix: str, image: RawImage) -> Callable[[Path, RawImage], None]:
    if suffix in TIFFS and "geo" in image.metadata:
        return write_geo
    if suffix not in PILLOW_SUFFIXES or (suffix in TIFFS and not _is_for_pillow(suffix, image)):
        return _WRITERS[suffix]
    _check_pillow(suffix, image)
    kept = {key: image.metadata[key] for key in _KEPT if key in image.metadata}
    return lambda path, image: write_pillow(path, suffix, image.values, **kept)


def _is_for_pillow(suffix: str, image: RawImage) -> bool:
    count, dtype = image.values.shape[2], image.values.dtype
    return (
        count in ((1, 2, 3, 4) if suffix in WITH_ALPHA else (1, 3))
        and dtype in ((np.uint8, np.uint16) if suffix in WITH_16_BITS else (np.uint8,))
        and not image.channel_names
        and image.metadata.get("layout") not in LAYOUTS
    )


def _check_pillow(suffix: str, image: RawImage) -> None:
    if not _is_for_pillow(suffix, image._replace(channel_names=(), metadata={})):
        found = f"{counted(image.values.shape[2], 'channel')} of {image.values.dtype}"
        holds = "1 to 4 channels" if suffix in WITH_ALPHA else "1 or 3 channels"
        types = "uint8 or uint16" if suffix in WITH_16_BITS else "uint8"
        instead = ".tif, .npy or .exr" if image.values.dtype.kind == "f" else ".tif or .npy"
        raise DataError(
            f"the image has {found}, but {suffix} holds {holds} of {types}; write it as {instead}"
        )
