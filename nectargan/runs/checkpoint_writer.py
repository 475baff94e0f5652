"""`CheckpointWriter`: writes checkpoints in a background thread, one at a time."""

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
    """Writes the checkpoints of a run and deletes old ones.

    ``last.pt`` is a hard link to the newest checkpoint, ``best.pt`` to the best one. A checkpoint
    made in mid-epoch is deleted when the next checkpoint is written.

    Args:
        run: The run directory.
        keep_last: Number of checkpoints from ends of epochs to keep; ``None`` keeps all.
    """

    def __init__(self, run: RunDirectory, keep_last: int | None = None) -> None:
        self._run = run
        self._keep_last = keep_last
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, path: Path, write: Callable[[Path], None], best: bool = False) -> None:
        """Writes a checkpoint in the background, after waiting for the previous one.

        Args:
            path: The file; see `RunDirectory.checkpoint`.
            write: Writes the checkpoint to a path. It is called in another thread, so the data
                must not change meanwhile.
            best: Whether it also becomes ``best.pt``.

        Raises:
            RunError: the previous checkpoint could not be written.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(path, write, best), name="nectargan-checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Waits until the checkpoint is written.

        Raises:
            RunError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            if not isinstance(error, OSError) and shortage_of(error) is None:
                # From torch's file writer, whose message does not name the cause.
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
            # torch's file writer raises RuntimeError when the disk is full.
            self._error = error

    def _prune(self) -> None:
        *older, _ = self._run.list_checkpoints()
        mid_epoch = [path for path in older if "_step_" in path.name]
        ends = [path for path in self._run.list_checkpoints() if "_step_" not in path.name]
        surplus = ends[: -self._keep_last] if self._keep_last else []
        for path in mid_epoch + surplus:
            path.unlink(missing_ok=True)


def go_back(
    run: RunDirectory, epoch: int, step: int | None, best: int, file: Path | None, aside: Path
) -> None:
    """Moves the checkpoints of a run that are later than a given one to another folder.

    Args:
        run: The run directory.
        epoch: Epoch of the checkpoint to go back to.
        step: Its step, if it was made in mid-epoch.
        best: The best epoch until then; 0 for none.
        file: Its file, which may have another name, such as ``best.pt``.
        aside: Path of the moved files, without the last part ``.<name>``.

    Raises:
        OSError: a file cannot be moved.
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
    """Completed epochs of a checkpoint; -1 if it cannot be read."""
    try:
        return int(load_checkpoint(path)["epoch"])
    except CheckpointError:
        return -1


def also_known_as(path: Path, name: Path) -> None:
    """Makes ``name`` a hard link to ``path``, or a copy where links are not supported. An existing
    file ``name`` is replaced atomically."""
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
