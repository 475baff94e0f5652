"""Reads and measures every pair once, and keeps the results to go on after an interruption."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nectargan.dataset.data_check import look_at, probed
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
from nectargan.errors import DataError
from nectargan.files import append_whole, cache_folder
from nectargan.sources import state_of_source

_VERSION = 1  # of the measurements; results of another version are measured again
_CHUNK = 256  # pairs
_MOST_UNUSED = 3  # kept results for each pair; a file with more is made again
Probes: TypeAlias = tuple[Probe | str, Probe | str]
Progress: TypeAlias = Callable[[int], AbstractContextManager[Callable[..., None]]]


def no_progress(count: int) -> AbstractContextManager[Callable[..., None]]:
    """Shows nothing."""
    return nullcontext(lambda done=1: None)


class Examination:
    """Probes and measures pairs; the argument ``examine`` of `check_data`.

    Each file is decoded once, in several threads; no more than a few images are in memory. The
    measurements take 100 bytes for each pair.

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
        self._known: dict[Any, Any] = {}
        self.found: NDArray[np.void] = np.zeros(0, MEASUREMENTS)
        self.reused = 0

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Probes]:
        """What was found in the files of each pair, or an error message."""
        self.found = np.zeros(len(pairs), MEASUREMENTS)
        results = _Kept(self._kept, len(pairs), self._selections)
        rest, begin = iter(pairs), 0
        with (
            results,
            self._progress(len(pairs)) as advance,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            while chunk := list(islice(rest, _CHUNK)):
                keys = [results.key(pair) for pair in chunk]
                old = [results.take(key) for key in keys]
                new = pool.map(
                    partial(examine, selections=self._selections),
                    (pair for pair, known in zip(chunk, old, strict=True) if known is None),
                )
                for i, known in enumerate(old, begin):
                    self.reused += known is not None
                    probes, row = next(new) if known is None else known
                    self.found[i] = row
                    if known is None:
                        results.add(keys[i - begin], probes, self.found[i])
                    # Most files of a data set are alike, so one object stands for all of them.
                    yield self._known.setdefault(probes, probes)
                results.flush()
                begin += len(chunk)
                advance(len(chunk))


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

    A file that cannot be written is given up: then the pairs are measured again the next time.
    """

    def __init__(self, path: Path | None, count: int, selections: object) -> None:
        self._path = path
        self._about = json.dumps([_VERSION, MEASUREMENTS.descr, selections])
        self._known: dict[bytes, tuple[bytes, Probes]] = {}
        self._lines: list[str] = []
        self._end = 0
        if path is not None and self._load(path) > _MOST_UNUSED * count + _CHUNK:
            self._known.clear()
            self._end = 0

    def __enter__(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(self._end)  # without a torn last line
        except OSError:
            self._path = None

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self.flush()
        if self._path is not None:
            self._file.close()

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

    def take(self, key: bytes | None) -> tuple[Probes, NDArray[np.void]] | None:
        """The results of a pair if they are known; they are then forgotten."""
        known = None if key is None else self._known.pop(key, None)
        if known is None:
            return None
        return known[1], np.frombuffer(known[0], MEASUREMENTS)[0]

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

    def _load(self, path: Path) -> int:
        """Reads the file up to the last complete line; returns the number of lines."""
        seen: dict[Any, Any] = {}
        count = 0
        try:
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    key, values, a, b = json.loads(line)
                    row, probes = base64.b64decode(values), (_from_list(a), _from_list(b))
                    if len(row) != MEASUREMENTS.itemsize:
                        raise ValueError
                    self._known[bytes.fromhex(key)] = row, seen.setdefault(probes, probes)
                    self._end += len(line)
                    count += 1
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, LookupError):
            pass  # what is damaged is measured again
        return count


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
