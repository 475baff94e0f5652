"""The TensorBoard sink: event files in the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nectargan.loggers.base import Point, RunStatus
from nectargan.loggers.epoch_files import EXAMPLES


class TensorBoardSink:
    """Writes scalars and example grids to event files.

    Args:
        directory: Where the event files go.
        every_n_steps: Steps from one point of a loss to the next.
    """

    name = "TensorBoard"

    def __init__(self, directory: Path, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self._directory = directory
        self._writer: Any = None

    def open(self, first_step: int) -> None:
        """Opens an event file; readers drop what older ones have from ``first_step`` on."""
        from torch.utils.tensorboard import SummaryWriter

        # Even 0 makes a session mark, without which that of a resumed run would be ignored.
        self._writer = SummaryWriter(str(self._directory), purge_step=first_step)

    def write(self, points: Sequence[Point]) -> None:
        """Adds each point as a scalar, at the time that the ledger has for it."""
        for point in points:
            self._writer.add_scalar(point.series, point.value, point.step, point.time / 1000)
        self._writer.flush()

    def add_file(self, kind: str, path: Path, step: int) -> None:
        """Adds a picture under its kind."""
        if kind == EXAMPLES:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(kind, pixels, step, dataformats="HWC")

    def close(self, status: RunStatus, reason: str) -> None:
        """Closes the event file; it has no place for a status."""
        self._writer.close()
