"""`Cursor`: how much of a run a sink has received, saved in the run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nectargan.files import read_regular_text, replacing
from nectargan.record.run_directory import (
    GRADIENTS_FILE,
    LOSSES_FILE,
    METRICS_FILE,
    RunDirectory,
    step_of,
)
from nectargan.record.seeking import first_step_from, offset_of_epoch, offset_of_step, step_before

_FILES = (LOSSES_FILE, METRICS_FILE, GRADIENTS_FILE)
_LARGEST = 1 << 28  # bytes; the file lists every image of a run


class Cursor:
    """How much of a run a sink has received: bytes of each ledger, and the files of epochs.

    It is saved after the sink has received something, so it may be behind the sink but never ahead
    of it.

    Args:
        directory: The run directory.
        sink: Name of the sink.

    Attributes:
        offsets: Bytes received, by file name of the ledger.
        files: Epoch files received, as paths relative to the run directory.
        status: The status with which the sink was closed; ``None`` while it is open.
    """

    def __init__(self, directory: RunDirectory, sink: str) -> None:
        self._directory = directory
        self._path = directory.cursor(sink)
        self.offsets = dict.fromkeys(_FILES, 0)
        self.files: set[str] = set()
        self.status: str | None = None
        self._load()

    @property
    def is_behind(self) -> bool:
        """Whether the sink has not yet received everything, including the final status."""
        sizes = {file: _file_size(self._directory / file) for file in _FILES}
        if self.status is None or any(self.offsets[file] < sizes[file] for file in _FILES):
            return True
        return not self.files.issuperset(self._directory.epoch_files())

    def rewind(self, window: int | None = None) -> int:
        """Moves back to the start of a step in all ledgers, to open the sink again.

        Args:
            window: Number of steps of losses that are sent together, for a sink that takes means:
                the cursor moves back to the first step of such a window, and in the ledger of
                gradients to the start of an epoch.

        Returns:
            The step, from which on everything will be sent again; 0 if nothing was received.
        """
        paths = {file: self._directory / file for file in _FILES}
        if not any(self.offsets.values()):
            return 0
        steps = {file: first_step_from(path, self.offsets[file]) for file, path in paths.items()}
        if not steps[GRADIENTS_FILE]:  # not every run has such rows
            del steps[GRADIENTS_FILE]
        step = min(steps.values())
        if window is not None:
            # The epoch of the last gradients may go on: then their mean is sent again.
            last = step_before(paths[GRADIENTS_FILE], self.offsets[GRADIENTS_FILE])
            step = min(step, last or step)
            step = max(0, step - (step - 1) % window)
        for file, path in paths.items():
            offset = offset_of_step(path, step)
            if file == GRADIENTS_FILE and window is not None:
                offset = offset_of_epoch(path, offset)
            self.offsets[file] = min(self.offsets[file], offset)
        self.files = {name for name in self.files if (step_of(name) or 0) < step}
        self.status = None
        return step

    def reset(self) -> None:
        """Moves back to the start of the run: everything will be sent again."""
        self.offsets, self.files, self.status = dict.fromkeys(_FILES, 0), set(), None

    def save(self) -> None:
        """Writes the cursor to its file; raises OSError."""
        self._path.parent.mkdir(exist_ok=True)
        state = {
            "offsets": self.offsets,
            "files": sorted(self.files),
            "status": self.status,
        }
        with replacing(self._path) as part:
            part.write_text(json.dumps(state), encoding="utf-8")

    def _load(self) -> None:
        try:
            state: Any = json.loads(read_regular_text(self._path, _LARGEST))
            # Earlier versions have no ledger of gradients.
            offsets = {GRADIENTS_FILE: 0, **state["offsets"]}
            self.offsets = {file: max(0, int(offsets[file])) for file in _FILES}
            self.files = {str(name) for name in state["files"]}
            self.status = state["status"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            # The file is damaged. Sending everything again does no harm.
            self.offsets, self.files = dict.fromkeys(_FILES, 0), set()
        # A ledger is shorter than before if the run was resumed from an earlier checkpoint.
        for file in _FILES:
            self.offsets[file] = min(self.offsets[file], _file_size(self._directory / file))


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
