"""Locks that let only one process at a time write to a directory."""

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

# `is_locked` in another process holds the lock for a moment, so it is tried several times.
_TRIES, _PAUSE = 20, 0.02


@contextmanager
def locked(directory: str | PathLike[str]) -> Iterator[None]:
    """Locks a directory for the duration of a ``with`` statement.

    The operating system releases the lock when the process ends, even if it is killed and its
    child processes are still running.

    Raises:
        RunError: another process holds the lock, or the lock file cannot be written.
    """
    path = Path(directory) / LOCK_FILE
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
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
    """Whether a process holds the lock of a directory; false if there is no lock file."""
    path = Path(directory) / LOCK_FILE
    if not path.is_file():
        return False  # opening a pipe would wait for its writer
    # Where nothing can be written, a lock can still be tested.
    for mode in ("r+b", "rb"):
        try:
            with path.open(mode) as file:
                return not _lock(file)
        except OSError:
            continue
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
    """Closes the file in processes that are forked meanwhile.

    A lock lasts as long as any process has its file open, and a data loader worker may run for
    seconds after the main process was killed.
    """
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
