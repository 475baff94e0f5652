"""Locks: one process at a time in a directory."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from nectargan.errors import RunError

LOCK_FILE = ".lock"

# Whoever only looks whether a lock is free has it for a moment.
_TRIES, _PAUSE = 20, 0.02


@contextmanager
def locked(directory: str | PathLike[str]) -> Iterator[None]:
    """Keeps other processes out of a directory, for the time of a ``with`` statement.

    The system drops the lock when the process ends, however it ends, and whatever it started.

    Raises:
        RunError: another process has it, or it cannot be written.
    """
    path = Path(directory) / LOCK_FILE
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        file = path.open("a+b")
    except OSError as error:
        raise RunError(f"'{path}' cannot be written: {error.strerror}.") from None
    with file, _not_inherited(file):
        for _ in range(_TRIES):
            if _lock(file):
                break
            time.sleep(_PAUSE)
        else:
            raise RunError(f"'{directory}' is in use by another process.")
        yield


def is_locked(directory: str | PathLike[str]) -> bool:
    """Whether a process holds the lock of a directory."""
    try:
        with (Path(directory) / LOCK_FILE).open("r+b") as file:
            return not _lock(file)
    except OSError:
        return False


def _lock(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _not_inherited(file: BinaryIO) -> Iterator[None]:
    """Closes a file in what is forked meanwhile: a lock lasts as long as any process has its file
    open, and a worker that reads images outlives, for seconds, a main process that was killed."""
    _locks.add(file)
    try:
        yield
    finally:
        _locks.discard(file)


def _close_locks() -> None:
    while _locks:
        _locks.pop().close()


_locks = set[BinaryIO]()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)
