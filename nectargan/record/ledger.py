"""The ledger: append-only CSV files that are the truth about a run.

``losses.csv`` has a row per loss and step, ``metrics.csv`` one per measurement. Both are tidy, so
``pandas.read_csv`` needs no options. Every row is written whole; a reader drops a last line that
was torn by a crash. Sinks and tables are made from these files and from nothing else.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from nectargan.errors import RunError
from nectargan.files import append_whole, open_regular
from nectargan.record.rollback import digest_of, hash_of
from nectargan.record.seeking import (
    BLOCK_BYTES,
    LONGEST_TAIL,
    end_of_last_line,
    no_rows,
    offset_of_step,
)


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

    @classmethod
    def parse(cls, line: str) -> LossRow:
        """The row in a line of the file; raises ValueError if there is none."""
        step, epoch, time, loss, raw, weight, weighted = line.split(",")
        values = float(raw), float(weight), float(weighted)
        return cls(int(step), int(epoch), int(time), loss, *values)

    @property
    def line(self) -> str:
        """The row as it is in the file, without the end of the line."""
        return ",".join(map(str, self))


class MetricRow(NamedTuple):
    """A row of ``metrics.csv``: columns as in `LossRow`, the series and its value last."""

    step: int
    epoch: int
    time: int
    metric: str
    value: float

    @classmethod
    def parse(cls, line: str) -> MetricRow:
        """As `LossRow.parse`."""
        step, epoch, time, metric, value = line.split(",")
        return cls(int(step), int(epoch), int(time), metric, float(value))

    @property
    def line(self) -> str:
        """As `LossRow.line`."""
        return ",".join(map(str, self))


Row = TypeVar("Row", LossRow, MetricRow)


class Ledger:
    """One CSV file that only ever grows, and that nobody else writes to.

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
        self._digest = hashlib.sha256()
        try:
            if go_on:
                end = end_of_last_line(path)
                self._digest = hash_of(path, end)
            # Unbuffered: one write per window, so that followers see whole windows at once.
            self._file = path.open("r+b" if go_on else "xb", buffering=0)
            if go_on:
                self._file.truncate(end)
                self._file.seek(end)
            else:
                self._write((",".join(row_type._fields) + "\n").encode())
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
            RunError: the disk is full, say, or another program has changed the file; none of the
                rows was written then.
        """
        text = "".join(f"{row.line}\n" for row in rows)
        if not text:
            return
        self.require_untouched()
        try:
            self._write(text.encode())
        except OSError as error:
            raise RunError(f"'{self.path}' cannot be written: {error.strerror}.") from error

    def check(self) -> None:
        """Reads the whole file and compares it with what was written.

        Raises:
            RunError: another program has changed it.
        """
        self.require_untouched()
        if digest_of(self.path, self.size) != self.digest:
            raise self._touched("there are other rows in it")

    def require_untouched(self) -> None:
        """Compares the file that has the name now with the one that is open: an editor replaces it
        or cuts it, and the rows to come would be lost or have zeros before them.

        Raises:
            RunError: another program has changed it.
        """
        try:
            found, ours = self.path.stat(), os.fstat(self._file.fileno())
        except OSError as error:
            raise self._touched(error.strerror or "it is not there") from None
        if not os.path.samestat(found, ours):
            raise self._touched("it is another file")
        if found.st_size != self.size:
            raise self._touched(f"it has {found.st_size} bytes, and {self.size} were written")

    def _touched(self, how: str) -> RunError:
        return RunError(
            f"'{self.path}' was changed by another program while the run was at work: {how}. The "
            "run stops here, because its record is no longer whole."
        )

    def _write(self, data: bytes) -> None:
        append_whole(self._file, data)
        self._digest.update(data)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes so far; see `digest_of`."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()


def read_blocks(
    path: Path, offset: int = 0, block_bytes: int = BLOCK_BYTES
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
    with open_regular(path) as file:
        file.seek(offset)
        rest = b""
        while block := file.read(block_bytes):
            lines, newline, rest_of_block = block.rpartition(b"\n")
            if not newline:
                rest += block
                if len(rest) > max(LONGEST_TAIL, block_bytes):
                    raise no_rows(path)
                continue
            lines = rest + lines + newline
            offset += len(lines)
            rest = rest_of_block
            yield lines, offset


def rows_in(
    row_type: type[Row], lines: bytes, begin: int = 0, skip_damaged: bool = False
) -> Iterator[tuple[Row, int]]:
    """The rows in a part of a ledger, each with the byte that it begins at.

    Args:
        row_type: Of the ledger.
        lines: Whole lines; the header is skipped.
        begin: Where they begin.
        skip_damaged: Skip whatever is no row.

    Raises:
        ValueError: a line is no row.
    """
    for line in lines.splitlines(keepends=True):
        if not line.startswith(b"step,"):
            try:
                yield row_type.parse(line.decode("utf-8")), begin
            except ValueError:
                if not skip_damaged:
                    raise
        begin += len(line)


def read_rows(
    path: Path, row_type: type[Row], offset: int = 0, skip_damaged: bool = False
) -> Iterator[Row]:
    """The rows of a ledger from a byte offset on, the start of a line.

    Args:
        path: The CSV file.
        row_type: `LossRow` or `MetricRow`.
        offset: Where to begin.
        skip_damaged: Skip whatever is no row.

    Raises:
        RunError: the ledger is damaged.
        OSError: it cannot be read.
    """
    for lines, end in read_blocks(path, offset):
        try:
            for row, _ in rows_in(row_type, lines, end - len(lines), skip_damaged):
                yield row
        except ValueError as error:
            raise RunError(f"'{path}' is damaged: {error}.") from None


def mean_losses(path: Path, first_step: int) -> dict[str, float]:
    """Mean of the finite raw values of each loss from a step on; NaN if there is none.

    Read from the ledger instead of kept while training, so that a run that was resumed in
    mid-epoch has the mean of the whole epoch.

    Args:
        path: ``losses.csv``.
        first_step: First step of the epoch at the end of the file.

    Raises:
        RunError: the ledger is damaged.
    """
    values: dict[str, list[float]] = {}
    for row in read_rows(path, LossRow, offset_of_step(path, first_step)):
        of_loss = values.setdefault(row.loss, [])
        if math.isfinite(row.raw):
            of_loss.append(row.raw)
    return {
        loss: math.fsum(finite) / len(finite) if finite else math.nan
        for loss, finite in values.items()
    }
