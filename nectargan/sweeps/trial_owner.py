"""Which process trains a trial of a search, and whether that process has died."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nectargan.errors import RunError
from nectargan.record.lock import is_locked, locked

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """Tells machines apart: locks of files are sure to hold only between processes of one kernel.

    On Linux it is the identifier of the running kernel, which containers of a machine share;
    elsewhere the name of the machine.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


@contextmanager
def owned(folder: Path) -> Iterator[dict[str, str]]:
    """Yields how other processes recognise this one, as long as the ``with`` block runs.

    Args:
        folder: Where to create a directory that this process keeps locked.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="process_", dir=folder)).resolve()
    except OSError as error:
        raise RunError(f"'{folder}' cannot be written: {error.strerror}.") from None
    try:
        with locked(place):
            yield {"machine": machine_id(), "host": platform.node(), "lock": str(place)}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def is_elsewhere(owner: Mapping[str, str] | None) -> bool:
    """Whether a process, as `owned` has described it, is on another machine."""
    return owner is not None and owner["machine"] != machine_id()


def has_died(owner: Mapping[str, str] | None) -> bool:
    """Whether a process, as `owned` has described it, is known to have died.

    False for a process on another machine, whose lock proves nothing here.
    """
    if owner is None or is_elsewhere(owner):
        return False
    return Path(owner["lock"]).is_dir() and not is_locked(owner["lock"])
