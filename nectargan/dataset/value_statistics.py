"""Counts the values of each channel of the images of a data set.

Values of 8 and 16 bits are counted one by one, so that minimum, maximum and percentiles are exact.
Values of 32 bits are counted in 65536 bins, each 1/128 of its values wide: minimum and maximum
are exact, percentiles are interpolated within a bin.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nectargan.dataset.pairs import Pair
from nectargan.dataset.raw_pairs import (
    Selection,
    in_dtype,
    read_sides,
    valid_pixels,
    with_channels,
)
from nectargan.dataset.streaming import in_threads
from nectargan.errors import DataError
from nectargan.files import cache_folder, replacing
from nectargan.images.reading import read_raw
from nectargan.sources import Source, state_of_source

_BINS = 1 << 16
_VERSION = 2  # of what is counted, so that an older cache is not used
_CHUNK = 8  # pairs that one task reads

Array = npt.NDArray[Any]


class ValueStatistics(NamedTuple):
    """The values of one side of a data set, without invalid pixels.

    Attributes:
        dtype: The dtype of the files.
        counts: How often each bin occurs, int64 ``(C, 65536)``.
        lowest: The minimum of each channel, float64 ``(C,)``; infinite without values.
        highest: The maximum of each channel.
        invalid: Number of pixels that are nodata, NaN or infinite.
    """

    dtype: np.dtype[Any]
    counts: npt.NDArray[np.int64]
    lowest: npt.NDArray[np.float64]
    highest: npt.NDArray[np.float64]
    invalid: int

    @property
    def pixels(self) -> int:
        """Number of valid pixels."""
        return int(self.counts[0].sum())

    def percentile(self, percent: float) -> npt.NDArray[np.float64]:
        """The percentile of each channel, in the units of the files; ``(C,)``.

        Args:
            percent: From 0 to 100.
        """
        found = np.empty(len(self.counts))
        for channel, counts in enumerate(self.counts):
            sums = counts.cumsum()
            rank = percent / 100 * (sums[-1] - 1)
            place = int(np.searchsorted(sums, rank, side="right"))
            low, high = _values_of_bin(place, self.dtype)
            part = (rank - (sums[place] - counts[place])) / counts[place]
            found[channel] = low + (high - low) * part
        return found.clip(self.lowest, self.highest)

    def plus(self, other: ValueStatistics) -> ValueStatistics:
        """The statistics of both; raises `DataError` if they have other numbers of channels."""
        if len(self.counts) != len(other.counts):
            numbers = " and ".join(str(n) for n in sorted({len(self.counts), len(other.counts)}))
            raise DataError(f"The images have different numbers of channels: {numbers}.")
        return self._replace(
            counts=self.counts + other.counts,
            lowest=np.minimum(self.lowest, other.lowest),
            highest=np.maximum(self.highest, other.highest),
            invalid=self.invalid + other.invalid,
        )


class ValueReader(NamedTuple):
    """How the values of one side of a data set are read.

    Attributes:
        side: 0 for the input, 1 for the target.
        swap: Whether B is the input.
        selections: The channels of input and target to read; ``None`` for all.
        channels: Their number; 0 for that of the files.
        dtype: The dtype that holds all values of this side.
        option: The option with the number of channels, for error messages.
    """

    side: int
    swap: bool
    selections: tuple[Selection, Selection]
    channels: int
    dtype: np.dtype[Any]
    option: str

    def measure(self, pair: Pair) -> ValueStatistics:
        """The statistics of one image; raises `DataError` if it cannot be read."""
        if pair.b is None:
            image = read_sides(pair, self.swap, self.selections)[self.side]
        else:
            path = pair.b if self.swap != bool(self.side) else pair.a
            image = read_raw(path, self.selections[self.side])
        count = self.channels or image.values.shape[2]
        values = with_channels(image.values, count, pair.a, self.option)
        valid = valid_pixels(image)
        return statistics_of(in_dtype(values, self.dtype)[valid], int((~valid).sum()))


def statistics_of(values: Array, invalid: int = 0) -> ValueStatistics:
    """The statistics of values ``(pixels, C)``."""
    channels = values.shape[1]
    counts = np.stack([np.bincount(_bins(values[:, i]), minlength=_BINS) for i in range(channels)])
    if len(values):
        lowest, highest = values.min(0).astype(np.float64), values.max(0).astype(np.float64)
    else:
        lowest, highest = np.full(channels, np.inf), np.full(channels, -np.inf)
    return ValueStatistics(values.dtype, counts, lowest, highest, invalid)


def measure_values(
    pairs: Sequence[Pair],
    reader: ValueReader,
    folder: Path | None = None,
    on_progress: Callable[[int], object] = lambda count: None,
) -> ValueStatistics:
    """The statistics of all pairs, in parallel and with little memory.

    Args:
        pairs: The pairs, at least one.
        reader: How they are read.
        folder: Where the result is kept for the next time, until a file changes; by default
            ``values`` in the folder of the variable NECTARGAN_CACHE, else ``nectargan/values`` in
            the cache folder of the user.
        on_progress: Called with the number of pairs that were read since the last call.

    Raises:
        DataError: If a file cannot be read, or the images have different numbers of channels.
    """
    kept = (folder or cache_folder("values")) / f"{_key(pairs, reader)}.npz"
    if (known := _load(kept, reader.dtype)) is not None:
        return known

    def measure(begin: int) -> ValueStatistics:
        # One after the other, as each needs half a MB per channel.
        return functools.reduce(
            ValueStatistics.plus, map(reader.measure, pairs[begin : begin + _CHUNK])
        )

    begins = range(0, len(pairs), _CHUNK)
    total: ValueStatistics | None = None
    for begin, found in zip(begins, in_threads(measure, begins, ahead=1), strict=True):
        total = found if total is None else total.plus(found)
        on_progress(min(_CHUNK, len(pairs) - begin))
    assert total is not None  # noqa: S101 - there is at least one pair
    _save(kept, total)
    return total


def describe_values(
    pairs: Sequence[Pair],
    dtypes: tuple[np.dtype[Any], np.dtype[Any]],
    selections: tuple[Selection, Selection],
    on_progress: Callable[[int], object] = lambda count: None,
) -> list[str]:
    """Lines with the values of each channel of A and of B, for a person who chooses a range.

    Args:
        pairs: The pairs.
        dtypes: The dtype of A, and of B.
        selections: The channels of A, and of B; ``None`` for all.
        on_progress: See `measure_values`; each pair is read twice.

    Raises:
        DataError: See `measure_values`.
    """
    lines = []
    for side, dtype in enumerate(dtypes):
        reader = ValueReader(side, False, selections, 0, dtype, "")
        found = measure_values(pairs, reader, on_progress=on_progress)
        if not found.pixels:
            lines.append(f"{'AB'[side]}, {dtype}: no pixel is valid")
            continue
        columns = [found.lowest, found.percentile(1), found.percentile(99), found.highest]
        for channel, row in enumerate(zip(*columns, strict=True), start=1):
            low, first, last, high = (f"{value:.6g}" for value in row)
            where = f"{'AB'[side]}, {dtype}, channel {channel} of {len(found.counts)}"
            lines.append(f"{where}: {low} to {high}; 1 %: {first}, 99 %: {last}")
        if found.invalid:
            lines.append(f"{'AB'[side]}: {found.invalid} pixels are nodata, NaN or infinite")
    return lines


# --- bins ----------------------------------------------------------------------------------------


def _bins(values: Array) -> npt.NDArray[np.int64]:
    """The bin of each value; a larger value has the same bin or a later one."""
    if values.dtype.kind != "f":
        return values.astype(np.int64) - int(np.iinfo(values.dtype).min)
    bits = values.dtype.itemsize * 8
    codes = np.ascontiguousarray(values).view(f"u{bits // 8}").astype(np.int64)
    sign = 1 << (bits - 1)
    # The bits of a float count upwards from 0, and those of a negative one downwards.
    ordered = np.where(codes & sign, 2 * sign - 1 - codes, codes | sign)
    return ordered >> (bits - 16)


def _values_of_bin(place: int, dtype: np.dtype[Any]) -> tuple[float, float]:
    """The lowest and the highest value of a bin."""
    if dtype.kind != "f":
        value = float(place + int(np.iinfo(dtype).min))
        return value, value
    bits = dtype.itemsize * 8
    sign, shift = 1 << (bits - 1), bits - 16
    ends = (place << shift, ((place + 1) << shift) - 1)
    codes = [code & ~sign if code & sign else 2 * sign - 1 - code for code in ends]
    low, high = (float(np.array([code], f"u{bits // 8}").view(dtype)[0]) for code in codes)
    # The bins next to 0 have subnormal numbers, which occur as 0 alone.
    tiny = float(np.finfo(np.float32).tiny)
    return (0.0, 0.0) if bits == 32 and max(abs(low), abs(high)) < tiny else (low, high)


# --- cache ---------------------------------------------------------------------------------------


def _key(pairs: Sequence[Pair], reader: ValueReader) -> str:
    """A digest of what the statistics depend on."""
    digest = hashlib.sha256(
        # A dtype is no JSON; its name stands at the end instead.
        json.dumps([_VERSION, *reader._replace(dtype=None), reader.dtype.name]).encode()  # type: ignore[arg-type]
    )
    for pair in pairs:
        sources: list[Source] = [each for each in (pair.a, pair.b) if each is not None]
        for source in sources:
            digest.update(json.dumps([str(source), *state_of_source(source)]).encode())
    return digest.hexdigest()[:32]


def _load(path: Path, dtype: np.dtype[Any]) -> ValueStatistics | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            counts = np.zeros((len(kept["lowest"]), _BINS), np.int64)
            counts[kept["channels"], kept["bins"]] = kept["counts"]
            lowest, highest = kept["lowest"], kept["highest"]
            return ValueStatistics(dtype, counts, lowest, highest, int(kept["invalid"]))
    except Exception:
        return None  # a cache that is missing or damaged in any way is made again


def _save(path: Path, found: ValueStatistics) -> None:
    channels, bins = found.counts.nonzero()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                channels=channels,
                bins=bins,
                counts=found.counts[channels, bins],
                lowest=found.lowest,
                highest=found.highest,
                invalid=np.int64(found.invalid),
            )
    except OSError:
        pass  # without the cache, the values are counted again
