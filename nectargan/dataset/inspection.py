"""Measures what each pair of a data set looks like; `suspicions` judges the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nectargan.dataset.raw_pairs import Selection, is_read_in_8_bits, valid_pixels
from nectargan.images.pillow_files import full_scale, in_8_bits, opened, orientation_of, turned
from nectargan.images.raw import RawImage
from nectargan.images.reading import is_read_by_pillow, raw_kind, read_raw
from nectargan.sources import Source

# The measurements of a pair; fields of two values are for A and B.
MEASUREMENTS = np.dtype(
    [
        ("size", "i4", 2),  # height and width of one image, in pixels
        ("channels", "u1", 2),
        ("orientation", "u1", 2),  # of EXIF; 0 and 1: as stored
        ("mean", "f2", 2),  # brightness in [0, 1]
        ("deviation", "f2", 2),  # standard deviation of the brightness, in [0, 1]
        ("span", "f2", 2),  # of the brightness, without the 0.1 % darkest and brightest pixels
        ("is_grey", "?", 2),  # no pixel has a color
        ("is_upscaled", "?", 2),  # 16 bits whose values are those of 8 bits
        ("colours", "u2", 2),  # number of colors, of a sample of pixels
        ("at_few", "f2", 2),  # see `_at_few`
        ("hash", "u8", 2),  # perceptual hash, see `_hash`
        ("shift", "f4", 2),  # by which B must be moved to fit A: down and right, in pixels
        ("peak", "f2"),  # height of the phase correlation there, in standard deviations
        ("peak_at_zero", "f2"),  # the same without a shift
    ]
)
FEW_GRAYS = 8  # see `_at_few`
_AT_MODE = 12  # gray values around a color of a label map that belong to it
_LEAST_LABELS = 0.05  # of all pixels have not the color of the background

_SAMPLE = 1 << 14  # pixels
_EQUAL = 3  # gray values of 255, see `_hash`
_SIDE = 128  # pixels of the side of a square in which alignment is measured
_LEAST_SIDE = 64  # pixels; smaller images have too few edges
# Frequencies above this one, in cycles per pixel of the square, are mostly noise.
_CUTOFF = 0.15


class Decoded(NamedTuple):
    """An image of a pair, to be measured.

    Attributes:
        image: The image as it is displayed, in 8 bits; perhaps reduced.
        channels: Number of channels of the file.
        orientation: Of EXIF; 0 and 1 mean as stored.
        is_upscaled: Whether it has 16 bits, and its values are those of 8 bits.
        is_stretched: Whether the values were spread over 8 bits, as they had others.
    """

    image: Image.Image
    channels: int
    orientation: int
    is_upscaled: bool
    is_stretched: bool = False


def measure(sides: Sequence[Decoded], size: tuple[int, int]) -> tuple[Any, ...]:
    """Measures the two images of a pair.

    Args:
        sides: The images.
        size: Height and width of one image in its file, in pixels.

    Returns:
        The fields of `MEASUREMENTS`.
    """
    images = [side.image for side in sides]
    grey = [image.convert("L") for image in images]
    counts = [np.array(image.histogram(), np.float64) for image in grey]
    shift, peak, peak_at_zero = _alignment(grey[0], grey[1], size)
    brightness = [_mean_and_deviation(each) for each in counts]
    return (
        size,
        tuple(side.channels for side in sides),
        tuple(side.orientation for side in sides),
        tuple(mean for mean, _ in brightness),
        tuple(deviation for _, deviation in brightness),
        tuple(_span(each) for each in counts),
        tuple(_is_grey(image) for image in images),
        tuple(side.is_upscaled for side in sides),
        tuple(_colours(image) for image in images),
        tuple(0.0 if s.is_stretched else _at_few(c) for s, c in zip(sides, counts, strict=True)),
        tuple(_hash(image) for image in grey),
        shift,
        peak,
        peak_at_zero,
    )


def halves(whole: Decoded) -> tuple[Decoded, Decoded]:
    """The left and the right half of a side-by-side image."""
    a, b = (whole._replace(image=_half(whole.image, side)) for side in (0, 1))
    return a, b


def _half(image: Image.Image, side: int) -> Image.Image:
    half = image.width // 2
    return image.crop((side * half, 0, (side + 1) * half, image.height))


def decode(path: Source, channels: Selection = None) -> Decoded:
    """Reads a file of any kind.

    Args:
        path: The file.
        channels: The channels to read; ``None`` for all.

    Raises:
        DataError: If the file cannot be read.
    """
    if channels is None:
        kind = raw_kind(path)
        is_signed = kind.dtype.kind == "i"
        if is_read_in_8_bits(path, kind) or (is_read_by_pillow(path) and not is_signed):
            return _read_with_pillow(path)
    image = read_raw(path, channels)
    count = image.values.shape[2]
    is_upscaled = image.values.dtype == np.uint16 and _is_upscaled(image.values)
    return Decoded(_stretched(image), count, 0, is_upscaled, True)


def _stretched(image: RawImage) -> Image.Image:
    """The first channel, or the first three, from the 1st to the 99th percentile in 8 bits."""
    shown = image.values[..., : 3 if image.values.shape[2] >= 3 else 1].astype(np.float32)
    valid = valid_pixels(image)
    low, high = np.percentile(shown[valid], (1, 99)) if valid.any() else (0.0, 0.0)
    shown = np.where(valid[..., None], shown, low)
    unit = ((shown - low) / max(high - low, np.finfo(np.float32).tiny)).clip(0, 1)
    eight = np.rint(unit * 255).astype(np.uint8)
    return Image.fromarray(eight if eight.shape[2] == 3 else eight[..., 0])


def _read_with_pillow(path: Source) -> Decoded:
    with opened(path) as image:
        full = full_scale(image)
        image.load()
        orientation = orientation_of(image)
        return decoded(turned(image), full, orientation)


def decoded(picture: Image.Image, full: int, orientation: object) -> Decoded:
    """Prepares what `decoding.probe` passes on."""
    is_upscaled = full > 255 and picture.mode.startswith("I") and _is_upscaled(np.asarray(picture))
    # Most files of 16 bits use a part of their range, which would look empty.
    is_wide = picture.mode.startswith("I")
    wide = RawImage(np.asarray(picture)[..., None]) if is_wide else None
    eight = in_8_bits(picture, full) if wide is None else _stretched(wide)
    turn = orientation if isinstance(orientation, int) and 1 < orientation <= 8 else 0
    return Decoded(eight, len(eight.getbands()), turn, is_upscaled, is_wide)


def _is_upscaled(values: NDArray[Any]) -> bool:
    """Whether all values are those of 8 bits: not above 255, or multiples of 256 or 257."""
    return bool(
        values.max() > 0
        and (values.max() <= 255 or not (values % 257).any() or not (values % 256).any())
    )


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("L", "LA"):
        return True
    red, green, blue = (np.asarray(image.getchannel(i)) for i in range(3))
    return bool((red == green).all() and (green == blue).all())


def _colours(image: Image.Image) -> int:
    """The number of colors in a sample of the pixels."""
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // _SAMPLE)].astype(np.uint32)
    codes = np.sort(pixels[:, 0] << 16 | pixels[:, 1] << 8 | pixels[:, 2])  # faster than unique
    return 1 + int(np.count_nonzero(codes[1:] != codes[:-1]))


def _mean_and_deviation(counts: NDArray[np.float64]) -> tuple[float, float]:
    """Of the brightness in [0, 1], from the number of pixels of each of 256 gray values."""
    values = np.arange(256) / 255
    mean = float(counts @ values) / counts.sum()
    return mean, float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))


def _span(counts: NDArray[np.float64]) -> float:
    """The span of the brightness in [0, 1], without the 0.1 % darkest and brightest pixels."""
    sums = counts.cumsum()
    low, high = np.searchsorted(sums, (0.001 * sums[-1], 0.999 * sums[-1]))
    return float(high - low) / 255


def _at_few(counts: NDArray[np.float64]) -> float:
    """The fraction of pixels with one of the `FEW_GRAYS` most frequent gray values.

    JPEG moves the few colors of a label map a little, so that it has many colors, but leaves its
    flat areas as they are. A background alone, as of a drawing or a night sky, is not a label map:
    without the most frequent gray values, and without black and white, it must look the same.

    On drawn facades of 128 pixels it is 0.3 to 0.6 for label maps at quality 75 (median 0.47), 0.6
    to 0.75 at 256 pixels, and at most 0.25 for pictures, line drawings and sparse night images.
    """
    total = counts.sum()
    few = np.sort(counts)[-FEW_GRAYS:].sum() / total
    first, rest = _without_mode(counts)
    second, others = _without_mode(rest)
    if total - first < _LEAST_LABELS * total:
        return 0.0
    if others.sum() < 0.1 * second:
        return float(few)  # a mask
    rest[:_AT_MODE], rest[-_AT_MODE:] = 0, 0
    if rest.sum() < _LEAST_LABELS * total:
        return 0.0
    return float(min(few, np.sort(rest)[-FEW_GRAYS:].sum() / rest.sum()))


def _without_mode(counts: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The number of pixels near the most frequent gray value, and the counts without them."""
    mode, rest = int(counts.argmax()), counts.copy()
    rest[max(0, mode - _AT_MODE) : mode + _AT_MODE + 1] = 0
    return float(counts.sum() - rest.sum()), rest


