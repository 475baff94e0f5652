"""Finding a row in a ledger by its step, without reading the whole file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from nectargan.errors import RunError
from nectargan.files import open_regular

BLOCK_BYTES = 1 << 20
LONGEST_LINE = 1 << 12
# In bytes: a crash leaves a shorter incomplete line, or a shorter block of zeros.
LONGEST_TAIL = 1 << 26
_DIGITS_OF_TIME = 15


def end_of_last_line(path: Path) -> int:
    """The offset of the byte after the last complete line of a ledger.

    Raises:
        RunError: no line ends near the end of the file, so it is not a ledger.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        return end_of_last_line_in(file, path)


def last_time(path: Path) -> int:
    """The Unix time in milliseconds of the last row of a ledger; 0 if there are no rows."""
    if not path.exists():
        return 0
    with open_regular(path) as file:
        end = end_of_last_line_in(file, path)
        file.seek(start_of_line(file, max(0, end - 1)))
        fields = file.readline(LONGEST_LINE).split(b",")
    time = fields[2] if len(fields) > 2 else b""
    return int(time) if time.isdigit() and len(time) <= _DIGITS_OF_TIME else 0


def first_step_from(path: Path, offset: int) -> int:
    """The step of the first row at or after ``offset``, which must be the start of a line.

    After the last row it is the last step + 1. It is 0 if the ledger has no rows or does not exist.
    """
    if not path.exists():
        return 0
    with open_regular(path) as file:
        step = _next_step(file, offset)
        if step is not None:
            return step
        last = start_of_line(file, max(0, end_of_last_line_in(file, path) - 1))
        step = _next_step(file, last)
        return 0 if step is None else step + 1


def step_before(path: Path, offset: int) -> int:
    """The step of the last row before ``offset``, which must be the start of a line; 0 if there is
    none."""
    if not path.exists() or not offset:
        return 0
    with open_regular(path) as file:
        return step_at(file, start_of_line(file, offset - 1)) or 0


def offset_of_step(path: Path, step: int) -> int:
    """The offset of the first row whose step is ``step`` or later; else the end of the last row."""
    if not path.exists():
        return 0
    with open_regular(path) as file:
        return _bisect(file, path, 0, step)


def offset_of_epoch(path: Path, offset: int) -> int:
    """The offset of the first row of the epoch that the row at ``offset`` is in.

    ``offset`` must be the start of a line; if no row begins there, it is returned.
    """
    if not path.exists():
        return offset
    with open_regular(path) as file:
        epoch = _field_at(file, offset, 1)
        if epoch is None:
            return offset
        return _bisect(file, path, 1, epoch)


def offset_of_last_epoch(path: Path) -> int:
    """The offset of the first row of the last epoch; raises RunError or OSError as
    `end_of_last_line`."""
    end = end_of_last_line(path)
    with open_regular(path) as file:
        last = start_of_line(file, max(0, end - 1))
    return offset_of_epoch(path, last)


def row_until(path: Path, step: int) -> bytes:
    """The last row of a ledger up to ``step``, as a line; empty if there is none, or no ledger."""
    if not path.exists():
        return b""
    end = offset_of_step(path, step + 1)
    with open_regular(path) as file:
        file.seek(start_of_line(file, max(0, end - 1)))
        line = file.readline(LONGEST_LINE)
    return line if line[:1].isdigit() else b""


def line_after(path: Path, offset: int) -> int:
    """The offset of the first line that begins at or after ``offset``; raises OSError."""
    with open_regular(path) as file:
        file.seek(max(0, offset - 1))
        return offset + len(file.readline()) - 1 if offset else 0


def end_of_last_line_in(file: BinaryIO, path: Path) -> int:
    """As `end_of_last_line`, for an open file."""
    end = size = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - BLOCK_BYTES)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        if size - begin >= LONGEST_TAIL:
            raise no_rows(path)
        end = begin
    return 0


def no_rows(path: Path) -> RunError:
    """The error for a file that has no line end within `LONGEST_TAIL` bytes."""
    return RunError(f"'{path}' is damaged: there are more than {LONGEST_TAIL} bytes without a row.")


def start_of_line(file: BinaryIO, offset: int) -> int:
    """The offset of the start of the line that contains the byte at ``offset``."""
    begin = max(0, offset - LONGEST_LINE)
    file.seek(begin)
    return begin + file.read(offset - begin).rfind(b"\n") + 1


def step_at(file: BinaryIO, offset: int) -> int | None:
    """The step of the row at ``offset``; ``None`` for the header and for an incomplete row."""
    return _field_at(file, offset, 0)


def _field_at(file: BinaryIO, offset: int, column: int) -> int | None:
    """The whole number in a column of the row at ``offset``; ``None`` as from `step_at`."""
    file.seek(offset)
    line = file.readline()
    text = b"".join(line.split(b",")[column : column + 1])
    return int(text) if line.endswith(b"\n") and text.isdigit() else None


def _bisect(file: BinaryIO, path: Path, column: int, value: int) -> int:
    """The offset of the first row with ``value`` or more in a column whose numbers never decrease;
    else the end of the last row."""
    low, high = 0, end_of_last_line_in(file, path)
    while low < high:
        middle = start_of_line(file, (low + high) // 2)
        found = _field_at(file, middle, column)
        if found is None or found < value:
            file.seek(middle)
            low = middle + len(file.readline())
        else:
            high = middle
    return low


def _next_step(file: BinaryIO, offset: int) -> int | None:
    step = step_at(file, offset)
    if step is None and offset == 0:
        file.seek(0)
        return step_at(file, len(file.readline()))
    return step
