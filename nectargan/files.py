"""Files that are replaced in one piece."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PART = ".part"
_MOST_LINKS = 40  # as Linux follows


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` in one piece at the end.

    Whoever looks at ``path`` sees the old file or the new one, never a part, even after a crash. A
    symbolic link stays one, and its target is replaced. What is no file, such as a pipe or
    ``/dev/stdout``, is written to at the end.

    Raises:
        OSError: the file cannot be written; nothing has changed then.
    """
    if is_stream(path):
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
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
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


def remove_parts(directory: Path) -> None:
    """Removes what `replacing` left below a directory when its process was killed; raises OSError.

    Nobody else may be at work there.
    """
    for part in directory.rglob(f".*{_PART}"):
        part.unlink()


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
