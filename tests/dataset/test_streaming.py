"""Packed sequences give back what was put in, and work in threads stays in order."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nectargan.dataset.listing import Files
from nectargan.dataset.pairs import Pair
from nectargan.dataset.streaming import Joined, Packed, in_threads, text_array
from nectargan.sources import Member, ShardFile


def file_names(characters: str | st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.text(characters, min_size=1, max_size=9)
    return names.filter(lambda name: name not in (".", ".."))


NAMES = file_names(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]))
SHARD = ShardFile(Path("train-0.tar"), 10, 20)
SOURCES = st.builds(lambda folder, name: Path(folder) / name, NAMES, NAMES) | st.builds(
    lambda name, offset: Member(SHARD, name, offset, 5), NAMES, st.integers(0, 2**40)
)


@given(st.lists(st.tuples(NAMES, SOURCES, st.none() | SOURCES), max_size=8))
def test_packed_pairs_are_equal(
    rows: list[tuple[str, Path | Member, Path | Member | None]],
) -> None:
    pairs = [Pair(*row) for row in rows]
    packed = Packed(Pair, rows)
    assert list(packed) == pairs
    assert packed == pairs
    assert list(packed[1::2]) == pairs[1::2]
    joined = Joined([packed, packed[:0], packed[1:]])
    assert list(joined) == pairs + pairs[1:]
    assert [joined[i] for i in range(len(joined))] == list(joined)
    assert joined[-2:] == list(joined)[-2:]
    with pytest.raises(IndexError):
        joined[len(joined)]


def test_a_pair_takes_few_bytes() -> None:
    tracemalloc.start()
    files = ((f"{i:06}", Path("a") / f"{i:06}.png", Path("b") / f"{i:06}.png") for i in range(5000))
    packed = Packed(Pair, files)
    assert tracemalloc.get_traced_memory()[0] < 5000 * 60
    tracemalloc.stop()
    assert packed[4999].b == Path("b/004999.png")


@given(st.lists(file_names("aB0129-_ .é"), unique=True))
def test_files_are_in_natural_order(names: list[str]) -> None:
    def key(name: str) -> tuple[list[str | int], bytes]:
        parts = re.split(r"([0-9]+)", name)
        return [int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)], name.encode()

    found = Files(Path("d"), text_array(names))
    assert [path.name for path in found] == sorted(names, key=key)
    assert list(found[:2]) == [Path("d") / name for name in sorted(names, key=key)[:2]]


def test_threads_are_in_order_and_only_a_few_items_ahead() -> None:
    items = iter(range(100_000))
    results = in_threads(lambda i: i * i, items)
    assert [next(results) for _ in range(50)] == [i * i for i in range(50)]
    assert next(items) < 50_000
    del results
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda i: 1 // i, [1, 0, 1]))
    assert np.array_equal(text_array([]), np.zeros(0, "S1"))
