"""Where the bytes of an image are: in a file of their own, or in a shard (a tar file of many)."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeAlias

from nectargan.files import digest_of_file, open_regular

CHANGED = "it has changed since its contents were listed"


class Shard(Protocol):
    """A tar file whose parts can be read at any place, as it was when its contents were listed."""

    @property
    def name(self) -> str:
        """The file name."""

    @property
    def state(self) -> tuple[int, ...]:
        """Numbers that change when it is replaced."""

    def open(self) -> BufferedReader:
        """Opens it at its beginning; raises OSError if it cannot be read or has changed."""

    def read(self, offset: int, size: int) -> bytes:
        """Reads a part of it, which is shorter at its end; raises OSError as `open` does."""


@dataclass(frozen=True)
class ShardFile:
    """A shard on a disk.

    Attributes:
        path: The file.
        size: Its size in bytes.
        modified: Its time of modification in nanoseconds.
    """

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> ShardFile:
        """Describes the current state of a file; raises OSError."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def state(self) -> tuple[int, ...]:
        return self.size, self.modified

    def open(self) -> BufferedReader:
        if ShardFile.of(self.path) != self:
            raise OSError(errno.ESTALE, CHANGED, str(self))
        return open_regular(self.path)

    def read(self, offset: int, size: int) -> bytes:
        with self.open() as file:
            file.seek(offset)
            return file.read(size)


@dataclass(frozen=True)
class Member:
    """A file in a shard.

    Attributes:
        shard: The shard.
        path: Path of the member in the shard, with "/" between its parts.
        offset: Position of the first byte in the shard.
        size: Number of bytes.
    """

    shard: Shard
    path: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The suffix of the name, such as ".png"."""
        return PurePosixPath(self.path).suffix

    def read(self) -> bytes:
        """All bytes of the member; raises OSError."""
        data = self.shard.read(self.offset, self.size)
        if len(data) < self.size:
            raise OSError(errno.EIO, "its shard ends before it", str(self))
        return data


Source: TypeAlias = Path | Member


def open_source(source: Source, most_bytes: int | None = None) -> BufferedReader | BytesIO:
    """Opens a file or a member of a shard for reading in binary mode.

    Args:
        source: The file, which must be a regular file, or the member, which is read into memory.
        most_bytes: The largest size to accept, in bytes; ``None`` for any size.

    Raises:
        OSError: If it cannot be read or is too large; ``strerror`` gives the reason.
    """
    if isinstance(source, Path):
        return open_regular(source, most_bytes)
    if most_bytes is not None and source.size > most_bytes:
        message = f"it has {source.size:,} bytes; at most {most_bytes:,} are read"
        raise OSError(errno.EFBIG, message, str(source))
    return BytesIO(source.read())


@contextmanager
def as_file(source: Source) -> Iterator[Path]:
    """Yields a path to the contents, for libraries that only read files.

    The path of a member is that of a temporary copy.

    Raises:
        OSError: If the source cannot be read, or the copy cannot be written.
    """
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"member{source.suffix}"
        copy_source(source, copy)
        yield copy


def copy_source(source: Source, target: Path) -> None:
    """Copies the contents to a new file; raises OSError."""
    with open_source(source) as file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)


def state_of_source(source: Source) -> tuple[int, ...]:
    """Numbers that change when the contents are replaced; raises OSError."""
    if isinstance(source, Path):
        status = source.stat()
        return status.st_size, status.st_mtime_ns
    return source.size, *source.shard.state, source.offset


def digest_of_source(source: Source) -> str:
    """The SHA-256 digest of the contents, in hexadecimal; raises OSError."""
    if isinstance(source, Path):
        return digest_of_file(source)
    return hashlib.sha256(source.read()).hexdigest()
