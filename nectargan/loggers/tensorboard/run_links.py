"""Links to the event files of runs, so that TensorBoard shows the names of the runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_EVENTS = "events.out.tfevents."
_FOLDER = "tensorboard"


class RunLinks:
    """A temporary directory with a link to each folder of event files below ``root``.

    TensorBoard names a run by the path of its event files. With the link, the run with the event
    files ``runs/x_v1/tensorboard`` is called ``x_v1``.

    Args:
        root: Directory of the runs.

    Attributes:
        directory: The directory with the links; ``root`` if no links can be created.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = tempfile.TemporaryDirectory(prefix="nectargan-runs-")
        self.directory = Path(self._temporary.name)
        self._linked: set[str] = set()
        try:
            self.update()
        except OSError:
            # Windows requires a privilege for links.
            self.directory = root

    def update(self) -> None:
        """Adds links to new runs and removes links to deleted ones.

        Raises:
            OSError: a link cannot be created.
        """
        if self.directory == self._root:
            return
        found = self._found()
        for name in self._linked - found.keys():
            (self.directory / name).unlink(missing_ok=True)
        for name in found.keys() - self._linked:
            link = self.directory / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(found[name], target_is_directory=True)
        self._linked = set(found)

    def _found(self) -> dict[str, Path]:
        """The folders with event files by the name of their run."""
        found: dict[str, Path] = {}
        for folder, below, files in os.walk(self._root):
            below[:] = sorted(name for name in below if not name.startswith("."))
            if not any(name.startswith(_EVENTS) for name in files):
                continue
            path = Path(folder)
            run = path.parent if path.name == _FOLDER else path
            name = run.relative_to(self._root).as_posix() if run != self._root else run.name
            # A link cannot contain other links.
            taken = any(f"{name}/".startswith(f"{other}/") for other in found)
            found[name.replace("/", ":") if taken else name] = path
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._temporary.cleanup()
