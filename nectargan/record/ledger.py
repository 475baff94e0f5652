"""The ledger: append-only CSV files with all losses, gradients and metrics of a run.

``losses.csv`` and ``gradients.csv`` have one row per loss and step, ``metrics.csv`` one row per
measurement. All are tidy tables that ``pandas.read_csv`` reads without options. If a crash leaves
the last line incomplete, readers ignore it. Sinks and tables get their values only from these
files.
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
        step: Number of generator updates since the start of the run, from 1.
        epoch: Epoch, from 1.
        time: Unix time in milliseconds.
        loss: Name of the loss.
        raw: The value that the loss function returned, or its mean if it returned a map.
        weight: The weight that was applied at this step.
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
        """Parses a line of the file; raises ValueError if it is not a valid row."""
        step, epoch, time, loss, raw, weight, weighted = line.split(",")
        values = float(raw), float(weight), float(weighted)
        return cls(int(step), int(epoch), int(time), loss, *values)

    @property
    def line(self) -> str:
        """The text of the row in the file, without the newline."""
        return ",".join(map(str, self))


class MetricRow(NamedTuple):
    """A row of ``metrics.csv``: step, epoch and time as in `LossRow`, the name and the value of a
    metric."""

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


class GradientRow(NamedTuple):
    """A row of ``gradients.csv``: what a loss did to the generated images.

    The measures are defined in `nectargan.losses.gradients`.

    Attributes:
        step: As in `LossRow`.
        epoch: As in `LossRow`.
        time: As in `LossRow`.
        loss: Name of the loss.
        norm: L2 norm of the gradient of the weighted loss at the generated images, mean per image.
        share: ``norm`` over the sum of the norms of all losses of the step, in [0, 1].
        cosine: Cosine to the sum of the gradients of all other losses, in [-1, 1]; NaN if one of
            them is zero.
    """

    step: int
    epoch: int
    time: int
    loss: str
    norm: float
    share: float
    cosine: float

    @classmethod
    def parse(cls, line: str) -> GradientRow:
        """As `LossRow.parse`."""
        step, epoch, time, loss, norm, share, cosine = line.split(",")
        values = float(norm), float(share), float(cosine)
        return cls(int(step), int(epoch), int(time), loss, *values)

    @property
    def line(self) -> str:
        """As `LossRow.line`."""
        return ",".join(map(str, self))


Row = TypeVar("Row", LossRow, MetricRow, GradientRow)


class Ledger:
    """Appends rows to one CSV file, which no other program may change.

    Args:
        path: The CSV file; it is created with a header.
        row_type: `LossRow`, `MetricRow` or `GradientRow`; its fields are the columns.
        resume: Append to an existing file, after removing an incomplete last line.

    Raises:
        RunError: the file exists already, does not exist though ``resume`` is set, or cannot be
            written.
    """

    def __init__(self, path: Path, row_type: type[Row], resume: bool = False) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        try:
            if resume:
                end = end_of_last_line(path)
                self._digest = hash_of(path, end)
            # Unbuffered, so that the rows of a window are written at once and readers see them.
            self._file = path.open("r+b" if resume else "xb", buffering=0)
            if resume:
                self._file.truncate(end)
                self._file.seek(end)
            else:
                self._write((",".join(row_type._fields) + "\n").encode())
        except FileExistsError:
            raise RunError(f"'{path}' exists already; a new run needs a new directory.") from None
        except OSError as error:
            raise RunError(f"'{path}' cannot be written: {error.strerror}.") from None

    def append(self, rows: Iterable[LossRow | MetricRow | GradientRow]) -> None:
        """Writes rows at the end of the file. A float is written as the shortest text that gives
        the same value when it is read as the same type (``numpy.float32`` or ``float``).

        Raises:
            RunError: the file cannot be written, for example because the disk is full, or another
                program has changed it. None of the rows is written then.
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
        """Reads the whole file and compares its hash with that of the rows that were written.

        Raises:
            RunError: another program has changed it.
        """
        self.require_untouched()
        if digest_of(self.path, self.size) != self.digest:
            raise self._touched("its rows are not those that were written")

    def require_untouched(self) -> None:
        """Checks that the path still leads to the open file and that its size is as expected.

        An editor may replace or shorten the file. Later rows would then be lost, or come after a
        block of zeros.

        Raises:
            RunError: another program has changed it.
        """
        try:
            found, ours = self.path.stat(), os.fstat(self._file.fileno())
        except OSError as error:
            raise self._touched(error.strerror or "it does not exist") from None
        if not os.path.samestat(found, ours):
            raise self._touched("it was replaced by another file")
        if found.st_size != self.size:
            raise self._touched(f"it has {found.st_size} bytes instead of {self.size}")

    def _touched(self, how: str) -> RunError:
        return RunError(
            f"'{self.path}' was changed by another program during the run: {how}. The run stops, "
            "because its record is no longer complete."
        )

    def _write(self, data: bytes) -> None:
        append_whole(self._file, data)
        self._digest.update(data)

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._file.tell()

    @property
    def digest(self) -> str:
        """SHA-256 of the file in hexadecimal; see `digest_of`."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()


def read_blocks(
    path: Path, offset: int = 0, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[bytes, int]]:
    """Reads a ledger from a byte offset to its end, in blocks of complete lines.

    Args:
        path: The CSV file.
        offset: Where to start, in bytes: 0, or an offset that was yielded before.
        block_bytes: Bytes to read at a time, and about the memory that is used.

    Yields:
        ``(lines, end)``: the lines of the block, the header included, and the offset of the byte
        after them. An incomplete last line is not yielded.

    Raises:
        RunError: the file has no line ends, so it is not a ledger.
        OSError: the file cannot be read.
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
    """The rows in some lines of a ledger, each with the offset of its first byte.

    Args:
        row_type: `LossRow`, `MetricRow` or `GradientRow`.
        lines: Complete lines; the header is skipped.
        begin: Offset of the first byte of ``lines`` in the file.
        skip_damaged: Skip lines that are not valid rows instead of raising ValueError.

    Raises:
        ValueError: a line is not a valid row.
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
    """The rows of a ledger from a byte offset to its end.

    Args:
        path: The CSV file.
        row_type: `LossRow`, `MetricRow` or `GradientRow`.
        offset: Where to start, in bytes; the start of a line.
        skip_damaged: Skip lines that are not valid rows instead of raising RunError.

    Raises:
        RunError: a line is not a valid row.
        OSError: the file cannot be read.
    """
    for lines, end in read_blocks(path, offset):
        try:
            for row, _ in rows_in(row_type, lines, end - len(lines), skip_damaged):
                yield row
        except ValueError as error:
            raise RunError(f"'{path}' is damaged: {error}.") from None


def mean_losses(paths: Iterable[Path], first_step: int) -> dict[str, float]:
    """Mean of the finite raw values of each loss from a step to the end of the record.

    The values are read from the ledger, so that a run that was resumed or forked in mid-epoch gets
    the mean of the whole epoch.

    Args:
        paths: The files that are ``losses.csv`` together; see `ledgers_of`.
        first_step: The first step to include.

    Returns:
        Means by name of the loss; NaN for a loss without finite values.

    Raises:
        RunError: the ledger is damaged.
    """
    values: dict[str, list[float]] = {}
    for path in paths:
        for row in read_rows(path, LossRow, offset_of_step(path, first_step)):
            of_loss = values.setdefault(row.loss, [])
            if math.isfinite(row.raw):
                of_loss.append(row.raw)
    return {
        loss: math.fsum(finite) / len(finite) if finite else math.nan
        for loss, finite in values.items()
    }
