"""`Cursor`: how far a sink has followed the ledger, kept on disk beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nectargan.files import read_regular_text, replacing
from nectargan.record.run_directory import LOSSES_FILE, METRICS_FILE, RunDirectory, step_of
from nectargan.record.seeking import first_step_from, offset_of_step

_FILES = (LOSSES_FILE, METRICS_FILE)
_LARGEST = 1 << 28  # it names every picture of a run


class Cursor:
    """What a sink has taken of a run: bytes of each ledger, and the files of epochs.

    It is written after the sink has taken something, so it may be behind the sink but never ahead.

    Args:
        directory: The run directory.
        sink: Name of the sink.

    Attributes:
        offsets: Bytes taken, by ledger.
        files: Paths of the epochs' files taken, relative to the run directory.
        status: The status that the sink was closed with; ``None`` while it is open.
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
        """Whether the sink lacks something, if only its status."""
        sizes = {file: _size(self._directory / file) for file in _FILES}
        if self.status is None or any(self.offsets[file] < sizes[file] for file in _FILES):
            return True
        return not self.files.issuperset(self._directory.epoch_files())

    def rewind(self, window: int = 1) -> int:
        """Goes back to the start of a step, in both ledgers, for a sink that is opened again.

        Args:
            window: Steps that belong together: the step is one more than a multiple of it.

        Returns:
            That step: all before it was taken, nothing of it counts as taken. 0 at the very start.
        """
        paths = {file: self._directory / file for file in _FILES}
        if not any(self.offsets.values()):
            return 0
        step = min(first_step_from(path, self.offsets[file]) for file, path in paths.items())
        step = max(0, step - (step - 1) % window)
        for file, path in paths.items():
            self.offsets[file] = min(self.offsets[file], offset_of_step(path, step))
        self.files = {name for name in self.files if (step_of(name) or 0) < step}
        self.status = None
        return step

    def reset(self) -> None:
        """Forgets everything: the sink has nothing."""
        self.offsets, self.files, self.status = dict.fromkeys(_FILES, 0), set(), None

    def save(self) -> None:
        """Writes the cursor; raises OSError."""
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
            self.offsets = {file: max(0, int(state["offsets"][file])) for file in _FILES}
            self.files = {str(name) for name in state["files"]}
            self.status = state["status"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            # Not ours, or damaged: what is sent again does no harm.
            self.offsets, self.files = dict.fromkeys(_FILES, 0), set()
        # A ledger that was cut since, by a run that was resumed.
        for file in _FILES:
            self.offsets[file] = min(self.offsets[file], _size(self._directory / file))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
