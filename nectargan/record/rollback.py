"""Shortening a ledger to the size that it had at a checkpoint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nectargan.errors import RunError
from nectargan.files import open_regular, replacing
from nectargan.record.seeking import (
    BLOCK_BYTES,
    LONGEST_LINE,
    end_of_last_line_in,
    start_of_line,
    step_at,
)


def check_ledger(path: Path, size: int, step: int, digest: str | None) -> None:
    """Checks that the beginning of a ledger is as it was when a checkpoint was saved.

    Args:
        path: The CSV file.
        size: Its size in bytes at the checkpoint.
        step: The step of the checkpoint; the first ``size`` bytes must not have a later one.
        digest: SHA-256 of the first ``size`` bytes in hexadecimal; ``None`` for a checkpoint of an
            earlier version, which did not store it.

    Raises:
        RunError: the ledger is different, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            header = len(file.readline(LONGEST_LINE))
            file.seek(max(0, size - 1))
            if file.read(1) != b"\n" or size < header:
                raise RunError(f"'{path}' is damaged: no row ends at byte {size}.")
            last = step_at(file, start_of_line(file, size - 1))
        if digest is not None and digest_of(path, size) != digest:
            raise RunError(
                f"Another program has changed the first {size} bytes of '{path}'. Restore the file "
                "as the run wrote it."
            )
    except OSError as error:
        raise RunError(f"'{path}' cannot be read: {error.strerror}.") from None
    if last is not None and last > step:
        raise RunError(
            f"'{path}' has step {last} at byte {size}, but the checkpoint is of step {step}."
        )


def cut_ledger(path: Path, offset: int, orphans: Path) -> None:
    """Shortens a ledger and moves the removed rows, with a header, to another file.

    Args:
        path: The CSV file.
        offset: Number of bytes to keep; see `check_ledger`.
        orphans: The file for the removed rows; written only if there are any.

    Raises:
        OSError: a file cannot be written.
    """
    with open_regular(path) as file:
        header = file.readline()
        size = file.seek(0, os.SEEK_END)
        if size <= offset:
            return
        file.seek(offset)
        if end_of_last_line_in(file, path) > offset:
            orphans.parent.mkdir(exist_ok=True)
            file.seek(offset)
            with replacing(orphans) as part, part.open("wb") as rest:
                rest.write(header)
                rest.writelines(first_bytes(file, size - offset))
        file.seek(0)
        with replacing(path) as part, part.open("wb") as kept:
            kept.writelines(first_bytes(file, offset))


def digest_of(path: Path, size: int) -> str:
    """SHA-256 of the first ``size`` bytes of a ledger, in hexadecimal; raises OSError."""
    return hash_of(path, size).hexdigest()


def hash_of(path: Path, size: int) -> hashlib._Hash:
    """The SHA-256 object of the first ``size`` bytes, which can be updated; raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for block in first_bytes(file, size):
            digest.update(block)
    return digest


def first_bytes(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of a file in blocks, or fewer if the file ends before."""
    while block := file.read(min(size, BLOCK_BYTES)):
        yield block
        size -= len(block)
