"""Files that are replaced in one piece, and files of others that are safe to read."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path

_PART = ".part"
_MOST_LINKS = 40  # as Linux follows
# Windows has no such pipes, and would change line ends.
_READ_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path, most_bytes: int | None = None) -> BufferedReader:
    """Opens a file that a user named, for reading. What is no regular file, and would block the
    process, never end or fill the memory, is not read.

    Args:
        path: The file, or a link to one.
        most_bytes: The largest file to accept; ``None`` for any size.

    Raises:
        OSError: it cannot be read, is no regular file or is too large; ``strerror`` says which.
    """
    try:
        status = path.stat()
        _require_regular(path, status)
        # Without O_NONBLOCK a pipe that takes the file's place now would wait for its writer.
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
    """The text of a file that a user named; see `open_regular`.

    Raises:
        OSError: as `open_regular`.
        UnicodeDecodeError: it is no text in this encoding.
    """
    with open_regular(path, most_bytes) as file:
        return file.read(most_bytes).decode(encoding)


@contextmanager
def replacing(path: Path, or_stream: bool = False) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` in one piece at the end.

    Whoever looks at ``path`` sees the old file or the new one, never a part, even after a crash. A
    symbolic link stays one, and its target is replaced.

    Args:
        path: The file.
        or_stream: Whether it may be no file, such as a pipe or ``/dev/stdout``, which is written
            to at the end. A file of a run may not: a pipe would wait for a reader for ever.

    Raises:
        OSError: the file cannot be written; nothing has changed then.
    """
    if is_stream(path):
        if not or_stream:
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            yield part
            with part.open("rb") as file, os.fdopen(_open_stream(path), "wb") as stream:
                shutil.copyfileobj(file, stream)
        return
    path = _target(path)
    part = path.with_name(f".{secrets.token_hex(8)}{_PART}")
    # As public as any other file of this process. The umask belongs to the whole process, so
    # reading it, which means setting it, would change what other threads make meanwhile.
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        error.filename = str(path)  # what the caller knows
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
    """Whether a path leads to something that is written to and cannot be replaced: a device, a
    pipe, a socket, or what is open already, such as ``/dev/stdout``. Raises OSError for links that
    lead nowhere but to each other."""
    path = _target(path)
    return _descriptor(path) is not None or (
        path.exists() and not path.is_file() and not path.is_dir()
    )


def digest_of_file(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal; raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_parts(directory: Path) -> None:
    """Removes what `replacing` left below a directory when its process was killed; raises OSError.

    Nobody else may be at work there.
    """
    for part in directory.rglob(f".*{_PART}"):
        part.unlink()


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def _target(path: Path) -> Path:
    """Where the links lead that ``path`` is one of, to an open file of this process at most."""
    for _ in range(_MOST_LINKS):
        if _descriptor(path) is not None or not path.is_symlink():
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _descriptor(path: Path) -> int | None:
    """The number of an open file of this process that a path such as ``/dev/fd/3`` stands for."""
    folders = ("/dev/fd", "/proc/self/fd", f"/proc/{os.getpid()}/fd")
    if path.name.isdecimal() and str(path.parent) in folders:
        return int(path.name)
    return None


def _open_stream(path: Path) -> int:
    path = _target(path)
    descriptor = _descriptor(path)
    # A second opening of a file that the shell opened would begin at its start, not at its end.
    return os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)


def _sync_directory(directory: Path) -> None:
    """Makes the renaming itself last through a power cut, where directories can be opened."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, which is made if need be; raises OSError."""
    if path.exists():
        _require_regular(path, path.stat())
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def append_whole(file: FileIO, data: bytes | memoryview) -> None:
    """Writes at the end of an unbuffered file, everything or nothing; raises OSError."""
    end, rest = file.tell(), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        file.seek(end)
        raise
