"""What a process can run out of - memory, room on a disk, open files, threads, the workers that it
started - and how the system and libraries say so."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import sys
from typing import Literal, NamedTuple

from nectargan.errors import NectarGANError

Kind = Literal["memory", "room", "files", "processes", "workers", "guard"]

# A worker process ends so when it is about to do the work of the main one; see `no_worker`.
IMPORTED_ANEW = 113

_OF_ERRNO: dict[int | None, Kind] = {
    errno.ENOMEM: "memory",
    errno.ENOSPC: "room",
    errno.EDQUOT: "room",
    errno.EFBIG: "room",
    errno.EROFS: "room",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.EAGAIN: "processes",
}
# What is said in the texts of other errors: RuntimeError of torch, ImportError of the linker.
_OF_TEXT: tuple[tuple[Kind, str], ...] = (
    ("guard", rf"DataLoader worker .*exit code {IMPORTED_ANEW}\b"),
    ("workers", r"DataLoader worker \(pid"),
    ("files", r"[Tt]oo many open files"),
    ("room", r"No space left on device|No usable temporary directory|File too large"),
    ("processes", r"can't start new thread|Resource temporarily unavailable"),
    (
        "memory",
        r"DefaultCPUAllocator|[Nn]ot enough memory|[Oo]ut of memory|ALLOC_FAILED|"
        r"[Cc]annot allocate memory|[Cc]an't allocate memory|failed to map segment|"
        r"could not create a (primitive|memory)|unable to mmap",
    ),
)
_SIZE = re.compile(r"(?:[Tt]ried to allocate|Unable to allocate) ([\d.]+) ?(bytes|[KMGTP]?i?B)")
_TOLD = {
    "memory": "Out of memory",
    "room": "There is no room to write a file",
    "files": "Too many files are open",
    "processes": "No more threads or processes can be started",
    "workers": "A worker process that reads images ended unexpectedly",
    "guard": "A worker process, which begins with the script anew, came upon the training in it",
}


class Shortage(NamedTuple):
    """What there is too little of.

    Attributes:
        kind: Of what.
        told: A sentence about it, without its full stop.
    """

    kind: Kind
    told: str


def shortage_of(error: BaseException | None, place: object = None) -> Shortage | None:
    """What there was too little of, if that is what an error, or one that led to it, says.

    Args:
        error: The error.
        place: Where files are written, for an error that names none.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind, cause = _kind_of(error), error.__cause__ or error.__context__
        if kind is not None:
            return Shortage(kind, _told(kind, error, place))
        if isinstance(error, NectarGANError) and cause is not None:
            found = shortage_of(cause, place)
            if found is None or found.kind == "memory":
                return found
            return Shortage(found.kind, str(error).rstrip("."))
        error = cause
    return None


def _kind_of(error: BaseException) -> Kind | None:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "memory"
    if isinstance(error, OSError) and error.errno in _OF_ERRNO:
        return _OF_ERRNO[error.errno]
    ended = re.search(r"DataLoader worker .* exit code (\d+)", str(error))
    if ended and int(ended[1]) in _OF_ERRNO:
        return _OF_ERRNO[int(ended[1])]  # see `nectargan.dataset.workers`
    if isinstance(error, (OSError, RuntimeError, ImportError)):
        return next((kind for kind, text in _OF_TEXT if re.search(text, str(error))), None)
    return None


def no_worker() -> None:
    """Ends a worker process that is being started and runs the main script to have its names, where
    processes are spawned. Without a guard the script would train once more in it, which is what
    this is called before."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # Not by SystemExit, of which a fork server makes exit code 1.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(IMPORTED_ANEW)


def _told(kind: Kind, error: BaseException, place: object) -> str:
    size = _SIZE.search(str(error))
    if kind == "memory" and size:
        return f"Out of memory: {_readable(float(size[1]), size[2])} more could not be had"
    if kind == "room" and isinstance(error, OSError) and error.strerror:
        place = error.filename or place
        return f"{repr(str(place)) if place else 'A file'} cannot be written: {error.strerror}"
    signal = re.search(r"is killed by signal: (\w+)", str(error))
    return f"{_TOLD[kind]} ({signal[1]})" if signal else _TOLD[kind]


def _readable(number: float, unit: str) -> str:
    return f"{number / 2**30:,.2f} GiB" if unit == "bytes" else f"{number:g} {unit}"