def _hash(grey: Image.Image) -> int:
    """The difference hash: whether each of 8 x 8 areas is brighter than the next one to the right.

    Areas that differ by at most `_EQUAL` count as equal, as JPEG changes flat areas of a label map.
    Resized, recompressed or slightly changed copies of an image differ in a few of the 64 bits.
    """
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(small[:, :-1] > small[:, 1:] + _EQUAL)
    return int.from_bytes(bits.tobytes(), "big")


_WINDOW = np.outer(np.hanning(_SIDE), np.hanning(_SIDE)).astype(np.float32)
_LOW_PASS = np.exp(
    -(np.fft.fftfreq(_SIDE)[:, None] ** 2 + np.fft.rfftfreq(_SIDE)[None] ** 2) / (2 * _CUTOFF**2)
)


def _alignment(
    a: Image.Image, b: Image.Image, size: tuple[int, int]
) -> tuple[tuple[float, float], float, float]:
    """Shift, peak and peak at zero by phase correlation (Kuglin and Hines 1975) of the edges.

    Edges are compared, because the brightness of A and B usually has nothing in common. All are 0
    for images that are too small.
    """
    if min(size) < _LEAST_SIDE:
        return (0.0, 0.0), 0.0, 0.0
    first, second = (np.fft.rfft2(_edges(image)) for image in (a, b))
    cross = first * second.conj()
    cross *= _LOW_PASS / (np.abs(cross) + 1e-9)
    found = np.fft.irfft2(cross, s=(_SIDE, _SIDE))
    found = (found - found.mean()) / (found.std() + 1e-12)
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    down = _top(found[:, column], int(row))
    right = _top(found[row], int(column))
    shift = down * size[0] / _SIDE, right * size[1] / _SIDE
    return shift, float(found[row, column]), float(found[0, 0])


def _top(values: NDArray[np.float64], place: int) -> float:
    """The place of a peak between -n/2 and n/2: the top of a parabola through three values."""
    before, top, after = (float(values[(place + step) % len(values)]) for step in (-1, 0, 1))
    bend = before - 2 * top + after
    place = (place + len(values) // 2) % len(values) - len(values) // 2
    return place + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def _edges(grey: Image.Image) -> NDArray[np.float32]:
    values = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    vertical, horizontal = np.gradient(values)
    edges = np.sqrt(np.hypot(vertical, horizontal))  # the root keeps a few edges from dominating
    centred: NDArray[np.float32] = (edges - edges.mean()) * _WINDOW
    return centred
