"""Measures what each pair of a data set looks like; `suspicions` judges the measurements."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nectargan.dataset.decoding import full_scale, in_8_bits, opened, orientation_of, turned
from nectargan.dataset.pairs import Pair

# The measurements of a pair; fields of two values are for A and B.
MEASUREMENTS = np.dtype(
    [
        ("size", "i4", 2),  # height and width of one image, in pixels
        ("channels", "u1", 2),
        ("orientation", "u1", 2),  # of EXIF; 0 and 1: as stored
        ("mean", "f4", 2),  # brightness in [0, 1]
        ("deviation", "f4", 2),  # standard deviation of the brightness, in [0, 1]
        ("is_grey", "?", 2),  # no pixel has a color
        ("is_upscaled", "?", 2),  # 16 bits whose values are those of 8 bits
        ("colours", "u4", 2),  # number of colors, of a sample of pixels
        ("near_few", "f4", 2),  # see `_near_few`
        ("hash", "u8", 2),  # perceptual hash, see `_hash`
        ("shift", "f4", 2),  # by which B must be moved to fit A: down and right, in pixels
        ("peak", "f4"),  # height of the phase correlation there, in standard deviations
        ("peak_at_zero", "f4"),  # the same without a shift
    ]
)
FEW_GRAYS, NEAR = 8, 4  # see `_near_few`

_SAMPLE = 1 << 14  # pixels
_CHUNK = 256  # pairs
_SIDE = 128  # pixels of the side of a square in which alignment is measured
_LEAST_SIDE = 64  # pixels; smaller images have too few edges
# Frequencies above this one, in cycles per pixel of the square, are mostly noise.
_CUTOFF = 0.15


def inspect(
    pairs: Sequence[Pair], on_progress: Callable[[int], object] | None = None
) -> NDArray[np.void]:
    """Measures every pair, in parallel and with little memory (100 bytes for each pair).

    Args:
        pairs: The pairs; all files are readable and fit together.
        on_progress: Called with the number of pairs that were measured since the last call.

    Returns:
        An array of `MEASUREMENTS`, in the order of ``pairs``.

    Raises:
        DataError: If a file cannot be read.
    """
    found = np.zeros(len(pairs), MEASUREMENTS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        begin = 0
        for chunk in _chunks(pairs):
            for i, values in enumerate(pool.map(_measure, chunk), begin):
                found[i] = values
            begin += len(chunk)
            if on_progress:
                on_progress(len(chunk))
    return found


def _chunks(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    rest = iter(pairs)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _measure(pair: Pair) -> tuple[Any, ...]:
    a = _read(pair.a)
    if pair.b is None:
        wide, channels, orientation, is_upscaled = a
        half = wide.width // 2
        halves = [wide.crop((x, 0, x + half, wide.height)) for x in (0, half)]
        sides = [(half, channels, orientation, is_upscaled) for half in halves]
    else:
        sides = [a, _read(pair.b)]
    images = [side[0] for side in sides]
    grey = [image.convert("L") for image in images]
    values = [np.asarray(image, np.float32) / 255 for image in grey]
    shift, peak, peak_at_zero = _alignment(*grey)
    return (
        (images[0].height, images[0].width),
        tuple(side[1] for side in sides),
        tuple(side[2] for side in sides),
        tuple(float(each.mean()) for each in values),
        tuple(float(each.std()) for each in values),
        tuple(_is_grey(image) for image in images),
        tuple(side[3] for side in sides),
        tuple(_colours(image) for image in images),
        tuple(_near_few(image) for image in grey),
        tuple(_hash(image) for image in grey),
        shift,
        peak,
        peak_at_zero,
    )


def _read(path: os.PathLike[str]) -> tuple[Image.Image, int, int, bool]:
    """The image as it is displayed, its channels, its orientation, and whether it is upscaled."""
    with opened(path) as image:
        full = full_scale(image)
        image.load()
        is_upscaled = full > 255 and image.mode.startswith("I") and _is_upscaled(image)
        found = orientation_of(image)
        orientation = found if isinstance(found, int) and 1 < found <= 8 else 0
        eight = in_8_bits(turned(image), full)
        return eight, len(eight.getbands()), orientation, is_upscaled


def _is_upscaled(image: Image.Image) -> bool:
    """Whether all values are those of 8 bits: not above 255, or multiples of 256 or 257."""
    values = np.asarray(image)
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
    return len(np.unique(pixels[:, 0] << 16 | pixels[:, 1] << 8 | pixels[:, 2]))


def _near_few(grey: Image.Image) -> float:
    """The fraction of pixels whose gray value is near one of `FEW_GRAYS` values.

    JPEG moves the few colors of a label map a little, so that it has many colors near a few. On
    drawn facades it is 0.85 to 0.99 for label maps at quality 75, and at most 0.76 for pictures.
    """
    counts = np.array(grey.histogram(), np.float64)
    kernel = np.ones(2 * NEAR + 1)
    covered = 0.0
    for _ in range(FEW_GRAYS):
        sums = np.convolve(counts, kernel, "same")
        most = int(sums.argmax())
        covered += sums[most]
        counts[max(0, most - NEAR) : most + NEAR + 1] = 0
    return covered / (grey.width * grey.height)


def _hash(grey: Image.Image) -> int:
    """The difference hash: whether each of 8 x 8 areas is brighter than the next one to the right.

    Resized, recompressed or slightly changed copies of an image differ in a few of the 64 bits.
    """
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(small[:, :-1] > small[:, 1:])
    return int.from_bytes(bits.tobytes(), "big")


_WINDOW = np.outer(np.hanning(_SIDE), np.hanning(_SIDE)).astype(np.float32)
_LOW_PASS = np.exp(
    -(np.fft.fftfreq(_SIDE)[:, None] ** 2 + np.fft.rfftfreq(_SIDE)[None] ** 2) / (2 * _CUTOFF**2)
)


def _alignment(a: Image.Image, b: Image.Image) -> tuple[tuple[float, float], float, float]:
    """Shift, peak and peak at zero by phase correlation (Kuglin and Hines 1975) of the edges.

    Edges are compared, because the brightness of A and B usually has nothing in common. All are 0
    for images that are too small.
    """
    if min(a.size) < _LEAST_SIDE:
        return (0.0, 0.0), 0.0, 0.0
    first, second = (np.fft.rfft2(_edges(image)) for image in (a, b))
    cross = first * second.conj()
    cross *= _LOW_PASS / (np.abs(cross) + 1e-9)
    found = np.fft.irfft2(cross, s=(_SIDE, _SIDE))
    found = (found - found.mean()) / (found.std() + 1e-12)
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    down, right = ((int(i) + _SIDE // 2) % _SIDE - _SIDE // 2 for i in (row, column))
    shift = down * a.height / _SIDE, right * a.width / _SIDE
    return shift, float(found[row, column]), float(found[0, 0])


def _edges(grey: Image.Image) -> NDArray[np.float32]:
    values = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    vertical, horizontal = np.gradient(values)
    edges = np.sqrt(np.hypot(vertical, horizontal))  # the root keeps a few edges from dominating
    centred: NDArray[np.float32] = (edges - edges.mean()) * _WINDOW
    return centred
