"""The ledger: append-only CSV files that are the truth about a run.

``losses.csv`` has a row per loss and step, ``metrics.csv`` one per measurement. Both are tidy, so
``pandas.read_csv`` needs no options. Every row is written whole; a reader drops a last line that
was torn by a crash. Sinks and tables are made from these files and from nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nectargan.errors import RunError
from nectargan.files import replacing

LOSSES_FILE = "losses.csv"
METRICS_FILE = "metrics.csv"
_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 1 << 12


class LossRow(NamedTuple):
    """A row of ``losses.csv``.

    Attributes:
        step: Update of the generator since the start of the run, from 1.
        epoch: Epoch, from 1.
        time: Unix time in milliseconds.
        loss: Name of the loss.
        raw: What the loss function returned (its mean, for a map).
        weight: The weight that was applied.
        weighted: ``raw * weight``.
    """

    step: int
    epoch: int
    time: int
    loss: str
    raw: float
    weight: float
    weighted: float


class MetricRow(NamedTuple):
    """A row of ``metrics.csv``: columns as in `LossRow`, the series and its value last."""

    step: int
    epoch: int
    time: int
    metric: str
    value: float


class Ledger:
    """One CSV file that only ever grows.

    Args:
        path: The file; made here, with a header.
        row_type: `LossRow` or `MetricRow`; its fields are the columns.
        go_on: Go on at the end of a file that exists; a torn last line is cut off.

    Raises:
        RunError: the file exists already (or, to go on, does not), or cannot be written.
    """

    def __init__(
        self, path: Path, row_type: type[LossRow] | type[MetricRow], go_on: bool = False
    ) -> None:
        self.path = path
        try:
            # Unbuffered: one write per window, so that followers see whole windows at once.
            self._file = path.open("r+b" if go_on else "xb", buffering=0)
            if go_on:
                self._file.truncate(end_of_last_line(self._file))
                self._file.seek(0, os.SEEK_END)
            else:
                self._write(",".join(row_type._fields) + "\n")
        except FileExistsError:
            raise RunError(
                f"'{path}' exists already; a new record needs a new directory."
            ) from None
        except OSError as error:
            raise RunError(f"'{path}' cannot be written: {error.strerror}.") from None

    def append(self, rows: Iterable[LossRow] | Iterable[MetricRow]) -> None:
        """Writes rows at the end. Floats are written as the shortest text that reads back to the
        same value, in the precision that they come in (``numpy.float32`` or ``float``).

        Raises:
            RunError: the disk is full, say; none of the rows was written then.
        """
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
        if not text:
            return
        try:
            self._write(text)
        except OSError as error:
            raise RunError(
                f"'{self.path}' cannot be written: {error.strerror}; make room and go on with "
                f"--resume '{self.path.parent}'."
            ) from error

    def _write(self, text: str) -> None:
        data = memoryview(text.encode("utf-8"))
        end = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            raise

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()


def end_of_last_line(file: BinaryIO | FileIO) -> int:
    """Where the last whole line of a file ends, in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - _BLOCK_BYTES)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def cut_ledger(path: Path, offset: int, orphans: Path) -> None:
    """Shortens a ledger; what is cut off goes, under the same header, to a file of its own.

    Args:
        path: The CSV file.
        offset: Bytes to keep; the end of a line.
        orphans: Where the rest goes, if there is any.

    Raises:
        RunError: the file is shorter than that, or no line ends there.
        OSError: a file cannot be written.
    """
    with path.open("rb") as file:
        header = file.readline()
        file.seek(max(0, offset - 1))
        if file.read(1) != b"\n" or offset < len(header):
            raise RunError(f"'{path}' is damaged: no row of it ends at byte {offset}.")
        rest = file.read()
        if not rest:
            return
        if b"\n" in rest:
            orphans.parent.mkdir(exist_ok=True)
            with replacing(orphans) as part:
                part.write_bytes(header + rest)
        file.seek(0)
        with replacing(path) as part, part.open("wb") as kept:
            while offset:
                block = file.read(min(offset, _BLOCK_BYTES))
                kept.write(block)
                offset -= len(block)


def first_step_from(path: Path, offset: int) -> int:
    """The step of the first row at or after ``offset``, the start of a line. Where there is none,
    one more than the last step, and 0 for a ledger without rows or none at all."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        step = _next_step(file, offset)
        if step is not None:
            return step
        last = _start_of_line(file, max(0, end_of_last_line(file) - 1))
        step = _next_step(file, last)
        return 0 if step is None else step + 1


def offset_of_step(path: Path, step: int) -> int:
    """Where the first row of ``step`` or a later one begins; the end of the file if there is none.
    Found by bisection: steps never fall in a ledger."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        low, high = 0, end_of_last_line(file)
        while low < high:
            middle = _start_of_line(file, (low + high) // 2)
            found = _step_at(file, middle)
            if found is None or found < step:
                file.seek(middle)
                low = middle + len(file.readline())
            else:
                high = middle
        return low


def _start_of_line(file: BinaryIO, offset: int) -> int:
    """Start of the line that the byte at ``offset`` is in."""
    begin = max(0, offset - _LONGEST_LINE)
    file.seek(begin)
    return begin + file.read(offset - begin).rfind(b"\n") + 1


def _step_at(file: BinaryIO, offset: int) -> int | None:
    """The step of the row at ``offset``; ``None`` for the header and for an unfinished row."""
    file.seek(offset)
    line = file.readline()
    text = line.partition(b",")[0]
    return int(text) if line.endswith(b"\n") and text.isdigit() else None


def _next_step(file: BinaryIO, offset: int) -> int | None:
    step = _step_at(file, offset)
    if step is None and offset == 0:
        file.seek(0)
        return _step_at(file, len(file.readline()))
    return step


def read_blocks(
    path: Path, offset: int = 0, block_bytes: int = _BLOCK_BYTES
) -> Iterator[tuple[bytes, int]]:
    """Reads a ledger from a byte offset on, in blocks of whole lines.

    Args:
        path: The CSV file.
        offset: Where to begin; 0, or an offset that was returned before.
        block_bytes: Size of a block; memory in use is about that, whatever the file's size.

    Yields:
        ``(lines, next offset)``, the header among the first lines. An unfinished last line is left
        for a later call.
    """
    with path.open("rb") as file:
        file.seek(offset)
        rest = b""
        while block := file.read(block_bytes):
            lines, newline, rest_of_block = block.rpartition(b"\n")
            if not newline:
                rest += block
                continue
            lines = rest + lines + newline
            offset += len(lines)
            rest = rest_of_block
            yield lines, offset
