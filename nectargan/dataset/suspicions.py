"""Judges the measurements of a data set: what a person would want to look at, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from nectargan.dataset.inspection import FEW_GRAYS
from nectargan.dataset.pairs import Pair

# A peak of noise is 4 to 6 standard deviations high, that of pairs with common edges above 10. A
# periodic image has several peaks; a shift must be clearly better than none.
_PEAK, _PEAK_RATIO = 10.0, 1.4
_LEAST_SHIFT = 3.0  # pixels; smaller shifts are within the error for images above 256 pixels
# Bits of 128 (both images) in which copies differ at most. Of 150 drawn facades, 95 % of the copies
# that were resized, darkened and saved as JPEG are found, and 2 others are taken for copies.
_COPY_BITS = 6
_LARGEST_BUCKET = 4096  # see `close_hashes`
_EMPTY = 0.02  # standard deviation of the brightness
_FEW = 0.05  # an outlier is one of at most this fraction of all images
_FAR = 8.0  # distance of an outlier from the median, in median absolute deviations
_MOST_LABELS = 64  # colors of a label map
_AT_FEW, _USUALLY_AT_FEW = 0.3, 0.42  # see `inspection._at_few`


class Suspicion(NamedTuple):
    """Something about a data set that a person should look at.

    Attributes:
        kind: Short name of the kind, such as "misaligned".
        files: The files, one or two.
        figure: What was measured.
        advice: What to do.
        pairs: The pairs of these files.
    """

    kind: str
    files: tuple[str, ...]
    figure: str
    advice: str
    pairs: tuple[Pair, ...] = ()

    def facts(self) -> dict[str, str | tuple[str, ...]]:
        """The texts by name, for JSON."""
        return {name: value for name, value in self._asdict().items() if name != "pairs"}

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

    def about(
        self, kind: str, i: SupportsIndex, side: int | None, figure: str, advice: str
    ) -> Suspicion:
        """A suspicion about a pair, or about one image of it."""
        return Suspicion(kind, self.files(i, side), figure, advice, (self.pairs[int(i)],))


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
        yield data.about("misaligned", i, None, figure, "align the pair or leave it out")


def _copies(data: _Set) -> Iterator[Suspicion]:
    for i, j, bits in links_of_copies(data.found, data.splits):
        files = data.files(i)[:1] + data.files(j)[:1]
        figure = f"their perceptual hashes differ in {bits} of 128 bits"
        if data.splits[i] == data.splits[j]:
            kind, advice = "duplicate", "keep one of them"
        else:
            kind = "leak"
            advice = (
                f"a picture in {data.splits[i]} and in {data.splits[j]} makes validation look "
                "better than it is; keep it in one split"
            )
        yield Suspicion(kind, files, figure, advice, (data.pairs[i], data.pairs[j]))


def links_of_copies(
    measured: NDArray[np.void], splits: Sequence[str]
) -> Iterator[tuple[int, int, int]]:
    """Links between similar pairs: n - 1 of them for n copies of a picture.

    Empty images are left out.

    Args:
        measured: Array of `MEASUREMENTS`.
        splits: The split of each pair; links between different ones come first.

    Returns:
        The indices of two pairs, and the number of bits in which their hashes differ.
    """
    rows = np.flatnonzero((measured["deviation"] >= _EMPTY).all(axis=1))
    if not len(rows):
        return
    hashes = np.ascontiguousarray(measured["hash"][rows])
    found = []
    # Equal hashes are linked to the first one of their split; the search compares the rest.
    codes = np.unique(np.array([splits[int(i)] for i in rows]), return_inverse=True)[1].astype(
        np.uint64
    )
    keys = np.concatenate([hashes, codes[:, None]], axis=1)
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    for place, number in enumerate(group.reshape(-1).tolist()):
        if first[number] != place:
            found.append((True, 0, int(rows[first[number]]), int(rows[place])))
    for a, b, bits in close_hashes(hashes[first], _COPY_BITS):
        i, j = sorted((int(rows[first[a]]), int(rows[first[b]])))
        found.append((splits[i] == splits[j], bits, i, j))
    parents: dict[int, int] = {}

    def root(i: int) -> int:
        while (above := parents.get(i, i)) != i:
            parents[i] = parents.get(above, above)
            i = above
        return i

    for _, bits, i, j in sorted(found):
        if root(i) != root(j):
            parents[root(j)] = root(i)
            yield i, j, bits


def close_hashes(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[int, int, int]]:
    """All pairs of rows whose hashes differ in at most ``bits`` bits, and that number.

    If the bits are divided into ``bits + 1`` bands, two such rows are equal in one of them. So
    only rows with an equal band are compared. Of more than `_LARGEST_BUCKET` rows with an equal
    band, each is only compared with the next ones in the order of their hashes.

    Args:
        hashes: Array ``(n, words)`` of 64-bit words.
        bits: Largest number of different bits.
    """
    table = np.unpackbits(hashes.view(np.uint8).reshape(len(hashes), -1), axis=1)
    bands = np.array_split(np.arange(table.shape[1]), bits + 1)
    seen = set()
    for band in bands:
        keys = np.packbits(table[:, band], axis=1)
        order = np.lexsort(keys.T)
        is_new = (keys[order][1:] != keys[order][:-1]).any(axis=1)
        for rows in np.split(order, np.flatnonzero(is_new) + 1):
            if len(rows) < 2:
                continue
            is_large = len(rows) > _LARGEST_BUCKET
            rows = rows[np.lexsort(hashes[rows].T)] if is_large else np.sort(rows)
            ahead = _LARGEST_BUCKET // 8 if is_large else len(rows)
            words = hashes[rows]
            for place, row in enumerate(rows[:-1].tolist()):
                rest = slice(place + 1, place + 1 + ahead)
                distances = _count_bits(words[rest] ^ words[place])
                for near in np.flatnonzero(distances <= bits).tolist():
                    other = int(rows[place + 1 + near])
                    both = (min(row, other), max(row, other))
                    if both not in seen:
                        seen.add(both)
                        yield *both, int(distances[near])


_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)


def _count_bits(words: NDArray[np.uint64]) -> NDArray[Any]:
    """The number of ones in each row of ``(n, words)``."""
    rows = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    return np.asarray(_BITS_OF_BYTE[rows].sum(axis=1))


def _empty(data: _Set) -> Iterator[Suspicion]:
    deviation = data.found["deviation"]
    places = np.argwhere(deviation < _EMPTY)
    for i, side in sorted(places.tolist(), key=lambda place: float(deviation[tuple(place)])):
        figure = f"its brightness has a standard deviation of {100 * deviation[i, side]:.1f} %"
        yield data.about("empty", i, side, figure, "leave it out unless it is intended")


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
                yield data.about("swapped", i, None, figure, "exchange A and B")
            return


def _compressed_label_maps(data: _Set) -> Iterator[Suspicion]:
    colours, at_few = data.found["colours"], data.found["at_few"]
    is_such = (colours > _MOST_LABELS) & (at_few >= _AT_FEW)
    for side in (0, 1):
        # A picture can look like this by chance; in a folder of label maps, most images do.
        is_label = is_such[:, side] | (colours[:, side] <= _MOST_LABELS)
        usual = np.median(
            at_few[:, side][colours[:, side] > _MOST_LABELS] if is_such.any() else 0.0
        )
        if is_label.mean() < 0.5 or usual < _USUALLY_AT_FEW:
            continue
        for i in np.flatnonzero(is_such[:, side]):
            figure = (
                f"{colours[i, side]} colors, but {100 * at_few[i, side]:.0f} % of the pixels have "
                f"one of {FEW_GRAYS} gray values"
            )
            advice = "it looks like a label map that was saved as JPEG; save label maps as PNG"
            yield data.about("compressed labels", i, side, figure, advice)


def _upscaled(data: _Set) -> Iterator[Suspicion]:
    for i, side in np.argwhere(data.found["is_upscaled"]):
        figure = "16 bits per value, of which 8 are used"
        yield data.about("8 bits in 16", i, side, figure, "8 bits hold the same values")


def _rotated(data: _Set) -> Iterator[Suspicion]:
    orientation = data.found["orientation"]
    for i in np.flatnonzero(orientation[:, 0] != orientation[:, 1]):
        first, second = (int(value) or 1 for value in orientation[i])
        figure = f"the EXIF orientation of A is {first}, that of B is {second}"
        yield data.about("orientation", i, None, figure, "check that both are upright")


def _other_channels(data: _Set) -> Iterator[Suspicion]:
    for side in (0, 1):
        channels = data.found["channels"][:, side]
        counts = np.bincount(channels)
        usual = int(counts.argmax())
        for i in _few(channels != usual):
            figure = f"{channels[i]} channels, most have {usual}"
            advice = f"save it with {usual} channels if it should look like the others"
            yield data.about("channels", i, side, figure, advice)


def _other_sizes(data: _Set) -> Iterator[Suspicion]:
    height, width = data.found["size"].T
    shapes = np.log2(data.found["size"])
    middle = np.median(shapes, axis=0)
    distance = np.abs(shapes - middle).max(axis=1)
    for i in _few(distance > 1, distance):
        usual = " x ".join(f"{2**side:.0f}" for side in middle)
        figure = f"{height[i]} x {width[i]} pixels, most are near {usual} (height x width)"
        yield data.about("size", i, None, figure, "check that it belongs to the data set")


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
            yield data.about("brightness", i, side, figure, advice)


def _few(is_such: NDArray[np.bool_], order: NDArray[Any] | None = None) -> list[int]:
    """The indices, largest ``order`` first; none if they are too many to be outliers."""
    indices = np.flatnonzero(is_such)
    if len(indices) > max(1, _FEW * len(is_such)):
        return []
    if order is not None:
        indices = indices[np.argsort(-order[indices], kind="stable")]
    return [int(i) for i in indices]
