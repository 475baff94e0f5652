"""The ledger: append-only CSV files that are the truth about a run.

``losses.csv`` has a row per loss and step, ``metrics.csv`` one per measurement. Both are tidy, so
``pandas.read_csv`` needs no options. Every row is written whole; a reader drops a last line that
was torn by a crash. Sinks and tables are made from these files and from nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nectargan.errors import RunError
from nectargan.files import append_whole, open_regular, replacing

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 1 << 12
_DIGITS_OF_TIME = 15
# More than a crash can tear off or fill with zeros.
_LONGEST_TAIL = 1 << 26


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
                self._digest = _hash(path, end)
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
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
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


def end_of_last_line(path: Path) -> int:
    """Where the last whole line of a ledger ends, in bytes.

    Raises:
        RunError: no line ends near the end of the file; it is something else.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return _end_of_last_line(file, path)


def _end_of_last_line(file: BinaryIO, path: Path) -> int:
    end = size = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - _BLOCK_BYTES)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        if size - begin >= _LONGEST_TAIL:
            raise _no_rows(path)
        end = begin
    return 0


def _no_rows(path: Path) -> RunError:
    return RunError(
        f"'{path}' is damaged: there are more than {_LONGEST_TAIL} bytes without a row."
    )


def digest_of(path: Path, size: int) -> str:
    """SHA-256 of the first ``size`` bytes of a ledger, in hexadecimal; raises OSError."""
    return _hash(path, size).hexdigest()


def _hash(path: Path, size: int) -> hashlib._Hash:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for block in _first(file, size):
            digest.update(block)
    return digest


def _first(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of a file, in blocks, or what there is of them."""
    while block := file.read(min(size, _BLOCK_BYTES)):
        yield block
        size -= len(block)


def check_ledger(path: Path, size: int, step: int, digest: str | None) -> None:
    """Compares a ledger with what a checkpoint says of it.

    Args:
        path: The CSV file.
        size: Bytes that it had then.
        step: The last step that it may have in them.
        digest: SHA-256 of them; ``None`` where an earlier version did not note it.

    Raises:
        RunError: it is not what the run wrote.
    """
    try:
        with open_regular(path) as file:
            header = len(file.readline(_LONGEST_LINE))
            file.seek(max(0, size - 1))
            if file.read(1) != b"\n" or size < header:
                raise RunError(f"'{path}' is damaged: no row of it ends at byte {size}.")
            last = _step_at(file, _start_of_line(file, size - 1))
        if digest is not None and digest_of(path, size) != digest:
            raise RunError(
                f"'{path}' is not what the run wrote: another program has changed its first {size} "
                "bytes. Put the file back as it was."
            )
    except OSError as error:
        raise RunError(f"'{path}' cannot be read: {error.strerror}.") from None
    if last is not None and last > step:
        raise RunError(f"'{path}' has step {last} at byte {size}, and the checkpoint {step}.")


def last_time(path: Path) -> int:
    """The time in the last row of a ledger; 0 where there is none."""
    if not path.exists():
        return 0
    with open_regular(path) as file:
        end = _end_of_last_line(file, path)
        file.seek(_start_of_line(file, max(0, end - 1)))
        fields = file.readline(_LONGEST_LINE).split(b",")
    time = fields[2] if len(fields) > 2 else b""
    return int(time) if time.isdigit() and len(time) <= _DIGITS_OF_TIME else 0


def cut_ledger(path: Path, offset: int, orphans: Path) -> None:
    """Shortens a ledger; what is cut off goes, under the same header, to a file of its own.

    Args:
        path: The CSV file.
        offset: Bytes to keep; see `check_ledger`.
        orphans: Where the rest goes, if there is any.

    Raises:
        OSError: a file cannot be written.
    """
    with open_regular(path) as file:
        header = file.readline()
        size = file.seek(0, os.SEEK_END)
        if size <= offset:
            return
        file.seek(offset)
        if _end_of_last_line(file, path) > offset:
            orphans.parent.mkdir(exist_ok=True)
            file.seek(offset)
            with replacing(orphans) as part, part.open("wb") as rest:
                rest.write(header)
                rest.writelines(_first(file, size - offset))
        file.seek(0)
        with replacing(path) as part, part.open("wb") as kept:
            kept.writelines(_first(file, offset))


def first_step_from(path: Path, offset: int) -> int:
    """The step of the first row at or after ``offset``, the start of a line. Where there is none,
    one more than the last step, and 0 for a ledger without rows or none at all."""
    if not path.exists():
        return 0
    with open_regular(path) as file:
        step = _next_step(file, offset)
        if step is not None:
            return step
        last = _start_of_line(file, max(0, _end_of_last_line(file, path) - 1))
        step = _next_step(file, last)
        return 0 if step is None else step + 1


def offset_of_step(path: Path, step: int) -> int:
    """Where the first row of ``step`` or a later one begins; the end of the file if there is none.
    Found by bisection: steps never fall in a ledger."""
    if not path.exists():
        return 0
    with open_regular(path) as file:
        low, high = 0, _end_of_last_line(file, path)
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
    with open_regular(path) as file:
        file.seek(offset)
        rest = b""
        while block := file.read(block_bytes):
            lines, newline, rest_of_block = block.rpartition(b"\n")
            if not newline:
                rest += block
                if len(rest) > max(_LONGEST_TAIL, block_bytes):
                    raise _no_rows(path)
                continue
            lines = rest + lines + newline
            offset += len(lines)
            rest = rest_of_block
            yield lines, offset
