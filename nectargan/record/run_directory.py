"""Run directories: ``<output>/<experiment>_v<N>``."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from nectargan.errors import RunError
from nectargan.files import read_regular_text, replacing
from nectargan.wording import counted

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

# Whoever only looks whether a lock is free has it for a moment.
_TRIES, _PAUSE = 20, 0.02

LOCK_FILE = ".lock"
STATUS_FILE = "status.json"
CONFIG_FILE = "config.json"
ORIGINAL_CONFIG_FILE = "config_original.json"


def create_run_directory(
    output: Path, experiment: str, first: int = 1, auto_increment: bool = True
) -> Path:
    """Makes the directory of a new run.

    Args:
        output: Where runs are kept; made if need be.
        experiment: First part of the name.
        first: Lowest version number to give.
        auto_increment: Take the number after the highest one there is; else exactly ``first``.

    Returns:
        The new, empty directory. Two processes never get the same one.

    Raises:
        RunError: it cannot be made, or exists and ``auto_increment`` is off.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        version = max(first, _highest_version(output, experiment) + 1) if auto_increment else first
        while True:
            directory = output / f"{experiment}_v{version}"
            try:
                directory.mkdir()
            except FileExistsError:
                if not auto_increment:
                    raise RunError(
                        f"Run directory '{directory}' exists; set save.auto_increment_version, or "
                        "another common.experiment_version."
                    ) from None
                version += 1
            else:
                return directory
    except OSError as error:
        raise RunError(f"No run can be made in '{output}': {error.strerror}.") from None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory, for the time of a ``with`` statement.

    The system drops the lock when the process ends, however it ends, and whatever it started.

    Raises:
        RunError: another process has it, or it cannot be written.
    """
    path = directory / LOCK_FILE
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
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


@contextmanager
def _not_inherited(file: BinaryIO) -> Iterator[None]:
    """Closes a file in what is forked meanwhile: a lock lasts as long as any process has its file
    open, and a worker that reads images outlives, for seconds, a main process that was killed."""
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


def is_locked(directory: Path) -> bool:
    """Whether a process is at work in a run directory."""
    try:
        with (directory / LOCK_FILE).open("r+b") as file:
            return not _lock(file)
    except OSError:
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


def list_runs(output: Path, experiment: str) -> list[Path]:
    """The run directories of an experiment, the newest version last."""
    return [path for _, path in _versions(output, experiment)]


def no_run_directory(path: Path, lacks: str) -> RunError:
    """The error for a path that names no run, with what may have been meant.

    Args:
        path: What was given.
        lacks: What a run directory would have there.
    """
    if path.is_file():
        parent = path.parent
        hint = f"; '{parent}' is one" if read_status(parent)[0] else ""
        return RunError(f"'{path}' is a file, not a run directory{hint}.")
    if not path.exists():
        near = [each for folder in (path.parent, Path("runs")) for each in _runs_in(folder)]
        names = difflib.get_close_matches(path.name, [each.name for each in near], n=1)
        meant = next((f" Did you mean '{each}'?" for each in near if each.name in names), "")
        return RunError(f"'{path}' is no run directory: there is none.{meant}")
    runs = _runs_in(path)
    if runs:
        return RunError(
            f"'{path}' is no run directory, but holds {counted(len(runs), 'run')}, such as "
            f"'{runs[0]}'."
        )
    return RunError(f"'{path}' is no run directory: it has no {lacks}.")


def _runs_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if read_status(path)[0]]


def write_status(directory: Path, status: str, reason: str = "") -> None:
    """Notes how a run stands: "RUNNING", "FINISHED", "KILLED" or "FAILED", and why.

    Raises:
        OSError: it cannot be written.
    """
    path = directory / STATUS_FILE
    text = json.dumps({"status": status, "reason": reason})
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError:
        if not path.is_file():
            raise
        # A full disk has no room for another file, but in the one that is there.
        with path.open("r+b") as file:
            file.truncate(file.write(text.encode("utf-8")))


def read_status(directory: Path) -> tuple[str, str]:
    """How a run stands, and why; empty if nothing is known."""
    try:
        content = json.loads(read_regular_text(directory / STATUS_FILE))
        return str(content["status"]), str(content["reason"])
    except (OSError, ValueError, TypeError, KeyError):
        return "", ""


def end_of(directory: Path) -> tuple[RunStatus, str]:
    """How a run ended, and why. One that died without a word is marked as killed.

    Args:
        directory: The run directory, which nobody else is at work in.

    Raises:
        RunError: that cannot be noted.
    """
    status, reason = read_status(directory)
    if status in ("FINISHED", "FAILED"):
        return status, reason  # type: ignore[return-value]
    if status != "KILLED":
        reason = "it died without a word"
        try:
            write_status(directory, "KILLED", reason)
        except OSError as error:
            place = error.filename or directory
            raise RunError(f"'{place}' cannot be written: {error.strerror}.") from error
    return "KILLED", reason


def _highest_version(output: Path, experiment: str) -> int:
    return max((version for version, _ in _versions(output, experiment)), default=0)


def _versions(output: Path, experiment: str) -> list[tuple[int, Path]]:
    if not output.is_dir():
        return []
    pattern = re.compile(re.escape(experiment) + r"_v(\d+)")
    matches = ((pattern.fullmatch(entry.name), entry) for entry in output.iterdir())
    # As numbers: as text, version 10 would come before version 9.
    return sorted((int(match[1]), entry) for match, entry in matches if match)
