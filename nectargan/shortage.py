"""Recognizes errors that mean that a resource ran out.

The resources are memory, disk space, open files, threads, processes, and worker processes that
ended unexpectedly. The operating system and the libraries report each of them in several ways.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import sys
from typing import Literal, NamedTuple

from nectargan.errors import NectarGANError

Kind = Literal["memory", "room", "files", "processes", "workers", "guard"]

# The exit code of a worker process that has started the training itself; see `no_worker`.
IMPORTED_AGAIN = 113

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
# Patterns for the messages of other errors, such as torch's RuntimeError and the linker's
# ImportError.
_OF_TEXT: tuple[tuple[Kind, str], ...] = (
    ("guard", rf"DataLoader worker .*exit code {IMPORTED_AGAIN}\b"),
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
_TEXTS = {
    "memory": "Out of memory",
    "room": "There is no space left to write a file",
    "files": "Too many files are open",
    "processes": "No more threads or processes can be started",
    "workers": "A worker process that reads images ended unexpectedly",
    "guard": "A worker process, which imports the main script, started the training again",
}


class Shortage(NamedTuple):
    """A resource that ran out.

    Attributes:
        kind: The resource.
        text: A sentence that describes it, without the full stop.
    """

    kind: Kind
    text: str


def shortage_of(error: BaseException | None, place: object = None) -> Shortage | None:
    """The shortage that caused an error; ``None`` if it has another cause.

    Args:
        error: The error. Its ``__cause__`` and ``__context__`` are searched too.
        place: The path to name if the error is about a file but does not name it.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind, cause = _kind_of(error), error.__cause__ or error.__context__
        if kind is not None:
            return Shortage(kind, _what_is_short(kind, error, place))
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
    """Ends this process if it is a worker process that is importing the main script.

    With the start methods ``spawn`` and ``forkserver``, each worker process imports the main
    script. If the script has no ``if __name__ == "__main__":`` guard, the import would start the
    training again. This function is called before a training starts.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A fork server would turn SystemExit into exit code 1.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(IMPORTED_AGAIN)


def _what_is_short(kind: Kind, error: BaseException, place: object) -> str:
    size = _SIZE.search(str(error))
    if kind == "memory" and size:
        return f"Out of memory: {_amount(float(size[1]), size[2])} more could not be allocated"
    if kind == "room" and isinstance(error, OSError) and error.strerror:
        place = error.filename or place
        return f"{repr(str(place)) if place else 'A file'} cannot be written: {error.strerror}"
    signal = re.search(r"is killed by signal: (\w+)", str(error))
    return f"{_TEXTS[kind]} ({signal[1]})" if signal else _TEXTS[kind]


def _amount(number: float, unit: str) -> str:
    return f"{number / 2**30:,.2f} GiB" if unit == "bytes" else f"{number:g} {unit}"
