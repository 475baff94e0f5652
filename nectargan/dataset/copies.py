"""Finds pairs of images that are copies of others, by their perceptual hashes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Bits of 128 (both images) in which copies differ at most. Of 150 drawn facades, 95 % of the copies
# that were resized, darkened and saved as JPEG are found, and 2 others are taken for copies.
_COPY_BITS = 6
_AHEAD = 128  # see `close_hashes`
_MOST_LINKS = 16  # of a row
_BLOCK = 1 << 13  # rows that are compared at once
_LEAST_BUFFER = 1 << 18  # links

Indices: TypeAlias = NDArray[np.integer[Any]]
Links: TypeAlias = NDArray[np.void]
LINK = np.dtype([("is_within", "?"), ("bits", "u1"), ("i", "u4"), ("j", "u4")])


def links_of_copies(
    measured: NDArray[np.void], splits: NDArray[np.uint8], emptiness: float
) -> Iterator[tuple[int, int, int]]:
    """Links between similar pairs: n - 1 of them for n copies of a picture.

    Args:
        measured: Array of `MEASUREMENTS`.
        splits: Number of the split of each pair; links between different ones come first.
        emptiness: Pairs with an image whose brightness has a lower standard deviation are left out.

    Returns:
        The indices of two pairs, and the number of bits in which their hashes differ.
    """
    rows = np.flatnonzero((measured["deviation"] >= emptiness).all(axis=1)).astype(np.uint32)
    hashes = measured["hash"][rows]
    order = np.lexsort((splits[rows], *hashes.T))
    is_first = np.ones(len(rows), bool)
    for begin in range(1, len(rows), _BLOCK):
        now, before = (order[begin - k : begin - k + _BLOCK] for k in (0, 1))
        before = before[: len(now)]
        is_same = (hashes[now] == hashes[before]).all(axis=1)
        is_first[begin : begin + _BLOCK] = ~(is_same & (splits[rows[now]] == splits[rows[before]]))
    # Equal hashes are linked to the first one of their split; the search compares the rest.
    firsts = np.where(is_first, np.arange(len(rows)), 0)
    np.maximum.accumulate(firsts, out=firsts)
    equal = _links(rows[order[firsts[~is_first]]], rows[order[~is_first]], 0, splits)
    rows = np.sort(rows[order[is_first]])
    del hashes, order, is_first, firsts
    parts, waiting = [np.zeros(0, LINK)], 0
    for a, b, bits in close_hashes(measured["hash"][rows], _COPY_BITS):
        parts.append(_links(rows[a], rows[b], bits, splits))
        waiting += len(a)
        if waiting > max(_LEAST_BUFFER, len(rows)):
            parts, waiting = [_forest(np.concatenate(parts), len(measured))], 0
    found = np.concatenate([_forest(np.concatenate(parts), len(measured)), equal])
    for k in np.lexsort((found["j"], found["i"], found["bits"], found["is_within"])):
        yield int(found["i"][k]), int(found["j"][k]), int(found["bits"][k])


def _links(a: Indices, b: Indices, bits: Any, splits: NDArray[np.uint8]) -> Links:
    found = np.zeros(len(a), LINK)
    found["i"], found["j"] = np.minimum(a, b), np.maximum(a, b)
    found["bits"], found["is_within"] = bits, splits[a] == splits[b]
    return found


def _forest(links: Links, count: int) -> Links:
    """The links that connect what others before them do not, best first (Kruskal 1956)."""
    links = links[np.lexsort((links["j"], links["i"], links["bits"], links["is_within"]))]
    parents = array("I", range(count)) if len(links) else array("I")

    def root(i: int) -> int:
        while (above := parents[i]) != i:
            parents[i] = parents[above]
            i = above
        return i

    is_needed = np.zeros(len(links), bool)
    for begin in range(0, len(links), _BLOCK):
        some = links[begin : begin + _BLOCK]
        for k, (i, j) in enumerate(zip(some["i"].tolist(), some["j"].tolist(), strict=True)):
            a, b = root(i), root(j)
            if a != b:
                parents[b] = a
                is_needed[begin + k] = True
    return links[is_needed]


def close_hashes(
    hashes: NDArray[np.uint64], bits: int, most_links: int = _MOST_LINKS
) -> Iterator[tuple[Indices, Indices, NDArray[np.uint8]]]:
    """Rows whose hashes differ in at most ``bits`` bits, and that number; a pair can be repeated.

    If the bits are divided into ``bits + 1`` bands, two such rows are equal in one of them. So
    only rows with an equal band are compared: each with the next `_AHEAD` ones in the order of
    their hashes, until it has enough links. The time for n rows is that of sorting them.

    Args:
        hashes: Array ``(n, words)`` of 64-bit words.
        bits: Largest number of different bits.
        most_links: A row with so many links is not compared with later ones.
    """
    links = np.zeros(len(hashes), np.uint16)
    edges = np.linspace(0, 64 * hashes.shape[1], bits + 2).astype(int).tolist()
    for begin, end in pairwise(edges):
        order = np.lexsort((*hashes.T, *_band(hashes, begin, end).T)).astype(np.uint32)
        active = np.arange(len(order), dtype=np.uint32)
        for step in range(1, min(_AHEAD, len(order) - 1) + 1):
            left = [np.zeros(0, np.uint32)]
            for first in range(0, len(active), _BLOCK):
                here = active[first : first + _BLOCK]
                here = here[here < len(order) - step]
                a, b = order[here], order[here + step]
                different = hashes[a] ^ hashes[b]
                is_equal = ~_band(different, begin, end).any(axis=1) & (links[a] < most_links)
                left.append(here[is_equal])
                a, b, different = a[is_equal], b[is_equal], different[is_equal]
                distances = _count_bits(different)
                is_close = distances <= bits
                if is_close.any():
                    links[a[is_close]] += 1
                    yield a[is_close], b[is_close], distances[is_close].astype(np.uint8)
            active = np.concatenate(left)
            if not len(active):
                break


def _band(hashes: NDArray[np.uint64], begin: int, end: int) -> NDArray[np.uint64]:
    """The bits from ``begin`` to ``end`` of each row, as ``(n, words)``."""
    words = []
    for word in range(begin // 64, (end - 1) // 64 + 1):
        first, last = max(begin - 64 * word, 0), min(end - 64 * word, 64)
        words.append(hashes[:, word] >> np.uint64(first) & np.uint64((1 << (last - first)) - 1))
    return np.stack(words, axis=1)


_BITS_OF_16 = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16)
_BITS_OF_16 = _BITS_OF_16.sum(1, dtype=np.uint8)


def _count_bits(words: NDArray[np.uint64]) -> NDArray[Any]:
    """The number of ones in each row of ``(n, words)``."""
    return np.asarray(_BITS_OF_16[words.view(np.uint16)].sum(axis=1))
