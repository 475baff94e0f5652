"""Writing files atomically, and reading files that a user named without blocking."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import secrets
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path

_PART = ".part"
_MOST_LINKS = 40  # the limit of Linux
# Windows has no O_NONBLOCK; O_BINARY exists only there and keeps line endings as they are.
_READ_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

# What torch.load raises on damaged files; it has no single error for them.
TORCH_LOAD_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    pickle.UnpicklingError,
)


def open_regular(path: Path, most_bytes: int | None = None) -> BufferedReader:
    """Opens a regular file for reading in binary mode.

    Other kinds of files are rejected: reading a pipe or a device may block, never end or fill the
    memory.

    Args:
        path: The file, or a link to one.
        most_bytes: The largest size to accept, in bytes; ``None`` for any size.

    Raises:
        OSError: If the file cannot be read, is not a regular file or is too large; ``strerror``
            gives the reason.
    """
    try:
        status = path.stat()
        _require_regular(path, status)
        # If a pipe has replaced the file since the check, O_NONBLOCK keeps open() from waiting.
        file = os.fdopen(os.open(path, os.O_RDONLY | _READ_FLAGS), "rb")
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    try:
        status = os.fstat(file.fileno())
        _require_regular(path, status)
        if most_bytes is not None and status.st_size > most_bytes:
            message = f"it has {status.st_size:,} bytes; at most {most_bytes:,} are read"
            raise OSError(errno.EFBIG, message, str(path))
    except BaseException:
        file.close()
        raise
    return file


def read_regular_text(path: Path, most_bytes: int = 4_000_000, encoding: str = "utf-8") -> str:
    """Reads a regular text file; see `open_regular`.

    Raises:
        OSError: If the file cannot be read, is not a regular file or is too large.
        UnicodeDecodeError: If the file is not text in this encoding.
    """
    with open_regular(path, most_bytes) as file:
        return file.read(most_bytes).decode(encoding)


@contextmanager
def replacing(path: Path, or_stream: bool = False) -> Iterator[Path]:
    """Replaces a file atomically.

    Yields a temporary path to write to. When the ``with`` block ends without an error, the
    temporary file replaces ``path``. Readers of ``path`` see either the old or the new file, even
    after a crash. If ``path`` is a symbolic link, its target is replaced.

    Args:
        path: The file to replace.
        or_stream: Whether ``path`` may also be a stream, such as a pipe or ``/dev/stdout``, to
            which the content is copied at the end. Not allowed for files of a run, because writing
            to a pipe would wait for a reader for ever.

    Raises:
        OSError: If the file cannot be written; ``path`` is then unchanged.
    """
    if is_stream(path):
        if not or_stream:
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            yield part
            with part.open("rb") as file, os.fdopen(_open_stream(path), "wb") as stream:
                shutil.copyfileobj(file, stream)
        return
    path = _target(path)
    part = path.with_name(f".{secrets.token_hex(8)}{_PART}")
    # Created by open(), so that the umask applies. The umask can only be read by setting it, and
    # that would affect the files of other threads.
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        error.filename = str(path)  # the caller does not know the temporary file
        raise
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync_directory(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_stream(path: Path) -> bool:
    """Whether a path is a stream, which can be written to but not replaced.

    Streams are devices, pipes, sockets and open files of this process such as ``/dev/stdout``.

    Raises:
        OSError: If symbolic links form a loop.
    """
    path = _target(path)
    return _descriptor(path) is not None or (
        path.exists() and not path.is_file() and not path.is_dir()
    )


def digest_of_file(path: Path) -> str:
    """The SHA-256 digest of a regular file, in hexadecimal.

    Raises:
        OSError: If the file cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_parts(directory: Path) -> None:
    """Removes the temporary files that `replacing` left below a directory after a crash.

    No other process may write to the directory at the same time.

    Raises:
        OSError: If a file cannot be removed.
    """
    for part in directory.rglob(f".*{_PART}"):
        part.unlink()


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def _target(path: Path) -> Path:
    """Follows symbolic links, but stops at a path such as ``/dev/fd/3`` that is an open file."""
    for _ in range(_MOST_LINKS):
        if _descriptor(path) is not None or not path.is_symlink():
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _descriptor(path: Path) -> int | None:
    """The file descriptor that a path such as ``/dev/fd/3`` names; ``None`` for other paths."""
    folders = ("/dev/fd", "/proc/self/fd", f"/proc/{os.getpid()}/fd")
    if path.name.isdecimal() and str(path.parent) in folders:
        return int(path.name)
    return None


def _open_stream(path: Path) -> int:
    path = _target(path)
    descriptor = _descriptor(path)
    # Opening a file again that the shell has opened would write at its start instead of its end.
    return os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)


def _sync_directory(directory: Path) -> None:
    """Writes a renaming to disk, so that it survives a power failure; does nothing on Windows."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(path: Path, line: str) -> None:
    """Appends a line to a regular file, which is created if it does not exist.

    Raises:
        OSError: If the file cannot be written.
    """
    if path.exists():
        _require_regular(path, path.stat())
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def append_whole(file: FileIO, data: bytes | memoryview) -> None:
    """Appends data to an unbuffered file; on an error, the file is cut back to its old size.

    Raises:
        OSError: If the data cannot be written.
    """
    end, rest = file.tell(), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        file.seek(end)
        raise


def cache_folder(name: str) -> Path:
    """A folder for what can be computed or fetched again: in the folder of the variable
    NECTARGAN_CACHE, else in the cache folder of the user."""
    if own := os.environ.get("NECTARGAN_CACHE"):
        return Path(own, name)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(base or Path.home() / ".cache", "nectargan", name)
