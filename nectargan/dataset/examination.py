"""Reads and measures every pair once, and keeps the results to go on after an interruption."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nectargan.dataset.data_check import Probes, look_at, probed
from nectargan.dataset.decoding import PixelStatistics, Probe
from nectargan.dataset.inspection import (
    MEASUREMENTS,
    Decoded,
    decode,
    decoded,
    halves,
    measure,
)
from nectargan.dataset.pairs import Pair
from nectargan.dataset.raw_pairs import Selection
from nectargan.dataset.shard_names import absolute
from nectargan.dataset.streaming import in_threads
from nectargan.errors import DataError
from nectargan.files import append_whole, cache_folder
from nectargan.sources import state_of_source

_VERSION = 2  # of the measurements; results of another version are measured again
_CHUNK = 256  # pairs
_MOST_UNUSED = 3  # kept results for each pair; a file with more is made again
Known: TypeAlias = tuple[Probes, NDArray[np.void]]
Progress: TypeAlias = Callable[[int], AbstractContextManager[Callable[..., None]]]


def no_progress(count: int) -> AbstractContextManager[Callable[..., None]]:
    """Shows nothing."""
    return nullcontext(lambda done=1: None)


class Examination:
    """Probes and measures pairs; the argument ``examine`` of `check_data`.

    Each file is decoded once, in several threads; no more than a few images are in memory. The
    measurements take 64 bytes for each pair, and 16 bytes more if there are kept results.

    Args:
        selections: The channels to read of A and of B; ``None`` for all.
        kept: File for the results, which are read again if the files of a pair have the same
            sizes and times of modification; ``None`` to keep nothing.
        progress: Makes a progress bar for a number of pairs.

    Attributes:
        found: An array of `MEASUREMENTS`, in the order of the pairs.
        reused: Number of pairs whose kept results were used.
    """

    def __init__(
        self,
        selections: Sequence[Selection] = (None, None),
        kept: Path | None = None,
        progress: Progress = no_progress,
    ) -> None:
        a, b = (None if each is None else tuple(each) for each in selections)
        self._selections = (a, b)
        self._kept = kept
        self._progress = progress
        self.found: NDArray[np.void] = np.zeros(0, MEASUREMENTS)
        self.reused = 0

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Probes]:
        """What was found in the files of each pair, or an error message."""
        self.found = np.zeros(len(pairs), MEASUREMENTS)
        results = _Kept(self._kept, len(pairs), self._selections)

        def find(pair: Pair) -> tuple[bytes | None, Known | None, Known]:
            key = results.key(pair)
            known = results.take(key)
            return key, known, known or examine(pair, self._selections)

        with results, self._progress(len(pairs)) as advance:
            for i, (key, known, (probes, row)) in enumerate(in_threads(find, pairs)):
                self.found[i] = row
                if known is None:
                    results.add(key, probes, self.found[i])
                else:
                    self.reused += 1
                yield probes
                if (i + 1) % _CHUNK == 0:
                    results.flush()
                    advance(_CHUNK)
            advance(len(pairs) % _CHUNK)


def examine(
    pair: Pair, selections: tuple[Any, Any] = (None, None)
) -> tuple[Probes, NDArray[np.void]]:
    """Reads the files of a pair.

    Args:
        pair: The pair.
        selections: The channels to read of A and of B; ``None`` for all.

    Returns:
        What was found in A and B, or error messages; and the measurements, which are zero if the
        files cannot be used as a pair.
    """
    row = np.zeros((), MEASUREMENTS)
    sides: list[Decoded] = []
    probes: list[Probe | str] = []
    for side in range(1 if pair.b is None else 2):
        pixels: list[Decoded] = []
        look = look_at(pair, side, selections)
        # `probed` calls it at once, in this pass of the loop.
        found = probed(look, lambda *image: pixels.append(decoded(*image)))  # noqa: B023
        probes.append(found)
        if isinstance(found, Probe):
            # Other kinds than 8 bits are read again.
            sides += pixels or [decode(look[0], each) for each in dict.fromkeys(look[1])]
    a, b = probes[0], probes[-1]
    if isinstance(a, Probe) and isinstance(b, Probe):
        width = a.width if pair.b is not None else a.width // 2
        if pair.b is None:
            sides = [halves(sides[0])[0], halves(sides[-1])[1]] if width else []
        if a[:2] == b[:2] and sides:
            row[()] = measure(sides, (a.height, width))
    return (a, b), row


class _Kept:
    """The results of earlier checks: a file with one line for each pair.

    Only the places of the lines are in memory. A file that cannot be written is given up: then the
    pairs are measured again the next time.
    """

    def __init__(self, path: Path | None, count: int, selections: object) -> None:
        self._path = path
        self._about = json.dumps([_VERSION, MEASUREMENTS.descr, selections])
        self._reading = Lock()
        self._lines: list[str] = []
        self._keys, self._places = _index(path)
        if len(self._keys) > _MOST_UNUSED * count + _CHUNK:
            self._keys, self._places = self._keys[:0], self._places[:1]

    def __enter__(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(int(self._places[-1]))  # without a torn last line
            self._old = self._path.open("rb")
        except OSError:
            self._path = None
            return
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._places = self._keys[order], self._places[order]

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self.flush()
        if self._path is not None:
            self._file.close()
            self._old.close()

    def key(self, pair: Pair) -> bytes | None:
        """A digest of the states of the files of a pair; ``None`` if it is not to be kept."""
        if self._path is None:
            return None
        try:
            states = [
                (str(source), *state_of_source(source))
                for source in (pair.a, pair.b)
                if source is not None
            ]
        except OSError:
            return None
        text = f"{self._about}{states}".encode(errors="surrogateescape")
        return hashlib.sha256(text).digest()[:16]

    def take(self, key: bytes | None) -> Known | None:
        """The results of a pair if they are known."""
        if key is None or self._path is None:
            return None
        first = int(np.searchsorted(self._keys, _short(key)))
        if first == len(self._keys) or self._keys[first] != _short(key):
            return None
        try:
            with self._reading:
                self._old.seek(int(self._places[first]))
                line = self._old.readline()
            whole, values, a, b = json.loads(line)
            row = np.frombuffer(base64.b64decode(values), MEASUREMENTS)[0]
            return ((_from_list(a), _from_list(b)), row) if whole == key.hex() else None
        except (OSError, ValueError, TypeError, LookupError):
            return None  # what is damaged is measured again

    def add(self, key: bytes | None, probes: Probes, row: Any) -> None:
        """Keeps the results of a pair; not if there is a problem."""
        a, b = probes
        if key is None or isinstance(a, str) or isinstance(b, str):
            return
        values = base64.b64encode(row.tobytes()).decode()
        self._lines.append(json.dumps([key.hex(), values, _to_list(a), _to_list(b)]))

    def flush(self) -> None:
        """Writes the results."""
        if self._path is None or not self._lines:
            return
        try:
            append_whole(self._file, "".join(f"{line}\n" for line in self._lines).encode())
        except OSError:
            self._file.close()
            self._path = None
        self._lines.clear()


def _index(path: Path | None) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The short keys of complete lines, and their places in the file, with that of its end."""
    keys, places = array("Q"), array("Q", [0])
    try:
        with path.open("rb") if path is not None else nullcontext(()) as file:
            for line in file:
                if not (line.startswith(b'["') and line.endswith(b"]\n")):
                    break
                keys.append(_short(bytes.fromhex(line[2:34].decode())))
                places.append(places[-1] + len(line))
    except (OSError, ValueError):
        pass  # what is damaged is measured again
    return np.array(keys, np.uint64), np.array(places, np.uint64)


def _short(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def _to_list(probe: Probe) -> list[Any]:
    return [*probe[:2], list(map(list, probe.parts)), *probe[3:5], probe.dtype and probe.dtype.str]


def _from_list(values: Iterable[Any]) -> Probe:
    height, width, parts, has_frames, left_out, dtype = values
    return Probe(
        height,
        width,
        tuple(PixelStatistics(*part) for part in parts),
        has_frames,
        left_out,
        None if dtype is None else np.dtype(dtype),
    )


def kept_results(root: str | Path) -> Path:
    """The file for the results of a data set, in the user's cache."""
    name = hashlib.sha256(os.fsencode(absolute(str(root)))).hexdigest()[:16]
    return cache_folder("checks") / f"{name}.jsonl"


def inspect(
    pairs: Sequence[Pair], selections: Sequence[Selection] = (None, None)
) -> NDArray[np.void]:
    """The measurements of pairs whose files can be used.

    Args:
        pairs: The pairs.
        selections: The channels to read of A and of B; ``None`` for all.

    Raises:
        DataError: If a file cannot be read.
    """
    examination = Examination(selections)
    for probes in examination(pairs):
        for each in probes:
            if isinstance(each, str):
                raise DataError(each)
    return examination.found
