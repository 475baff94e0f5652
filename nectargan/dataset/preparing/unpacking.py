"""Unpacks a tar archive from a source that is not trusted."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from nectargan.credentials import public_address
from nectargan.errors import DataError

# Images hardly shrink in an archive. More than this is not a data set of images.
_MOST_BYTES_PER_BYTE = 10
_ALLOWED_BYTES = 64 << 20  # for small archives, in which the headers count
_MOST_MEMBERS = 2_000_000
_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError)


def unpack(archive: Path, folder: Path, source: str) -> None:
    """Unpacks the files of a ``.tar.gz`` archive into an empty folder.

    Files get the permissions of new files.

    Args:
        archive: The archive.
        folder: The empty folder. After an error, it can contain files.
        source: Where the archive is from, for messages.

    Raises:
        DataError: If the archive is damaged, or contains anything but folders and regular files, a
            path out of the archive, a path twice, or far more data than its own size.
        OSError: If a file cannot be written.
    """
    shown = public_address(source)
    most = max(_ALLOWED_BYTES, _MOST_BYTES_PER_BYTE * archive.stat().st_size)
    with archive.open("rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raise DataError(f"{shown}: what was received is not a .tar.gz archive.")
        raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=raw) as plain:
                limited = _Limited(plain, most)
                # A stream needs only `read`; the stubs ask for all of a file.
                with tarfile.open(fileobj=limited, mode="r|") as tar:  # type: ignore[call-overload]
                    _extract(tar, folder)
                while limited.read(1 << 20):  # to the end, where the checksum is
                    pass
        except DataError as error:
            raise DataError(f"{shown}: {error}; nothing was unpacked.") from None
        except _DAMAGED as error:
            what = str(error) or type(error).__name__
            raise DataError(f"{shown}: the archive is damaged or incomplete ({what}).") from None


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    for number, member in enumerate(tar):
        if number >= _MOST_MEMBERS:
            raise DataError(f"the archive has more than {_MOST_MEMBERS:,} files")
        path = folder / _relative(member)
        if member.isdir():
            continue  # the folders of files are created with them
        if not member.isreg() or member.issparse():
            raise DataError(f"'{member.name}' is neither a folder nor a regular file")
        content = tar.extractfile(member)
        assert content is not None  # noqa: S101 - a regular file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, path.open("xb") as file:
                shutil.copyfileobj(content, file)
        except (FileExistsError, NotADirectoryError):
            raise DataError(f"'{member.name}' is in the archive twice") from None


def _relative(member: tarfile.TarInfo) -> PurePosixPath:
    """The path of a member, if it is inside the archive on every system."""
    path = PurePosixPath(member.name)
    is_inside = not path.is_absolute() and ".." not in path.parts
    if not is_inside or any(character in member.name for character in "\\:\0"):
        raise DataError(f"the path '{member.name}' does not stay in the archive")
    return path


class _Limited:
    """A stream that fails after a number of bytes, as a small archive can hold endless zeros."""

    def __init__(self, stream: gzip.GzipFile, most: int) -> None:
        self._stream = stream
        self._left = most
        self._most = most

    def read(self, size: int) -> Any:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"it unpacks to more than {self._most:,} bytes")
        return data
