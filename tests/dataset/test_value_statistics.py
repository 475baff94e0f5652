"""Statistics of values equal those of NumPy, and are counted once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nectargan.dataset import value_statistics
from nectargan.dataset.pairs import Pair
from nectargan.dataset.value_statistics import ValueReader, measure_values, statistics_of
from nectargan.errors import DataError

EXACT = ("uint8", "int8", "uint16", "int16", "float16")


@given(st.data(), st.sampled_from(EXACT), st.sampled_from([0, 1, 50, 99, 100]))
def test_percentiles_are_those_of_numpy(data: Any, dtype: str, percent: float) -> None:
    finite = {"allow_nan": False, "allow_infinity": False} if dtype == "float16" else {}
    elements = arrays.from_dtype(np.dtype(dtype), **finite)
    shape = st.tuples(st.integers(1, 40), st.integers(1, 3))
    values = data.draw(arrays.arrays(dtype, shape, elements=elements))
    found = statistics_of(values)
    # The value at the rank, without interpolation between two values.
    wanted = np.percentile(values.astype(np.float64), percent, axis=0, method="lower")
    assert found.percentile(percent).tolist() == wanted.tolist()
    assert found.lowest.tolist() == values.min(0).tolist()
    assert found.highest.tolist() == values.max(0).tolist()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_percentiles_of_32_bits_are_near(scale: float) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((5000, 2)) * scale).astype(np.float32)
    found = statistics_of(values)
    for percent in (1, 25, 75, 99):
        wanted = np.percentile(values, percent, axis=0)
        assert found.percentile(percent) == pytest.approx(wanted, rel=0.01)
    assert found.highest.tolist() == values.max(0).tolist()


@given(st.integers(1, 30), st.integers(0, 30))
def test_statistics_add_up(first: int, second: int) -> None:
    values = np.arange(first + second, dtype=np.int16)[:, None] * 7 - 100
    whole = statistics_of(values, 3)
    sum_of = statistics_of(values[:first], 1).plus(statistics_of(values[first:], 2))
    assert np.array_equal(sum_of.counts, whole.counts)
    assert (sum_of.lowest, sum_of.highest, sum_of.invalid) == (
        *(whole.lowest, whole.highest),
        3,
    )


def pairs_in(folder: Path, count: int = 3) -> list[Pair]:
    found = []
    for index in range(count):
        paths = [folder / f"{side}{index}.npy" for side in "ab"]
        for path, factor in zip(paths, (1.0, 10.0), strict=True):
            values = np.full((4, 4, 1), index * factor, np.float32)
            values[0, 0] = np.nan
            np.save(path, values)
        found.append(Pair(str(index), *paths))
    return found


def reader(side: int, swap: bool = False) -> ValueReader:
    return ValueReader(side, swap, (None, None), 1, np.dtype(np.float32), "input_nc")


def test_invalid_pixels_do_not_count(tmp_path: Path) -> None:
    pairs = pairs_in(tmp_path)
    for side, swap, highest in ((0, False, 2.0), (1, False, 20.0), (0, True, 20.0)):
        found = measure_values(pairs, reader(side, swap), tmp_path / "kept")
        assert (found.lowest[0], found.highest[0]) == (0.0, highest)
        assert (found.pixels, found.invalid) == (45, 3)


def test_values_are_counted_once_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, kept = pairs_in(tmp_path), tmp_path / "kept"
    first = measure_values(pairs, reader(0), kept)
    read = value_statistics.read_raw
    monkeypatch.setattr(value_statistics, "read_raw", None)  # a file that is read fails
    again = measure_values(pairs, reader(0), kept)
    assert np.array_equal(again.counts, first.counts)
    assert again.highest.tolist() == first.highest.tolist()

    monkeypatch.setattr(value_statistics, "read_raw", read)
    np.save(pairs[0].a, np.full((4, 4, 1), 9, np.float32))
    os.utime(pairs[0].a, (1, 1))
    assert measure_values(pairs, reader(0), kept).highest.tolist() == [9.0]

    for path in kept.iterdir():
        path.write_bytes(b"PK\x03\x04 damaged")
    assert measure_values(pairs, reader(0), kept).highest.tolist() == [9.0]


def test_the_lines_for_a_person(tmp_path: Path) -> None:
    types = (np.dtype(np.float32), np.dtype(np.float32))
    pairs = pairs_in(tmp_path)
    assert value_statistics.describe_values(pairs, types, (None, None)) == [
        "A, float32, channel 1 of 1: 0 to 2; 1 %: 0, 99 %: 2",
        "A: 3 pixels are nodata, NaN or infinite",
        "B, float32, channel 1 of 1: 0 to 20; 1 %: 0, 99 %: 20",
        "B: 3 pixels are nodata, NaN or infinite",
    ]
    np.save(pairs[1].a, np.zeros((4, 4, 2), np.float32))
    with pytest.raises(DataError, match="different numbers of channels: 1 and 2"):
        value_statistics.describe_values(pairs, types, (None, None))
