"""Image files as a generator takes them.

Colour profile, EXIF, resolution, alpha and 16 bits are read beside the pixels and written beside
what is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from nectargan.dataset import raw_pairs
from nectargan.dataset.decoding import in_mode
from nectargan.dataset.raw_pairs import in_dtype, resized_mask, valid_pixels, with_channels
from nectargan.errors import DataError
from nectargan.images.channels import convert_channels
from nectargan.images.geo_files import read_coordinates
from nectargan.images.mapping import ValueMapping
from nectargan.images.pillow_files import (
    MODES,
    full_scale,
    in_8_bits,
    metadata_of,
    opened,
    raw_mode_of,
    turned,
)
from nectargan.images.raw import RawImage, cropped
from nectargan.images.reading import is_geotiff, raw_kind, read_raw
from nectargan.images.wide import values_of_16_bits

Pixels = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Metadata:
    """What a file has beside its pixels.

    Attributes:
        icc: The colour profile.
        exif: EXIF without its orientation: the pixels are turned.
        dpi: Pixels per inch across and down.
        notes: What of the file is not read, in words.
    """

    icc: bytes = b""
    exif: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as a generator takes or makes it.

    Attributes:
        pixels: ``(H, W, C)``, uint8 or uint16 over the whole range of the type; any dtype in the
            units of the file if the model was trained on other than plain 8-bit images.
        alpha: ``(H, W)`` of the same type, if the file has one and the generator does not take it.
        metadata: The metadata of the file.
        raw: What else the file has, for such a model, or if it is a GeoTIFF; without values.
        valid: ``(H, W)``, where all channels are valid; ``None`` for everywhere.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = field(default_factory=Metadata)
    raw: RawImage | None = None
    valid: npt.NDArray[np.bool_] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def half(self, side: str) -> Picture:
        """The left half for "A", the right one for "B".

        Raises:
            DataError: the width is odd.
        """
        width = self.size[1]
        if width % 2:
            raise DataError(f"the width {width} is odd, two equal halves were expected")
        part = slice(0, width // 2) if side == "A" else slice(width // 2, width)
        alpha, valid = (None if a is None else a[:, part] for a in (self.alpha, self.valid))
        raw = self.raw and cropped(self.raw, 0, part.start, self.size[0], width // 2)
        return replace(self, pixels=self.pixels[:, part], alpha=alpha, valid=valid, raw=raw)

    def resized(self, size: tuple[int, int], resampling: Image.Resampling) -> Picture:
        """Brought to (height, width), as training does it."""
        if size == self.size:
            return self
        alpha = None if self.alpha is None else resized(self.alpha[..., None], size, resampling)
        valid = None if self.valid is None else resized_mask(self.valid, size, resampling)
        return replace(
            self,
            pixels=resized(self.pixels, size, resampling),
            alpha=None if alpha is None else alpha[..., 0],
            valid=valid,
        )


# --- reading -------------------------------------------------------------------------------------


def read_picture(path: Path, channels: int) -> Picture:
    """The picture in a file as it is displayed, with as many channels as a generator takes.

    Channels are converted as for training: what is transparent is laid over black where the
    generator takes no alpha, which is then kept beside.

    Raises:
        DataError: what is wrong with the file, after its name.
    """
    with opened(path) as file:
        full = full_scale(file)
        notes = _notes(file)
        raw_mode = raw_mode_of(file)
        file.load()
        wide = values_of_16_bits(path, file, raw_mode, full) if full > 255 else None
        if wide is None:
            picture = from_image(in_8_bits(turned(file), full), channels)
            if full > 255:
                notes += (f"its 16 bits of {file.mode} are read as 8",)
        else:
            scaled = (wide.astype(np.uint32) * 65535 + full // 2) // full
            picture = from_wide(scaled.astype(np.uint16), channels)
        kept = metadata_of(file)
    if is_geotiff(path):
        try:
            raw, valid = read_coordinates(path)
            picture = replace(picture, raw=raw, valid=None if raw.nodata is None else valid)
        except DataError as error:  # rasterio is not installed
            notes += (f"its coordinates are not kept: {str(error).removeprefix(f'{path}: ')}",)
    return replace(picture, metadata=Metadata(**kept, notes=notes))


def read_values(
    path: Path, mapping: ValueMapping, channels: int, selection: Sequence[str | int] | None
) -> Picture:
    """The picture in a file of any kind, in its units, with as many channels as a generator takes.

    Args:
        path: The file.
        mapping: How its values become those of the network.
        channels: The channels that the generator takes.
        selection: The channels to read; ``None`` for all.

    Raises:
        DataError: what is wrong with the file, after its name.
    """
    image = read_raw(path, selection)
    valid = valid_pixels(image)
    values = with_channels(image.values, channels, path, "input_nc")
    values = as_in_training(values, mapping.dtype, path, valid)
    if valid.all():
        return Picture(values, raw=image._replace(values=values[:0]))
    # As in training, where an invalid pixel is 0 for the network.
    middle = mapping.decode(torch.zeros(channels, 1, 1)).view(-1).numpy().astype(values.dtype)
    known = np.where(valid[..., None], values, middle)
    return Picture(known, raw=image._replace(values=values[:0]), valid=valid)


def as_in_training(
    values: Pixels, dtype: str, path: object, valid: npt.NDArray[np.bool_] | None = None
) -> Pixels:
    """Values in the units of the files of the training; 8 bits are scaled to unsigned 16 bits.

    Args:
        values: ``(H, W, C)``.
        dtype: The type of the files of the training.
        path: The file, for the error message.
        valid: Where they are valid, ``(H, W)``; ``None`` for everywhere.

    Raises:
        DataError: They are floats in place of integers, integers in place of floats, or not in the
            range of the type.
    """
    wanted = np.dtype(dtype)
    known = values if valid is None else values[valid]
    is_float = wanted.kind == "f"
    has_kind = (values.dtype.kind == "f") == is_float
    if has_kind and not is_float and known.size:
        limits = np.iinfo(wanted)
        has_kind = limits.min <= known.min() and known.max() <= limits.max
    if not has_kind:
        low_high = f", from {known.min():g} to {known.max():g}" if known.size else ""
        raise DataError(
            f"{path}: its values are {values.dtype}{low_high}, but the model was trained on "
            f"{dtype}; save it as {dtype}, in the same units"
        )
    return in_dtype(values, wanted) if values.dtype == np.uint8 else values


def with_values(
    picture: Picture, values: Pixels, channels: Sequence[str | int] | None = None
) -> RawImage:
    """The image to write: what was generated, with all that the input has besides.

    Where a pixel of the input is invalid, the result is so too: it has the nodata value of the
    file, else NaN, else the lowest value of an integer dtype.

    Args:
        picture: The input.
        values: What was generated.
        channels: The channels that were chosen of the targets in training: their names are those of
            the result. Otherwise it has the names of the input, if there are as many.
    """
    assert picture.raw is not None  # noqa: S101 - read by `read_values`
    raw, dtype = picture.raw, values.dtype
    nodata = raw.nodata
    if dtype.kind != "f" and nodata is not None:
        limits = np.iinfo(dtype)
        nodata = nodata if limits.min <= nodata <= limits.max else None
    if picture.valid is not None:
        lowest = np.nan if dtype.kind == "f" else np.iinfo(dtype).min
        filling = np.array(lowest if nodata is None else nodata).astype(dtype)
        nodata = float(filling)
        values = np.where(picture.valid[..., None], values, filling)
    of_targets = tuple(each for each in channels or () if isinstance(each, str))
    known = (of_targets, raw.channel_names)
    names = next((each for each in known if len(each) == values.shape[2]), ())
    return raw._replace(values=values, channel_names=names, nodata=nodata)


def pixels_in(path: Path) -> int:
    """How many pixels a file says it has; 0 for one that cannot be read."""
    try:
        kind = raw_kind(path)
        return kind.width * kind.height
    except DataError:
        return 0


def from_image(image: Image.Image, channels: int) -> Picture:
    """A picture of 8 bits, its mode one of `MODES`, with as many channels as a generator takes."""
    alpha = None
    if channels in (1, 3) and image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"))
    pixels = np.asarray(in_mode(image, MODES[channels]))
    return Picture(pixels.reshape(image.height, image.width, channels), alpha)


def from_wide(pixels: Pixels, channels: int) -> Picture:
    """The same of ``(H, W, 1 to 4)`` in 16 bits."""
    has_spare_alpha = channels in (1, 3) and pixels.shape[2] in (2, 4)
    alpha = pixels[..., -1] if has_spare_alpha else None
    return Picture(convert_channels(pixels, channels), alpha)


def _notes(file: Image.Image) -> tuple[str, ...]:
    frames = getattr(file, "n_frames", 1) if file.format not in ("JPEG", "MPO") else 1
    return (f"the first of its {frames} frames is used",) if frames > 1 else ()


def resized(pixels: Any, size: tuple[int, int], resampling: Image.Resampling) -> Any:
    """``(H, W, C)`` of any dtype brought to (height, width)."""
    height, width = size
    if pixels.dtype == np.uint8 and pixels.shape[2] in MODES:
        mode = MODES[pixels.shape[2]]
        image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0], mode)
        return np.asarray(image.resize((width, height), resampling)).reshape(height, width, -1)
    return raw_pairs.resized(pixels, size, resampling)
