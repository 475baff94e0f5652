"""Image files as a generator takes them.

Colour profile, EXIF, resolution, alpha and 16 bits are read beside the pixels and written beside
what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile

from nectargan.dataset.decoding import (
    MODES,
    full_scale,
    in_8_bits,
    in_mode,
    opened,
    turned,
)
from nectargan.errors import DataError
from nectargan.inference.wide import read_wide

Pixels = npt.NDArray[Any]

# Of a TIFF file, whose other tags describe its pixels.
_TEXTS = frozenset([269, 270, 271, 272, 305, 306, 315, 316, 33432])
_LUMA = np.array([299, 587, 114], np.uint64)  # ITU-R 601, as Pillow has it


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
        pixels: ``(H, W, C)``, uint8 or uint16 over the whole range of the type.
        alpha: ``(H, W)`` of the same type, if the file has one and the generator does not take it.
        metadata: The metadata of the file.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = field(default_factory=Metadata)

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
        alpha = None if self.alpha is None else self.alpha[:, part]
        return replace(self, pixels=self.pixels[:, part], alpha=alpha)

    def resized(self, size: tuple[int, int], resampling: Image.Resampling) -> Picture:
        """Brought to (height, width), as training does it."""
        if size == self.size:
            return self
        alpha = None if self.alpha is None else resized(self.alpha[..., None], size, resampling)
        return replace(
            self,
            pixels=resized(self.pixels, size, resampling),
            alpha=None if alpha is None else alpha[..., 0],
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
        dpi, icc = file.info.get("dpi"), file.info.get("icc_profile")
        raw_mode = _raw_mode(file)
        file.load()
        wide, note = _wide(path, file, raw_mode, full) if full > 255 else (None, "")
        if wide is None:
            picture = from_image(in_8_bits(turned(file), full), channels)
        else:
            picture = from_wide(wide, channels)
        exif = _exif(file)
    notes += (note,) if note else ()
    is_resolution = isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < each < 1e6 for each in dpi)
    metadata = Metadata(
        icc if isinstance(icc, bytes) else b"",
        exif,
        (float(dpi[0]), float(dpi[1])) if dpi is not None and is_resolution else None,
        notes,
    )
    return replace(picture, metadata=metadata)


def pixels_in(path: Path) -> int:
    """How many pixels a file says it has; 0 for one that cannot be read."""
    try:
        with opened(path) as file:
            return file.width * file.height
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
    colours, alpha = pixels, None
    if pixels.shape[2] in (2, 4):
        colours, alpha = pixels[..., :-1], pixels[..., -1]
    if alpha is not None and channels in (1, 3):
        product = colours.astype(np.uint32) * alpha[..., None]
        colours = ((product + 32767) // 65535).astype(np.uint16)
    if channels in (1, 2) and colours.shape[2] == 3:
        grey = (colours.astype(np.uint64) @ _LUMA + 500) // 1000
        colours = grey.astype(np.uint16)[..., None]
    if channels in (3, 4) and colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=2)
    if channels in (1, 3):
        return Picture(colours, alpha)
    if alpha is None:
        alpha = np.full(colours.shape[:2], 65535, np.uint16)
    return Picture(np.concatenate([colours, alpha[..., None]], axis=2))


def _raw_mode(file: ImageFile.ImageFile) -> str:
    """Pillow's name for how the values lie in a file that is not loaded yet."""
    args = file.tile[0].args if file.tile else ""
    return str(args if isinstance(args, str) else args[0]) if args else ""


def _notes(file: Image.Image) -> tuple[str, ...]:
    frames = getattr(file, "n_frames", 1) if file.format not in ("JPEG", "MPO") else 1
    return (f"the first of its {frames} frames is used",) if frames > 1 else ()


def _exif(file: Image.Image) -> bytes:
    try:
        exif = file.getexif()
        for tag in list(exif):
            is_text = tag in _TEXTS or file.format != "TIFF"
            if tag == ExifTags.Base.Orientation or not is_text:
                del exif[tag]
        return exif.tobytes() if len(exif) else b""
    except Exception:
        return b""  # damaged metadata beside a sound picture may raise anything


def _wide(path: Path, file: Image.Image, raw_mode: str, full: int) -> tuple[Pixels | None, str]:
    """``(H, W, C)`` in 16 bits as displayed; ``None`` with a note where only 8 can be read."""
    picture = turned(file)
    if file.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > full:
            return None, ""  # `in_8_bits` has the sentence
        wide = grey[..., None].astype(np.uint16)
    else:
        found = read_wide(path, picture, raw_mode)
        if found is None:
            return None, f"its 16 bits of {file.mode} are read as 8"
        wide = found
    if "transparency" in file.info:  # a color that is transparent
        is_opaque = (wide != np.asarray(file.info["transparency"])).any(2, keepdims=True)
        wide = np.concatenate([wide, is_opaque.astype(np.uint16) * full], axis=2)
    scaled = (wide.astype(np.uint32) * 65535 + full // 2) // full
    return scaled.astype(np.uint16), ""


def resized(pixels: Any, size: tuple[int, int], resampling: Image.Resampling) -> Any:
    """``(H, W, C)`` of uint8, uint16 or float32 brought to (height, width)."""
    height, width = size
    if pixels.dtype == np.uint8:
        mode = MODES[pixels.shape[2]]
        image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0], mode)
        return np.asarray(image.resize((width, height), resampling)).reshape(height, width, -1)
    bands = [
        np.asarray(Image.fromarray(band.astype(np.float32)).resize((width, height), resampling))
        for band in np.moveaxis(pixels, 2, 0)
    ]
    stacked = np.stack(bands, axis=2)
    if pixels.dtype == np.uint16:
        return stacked.round().clip(0, 65535).astype(np.uint16)
    return stacked
