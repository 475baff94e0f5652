"""Judges the measurements of a data set: what a person would want to look at, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from nectargan.dataset.inspection import FEW_GRAYS, NEAR
from nectargan.dataset.pairs import Pair

# A peak of noise is 4 to 6 standard deviations high, that of pairs with common edges above 10. A
# periodic image has several peaks; a shift must be clearly better than none.
_PEAK, _PEAK_RATIO = 10.0, 1.4
_LEAST_SHIFT = 3.0  # pixels; smaller shifts are within the error for images above 256 pixels
# Bits of 128 (both images) in which copies differ at most. Different drawn facades differ in 13 or
# more, most photographs in more than 30.
_COPY_BITS = 6
_EMPTY = 0.02  # standard deviation of the brightness
_FEW = 0.05  # an outlier is one of at most this fraction of all images
_FAR = 8.0  # distance of an outlier from the median, in median absolute deviations
_MOST_LABELS = 64  # colors of a label map
_NEAR_FEW = 0.82  # see `inspection._near_few`


class Suspicion(NamedTuple):
    """Something about a data set that a person should look at.

    Attributes:
        kind: Short name of the kind, such as "misaligned".
        files: The files, one or two.
        figure: What was measured.
        advice: What to do.
    """

    kind: str
    files: tuple[str, ...]
    figure: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {', '.join(self.files)}: {self.figure}; {self.advice}."


class _Set(NamedTuple):
    """All pairs and measurements, and the split of each pair."""

    pairs: Sequence[Pair]
    splits: Sequence[str]
    found: NDArray[np.void]

    def files(self, i: SupportsIndex, side: int | None = None) -> tuple[str, ...]:
        """The files of a pair; with ``side``, the one of A (0) or B (1)."""
        a, b = self.pairs[int(i)].a, self.pairs[int(i)].b
        if b is None:
            half = "" if side is None else f" ({'left' if side == 0 else 'right'} half)"
            return (f"{a}{half}",)
        return (str(a), str(b)) if side is None else (str((a, b)[side]),)


def suspicions(splits: Mapping[str, tuple[Sequence[Pair], NDArray[np.void]]]) -> list[Suspicion]:
    """What should be looked at in a data set.

    Args:
        splits: The pairs of each split and their measurements by `inspect`.

    Returns:
        The suspicions of one kind after the other, each kind worst first.
    """
    whole = _Set(
        [pair for pairs, _ in splits.values() for pair in pairs],
        [split for split, (pairs, _) in splits.items() for _ in pairs],
        np.concatenate([found for _, found in splits.values()]),
    )
    kinds = (
        _copies,
        _misaligned,
        _swapped,
        _empty,
        _compressed_label_maps,
        _upscaled,
        _rotated,
        _other_channels,
        _other_sizes,
        _other_brightness,
    )
    return [each for kind in kinds for each in kind(whole)]


def _misaligned(data: _Set) -> Iterator[Suspicion]:
    shift = data.found["shift"]
    distance = np.hypot(shift[:, 0], shift[:, 1])
    least = np.maximum(_LEAST_SHIFT, 0.02 * data.found["size"].max(axis=1))
    is_far = (data.found["peak"] >= _PEAK) & (distance >= least)
    is_far &= data.found["peak"] >= _PEAK_RATIO * data.found["peak_at_zero"]
    for i in sorted(np.flatnonzero(is_far), key=lambda i: -distance[i]):
        down, right = shift[i]
        figure = f"B fits A when moved {down:+.0f} pixels down and {right:+.0f} right"
        yield Suspicion("misaligned", data.files(i), figure, "align the pair or leave it out")


def _copies(data: _Set) -> Iterator[Suspicion]:
    found = []
    for i, j, bits in close_hashes(data.found["hash"], _COPY_BITS):
        if not (_is_empty(data, i) or _is_empty(data, j)):
            found.append((data.splits[i] == data.splits[j], bits, i, j))
    for is_one_split, bits, i, j in sorted(found):
        files = data.files(i)[:1] + data.files(j)[:1]
        figure = f"their perceptual hashes differ in {bits} of 128 bits"
        if is_one_split:
            yield Suspicion("duplicate", files, figure, "keep one of them")
        else:
            advice = (
                f"a picture in {data.splits[i]} and in {data.splits[j]} makes validation look "
                "better than it is; keep it in one split"
            )
            yield Suspicion("leak", files, figure, advice)


def close_hashes(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[int, int, int]]:
    """All pairs of rows whose hashes differ in at most ``bits`` bits, and that number.

    If the bits are divided into ``bits + 1`` bands, two such rows are equal in one of them. So
    only rows with an equal band are compared.

    Args:
        hashes: Array ``(n, words)`` of 64-bit words.
        bits: Largest number of different bits.
    """
    table = np.unpackbits(hashes.view(np.uint8).reshape(len(hashes), -1), axis=1)
    seen = set()
    for band in np.array_split(np.arange(table.shape[1]), bits + 1):
        keys = np.packbits(table[:, band], axis=1)
        order = np.lexsort(keys.T)
        is_new = (keys[order][1:] != keys[order][:-1]).any(axis=1)
        for rows in np.split(order, np.flatnonzero(is_new) + 1):
            for i, j in combinations(sorted(rows.tolist()), 2):
                if (i, j) not in seen:
                    seen.add((i, j))
                    distance = int((table[i] != table[j]).sum())
                    if distance <= bits:
                        yield i, j, distance


def _is_empty(data: _Set, i: int) -> bool:
    return bool((data.found["deviation"][i] < _EMPTY).any())


def _empty(data: _Set) -> Iterator[Suspicion]:
    deviation = data.found["deviation"]
    places = np.argwhere(deviation < _EMPTY)
    for i, side in sorted(places.tolist(), key=lambda place: float(deviation[tuple(place)])):
        figure = f"its brightness has a standard deviation of {100 * deviation[i, side]:.1f} %"
        yield Suspicion("empty", data.files(i, side), figure, "leave it out unless it is intended")


def _swapped(data: _Set) -> Iterator[Suspicion]:
    """Pairs in which the other side is the label map, or the gray image, than in most pairs."""
    for what, is_such in (
        ("a label map", data.found["colours"] <= _MOST_LABELS),
        ("gray", data.found["is_grey"]),
    ):
        only = [is_such[:, side] & ~is_such[:, 1 - side] for side in (0, 1)]
        counts = [int(each.sum()) for each in only]
        usual = int(counts[1] > counts[0])
        if 0 < counts[1 - usual] <= _FEW * counts[usual]:
            for i in np.flatnonzero(only[1 - usual]):
                figure = f"{'BA'[usual]} is {what}; in {counts[usual]} pairs {'AB'[usual]} is"
                yield Suspicion("swapped", data.files(i), figure, "exchange A and B")
            return


def _compressed_label_maps(data: _Set) -> Iterator[Suspicion]:
    colours, near = data.found["colours"], data.found["near_few"]
    is_such = (colours > _MOST_LABELS) & (near >= _NEAR_FEW)
    for side in (0, 1):
        # A picture can look like this by chance; in a folder of label maps, most images do.
        is_label = is_such[:, side] | (colours[:, side] <= _MOST_LABELS)
        if is_label.mean() < 0.5:
            continue
        for i in np.flatnonzero(is_such[:, side]):
            figure = (
                f"{colours[i, side]} colors, but {100 * near[i, side]:.0f} % of the pixels are "
                f"within {NEAR} of one of {FEW_GRAYS} gray values"
            )
            advice = "it looks like a label map that was saved as JPEG; save label maps as PNG"
            yield Suspicion("compressed labels", data.files(i, side), figure, advice)


def _upscaled(data: _Set) -> Iterator[Suspicion]:
    for i, side in np.argwhere(data.found["is_upscaled"]):
        figure = "16 bits per value, of which 8 are used"
        yield Suspicion("8 bits in 16", data.files(i, side), figure, "8 bits hold the same values")


def _rotated(data: _Set) -> Iterator[Suspicion]:
    orientation = data.found["orientation"]
    for i in np.flatnonzero(orientation[:, 0] != orientation[:, 1]):
        first, second = (int(value) or 1 for value in orientation[i])
        figure = f"the EXIF orientation of A is {first}, that of B is {second}"
        yield Suspicion("orientation", data.files(i), figure, "check that both are upright")


def _other_channels(data: _Set) -> Iterator[Suspicion]:
    for side in (0, 1):
        channels = data.found["channels"][:, side]
        counts = np.bincount(channels)
        usual = int(counts.argmax())
        for i in _few(channels != usual):
            figure = f"{channels[i]} channels, most have {usual}"
            advice = f"save it with {usual} channels if it should look like the others"
            yield Suspicion("channels", data.files(i, side), figure, advice)


def _other_sizes(data: _Set) -> Iterator[Suspicion]:
    height, width = data.found["size"].T
    shapes = np.log2(data.found["size"])
    middle = np.median(shapes, axis=0)
    distance = np.abs(shapes - middle).max(axis=1)
    for i in _few(distance > 1, distance):
        usual = " x ".join(f"{2**side:.0f}" for side in middle)
        figure = f"{height[i]} x {width[i]} pixels, most are near {usual} (height x width)"
        yield Suspicion("size", data.files(i), figure, "check that it belongs to the data set")


def _other_brightness(data: _Set) -> Iterator[Suspicion]:
    for side in (0, 1):
        mean = data.found["mean"][:, side]
        middle = np.median(mean)
        scale = max(float(np.median(np.abs(mean - middle))), 0.01)
        distance = np.abs(mean - middle) / scale
        for i in _few(distance > _FAR, distance):
            figure = (
                f"its mean brightness is {100 * mean[i]:.0f} %, the median {100 * middle:.0f} %"
            )
            advice = "check its exposure and the range of its values"
            yield Suspicion("brightness", data.files(i, side), figure, advice)


def _few(is_such: NDArray[np.bool_], order: NDArray[Any] | None = None) -> list[int]:
    """The indices, largest ``order`` first; none if they are too many to be outliers."""
    indices = np.flatnonzero(is_such)
    if len(indices) > max(1, _FEW * len(is_such)):
        return []
    if order is not None:
        indices = indices[np.argsort(-order[indices], kind="stable")]
    return [int(i) for i in indices]
