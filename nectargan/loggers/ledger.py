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

LOSSES_FILE = "losses.csv"
METRICS_FILE = "metrics.csv"
_BLOCK_BYTES = 1 << 20


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
        same value, in the precision that they come in (``numpy.float32`` or ``float``). All rows
        are written or, on a full disk (`OSError`), none: rows may be given again."""
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
        if text:
            self._write(text)

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
