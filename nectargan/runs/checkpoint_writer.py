"""`CheckpointWriter`: checkpoints written beside the training, one at a time."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from nectargan.errors import CheckpointError, RunError
from nectargan.files import replacing
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint
from nectargan.shortage import shortage_of


class CheckpointWriter:
    """Keeps the checkpoints of a run.

    ``last.pt`` is another name of the newest one, ``best.pt`` of the best. Those of the middle of
    an epoch are replaced by the next one.

    Args:
        run: The run directory.
        keep_last: How many checkpoints of epochs' ends to keep; ``None`` for all.
    """

    def __init__(self, run: RunDirectory, keep_last: int | None = None) -> None:
        self._run = run
        self._keep_last = keep_last
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, path: Path, write: Callable[[Path], None], best: bool = False) -> None:
        """Writes a checkpoint in the background, after the one before is done.

        Args:
            path: The file; see `RunDirectory.checkpoint`.
            write: Writes it to a path. Runs in another thread: what it writes must be a copy.
            best: Whether it becomes ``best.pt`` too.

        Raises:
            RunError: the one before could not be written.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(path, write, best), name="nectargan-checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            RunError: it could not be.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            if not isinstance(error, OSError) and shortage_of(error) is None:
                # torch's own writer, whose message is about its file format.
                error = OSError(errno.ENOSPC, "is the disk full?")
            reason = error.strerror if isinstance(error, OSError) else "out of memory"
            raise RunError(
                f"No checkpoint can be written to '{self._run.checkpoints}': {reason}."
            ) from error

    def _write(self, path: Path, write: Callable[[Path], None], best: bool) -> None:
        try:
            write(path)
            also_known_as(path, self._run.last_checkpoint)
            if best:
                also_known_as(path, self._run.best_checkpoint)
            self._prune()
        except (OSError, RuntimeError, MemoryError) as error:
            # torch's own writer raises RuntimeError when the disk is full.
            self._error = error

    def _prune(self) -> None:
        *older, _ = self._run.list_checkpoints()
        within = [path for path in older if "_step_" in path.name]
        ends = [path for path in self._run.list_checkpoints() if "_step_" not in path.name]
        surplus = ends[: -self._keep_last] if self._keep_last else []
        for path in within + surplus:
            path.unlink(missing_ok=True)


def go_back(
    run: RunDirectory, epoch: int, step: int | None, best: int, file: Path | None, aside: Path
) -> None:
    """Sets the checkpoints of a run aside that are later than one of them; raises OSError.

    Args:
        run: The run directory.
        epoch: Epoch of the checkpoint to go back to.
        step: Its step, if it is of the middle of an epoch.
        best: The best epoch until then; 0 for none.
        file: Its file, which may have another name, such as that of the best.
        aside: Where the others go: the first part of their path and name.
    """
    here, of_best = run.checkpoint(epoch, step), run.checkpoint(best)
    later = run.list_checkpoints(after=here)
    if file is not None and not here.exists():
        also_known_as(file, here)
    if not later:
        return
    also_known_as(here, run.last_checkpoint)
    if _epoch_of(run.best_checkpoint) > epoch - (step is not None):
        later.append(run.best_checkpoint)
    aside.parent.mkdir(exist_ok=True)
    for path in later:
        path.replace(aside.with_name(f"{aside.name}.{path.name}"))
    if run.best_checkpoint in later and of_best.exists():
        also_known_as(of_best, run.best_checkpoint)


def _epoch_of(path: Path) -> int:
    """Epochs done at a checkpoint; -1 if there is none to read."""
    try:
        return int(load_checkpoint(path)["epoch"])
    except CheckpointError:
        return -1


def also_known_as(path: Path, name: Path) -> None:
    """Makes ``name`` another name of a file; there is always one under it, the old or the new."""
    link = name.with_name(f".{name.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        # A file system without hard links.
        with replacing(name) as part:
            shutil.copyfile(path, part)
        return
    link.replace(name)
