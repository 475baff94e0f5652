"""Files that are replaced in one piece."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PART = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` in one piece at the end.

    Whoever looks at ``path`` sees the old file or the new one, never a part, even after a crash.

    Raises:
        OSError: the file cannot be written; nothing has changed then.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; these are as public as any other.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
        _sync_directory(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(directory: Path) -> None:
    """Removes what `replacing` left below a directory when its process was killed; raises OSError.

    Nobody else may be at work there.
    """
    for part in directory.rglob(f".*{_PART}"):
        part.unlink()


def _sync_directory(directory: Path) -> None:
    """Makes the renaming itself last through a power cut, where directories can be opened."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
