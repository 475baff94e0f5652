"""Judges the measurements of a data set: what a person would want to look at, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from nectargan.dataset.copies import links_of_copies
from nectargan.dataset.inspection import FEW_GRAYS
from nectargan.dataset.pairs import Pair
from nectargan.dataset.streaming import Joined
from nectargan.wording import counted

# A peak of noise is 4 to 6 standard deviations high, that of pairs with common edges above 10. A
# periodic image has several peaks; a shift must be clearly better than none.
_PEAK, _PEAK_RATIO = 10.0, 1.4
# Of the side. Smaller shifts are within the error; larger ones always count.
_LEAST_SHIFT, _ENOUGH = 1 / 128, 0.02
EMPTY = 0.02  # standard deviation of the brightness
_NARROW = 0.2  # span of the brightness; a night sky with stars is not empty
_FEW = 0.05  # an outlier is one of at most this fraction of all images
_FAR = 8.0  # distance of an outlier from the median, in median absolute deviations
_MOST_LABELS = 64  # colors of a label map
_AT_FEW, _USUALLY_AT_FEW = 0.28, 0.35  # see `inspection._at_few`


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
    """All pairs and measurements, the names of the splits, and the split of each pair by number."""

    pairs: Sequence[Pair]
    splits: Sequence[str]
    numbers: NDArray[np.uint8]
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


def suspicions(
    splits: Mapping[str, Sequence[Pair]], measured: NDArray[np.void]
) -> Iterator[Suspicion]:
    """What should be looked at in a data set.

    Args:
        splits: The pairs of each split.
        measured: The measurements of all of them by `Examination`.

    Yields:
        The suspicions of one kind after the other, each kind worst first.
    """
    counts = [len(pairs) for pairs in splits.values()]
    numbers = np.repeat(np.arange(len(counts), dtype=np.uint8), counts)
    whole = _Set(Joined(splits.values()), list(splits), numbers, measured)
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
    for kind in kinds:
        yield from kind(whole)


def _misaligned(data: _Set) -> Iterator[Suspicion]:
    shift = data.found["shift"]
    distance = np.hypot(shift[:, 0], shift[:, 1])
    distance /= data.found["size"].max(axis=1).clip(min=1)
    is_far = data.found["peak"] >= _PEAK
    # Of some kinds of pairs, such as label maps and pictures with shadows, all edges differ a bit.
    usual = float(np.quantile(distance[is_far], 0.8)) if is_far.any() else 0.0
    is_far &= distance >= min(max(_LEAST_SHIFT, 3 * usual), _ENOUGH)
    is_far &= data.found["peak"] >= _PEAK_RATIO * data.found["peak_at_zero"]
    indices = np.flatnonzero(is_far)
    for i in indices[np.argsort(-distance[indices], kind="stable")]:
        down, right = shift[i]
        figure = f"B fits A when moved {down:+.0f} pixels down and {right:+.0f} right"
        yield data.about("misaligned", i, None, figure, "align the pair or leave it out")


def _copies(data: _Set) -> Iterator[Suspicion]:
    for i, j, bits in links_of_copies(data.found, data.numbers, EMPTY):
        files = data.files(i)[:1] + data.files(j)[:1]
        figure = f"their perceptual hashes differ in {bits} of 128 bits"
        splits = [data.splits[data.numbers[each]] for each in (i, j)]
        if splits[0] == splits[1]:
            kind, advice = "duplicate", "keep one of them"
        else:
            kind = "leak"
            advice = (
                f"a picture in {splits[0]} and in {splits[1]} makes validation look "
                "better than it is; keep it in one split"
            )
        yield Suspicion(kind, files, figure, advice, (data.pairs[i], data.pairs[j]))


def _empty(data: _Set) -> Iterator[Suspicion]:
    deviation = data.found["deviation"]
    is_empty = (deviation < EMPTY) & (data.found["span"] < _NARROW)
    places = np.argwhere(is_empty)
    order = np.argsort(deviation[is_empty], kind="stable")
    for i, side in places[order]:
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
        if not is_such[:, side].any() or is_label.mean() < 0.5:
            continue
        if np.median(at_few[:, side][colours[:, side] > _MOST_LABELS]) < _USUALLY_AT_FEW:
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
            figure = f"{counted(int(channels[i]), 'channel')}, most have {usual}"
            advice = f"save it with {counted(usual, 'channel')} if it should look like the others"
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
        mean = data.found["mean"][:, side].astype(np.float32)
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
