"""Goes through millions of files in little memory: packed sequences, and work in threads."""

from __future__ import annotations

import copy
import marshal
import os
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from nectargan.sources import Member, Shard, Source

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 4096  # texts


class Packed(Sequence[T]):
    """Objects of a name and one or two files, in about 40 bytes each for short file names.

    An object is made anew each time it is read. A slice shares the memory.

    Args:
        make: Makes an object of a name, a file, and another file or ``None``.
        rows: These three of each object.
    """

    def __init__(
        self,
        make: Callable[[str, Any, Any], T],
        rows: Iterable[tuple[str, Source, Source | None]],
    ) -> None:
        self._make = make
        self._data = bytearray()
        self._ends = array("Q", [0])
        self._folders: list[Path] = []
        self._shards: list[Shard] = []
        places: dict[Path | Shard, int] = {}
        for name, first, second in rows:
            sources = [first] if second is None else [first, second]
            files = [self._packed(source, places) for source in sources]
            short = None if name == Path(str(files[0][1])).stem else name
            self._data += marshal.dumps((short, *files))
            self._ends.append(len(self._data))
        self._rows = range(len(self._ends) - 1)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Packed[T]: ...
    def __getitem__(self, index: int | slice) -> T | Packed[T]:
        if isinstance(index, slice):
            part = copy.copy(self)
            part._rows = self._rows[index]
            return part
        row = self._rows[index]
        name, first, *rest = marshal.loads(self._data[self._ends[row] : self._ends[row + 1]])  # noqa: S302 - made here
        second = self._unpacked(rest[0]) if rest else None
        if name is None:
            name = Path(first[1]).stem
        return self._make(name, self._unpacked(first), second)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _packed(self, source: Source, places: dict[Path | Shard, int]) -> tuple[int | str, ...]:
        if isinstance(source, Path):
            folder = source.parent
            if (place := places.get(folder)) is None:
                place = places[folder] = len(self._folders)
                self._folders.append(folder)
            return place, source.name
        if (place := places.get(source.shard)) is None:
            place = places[source.shard] = len(self._shards)
            self._shards.append(source.shard)
        return place, source.path, source.offset, source.size

    def _unpacked(self, packed: tuple[Any, ...]) -> Source:
        place, name, *span = packed
        return Member(self._shards[place], name, *span) if span else self._folders[place] / name


class Joined(Sequence[T]):
    """Several sequences as one."""

    def __init__(self, parts: Iterable[Sequence[T]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[T]:
        for part in self._parts:
            yield from part

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]


class Texts:
    """Collects texts for an array: in the encoding of file names, all as long as the longest."""

    def __init__(self) -> None:
        self._parts = [np.zeros(0, "S1")]
        self._last: list[bytes] = []

    def append(self, text: str) -> None:
        """Adds a text."""
        self._last.append(os.fsencode(text))
        if len(self._last) == _CHUNK:
            self._parts.append(np.array(self._last))
            self._last.clear()

    def array(self) -> NDArray[np.bytes_]:
        """All texts."""
        return np.concatenate([*self._parts, np.array(self._last, "S")])


def text_array(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Texts as `Texts` collects them."""
    found = Texts()
    for text in texts:
        found.append(text)
    return found.array()


def in_threads(function: Callable[[T], R], items: Iterable[T], ahead: int = 16) -> Iterator[R]:
    """Like `map`, in one thread per CPU core and in order; ``ahead`` results per core wait."""
    cores = os.cpu_count() or 1
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
