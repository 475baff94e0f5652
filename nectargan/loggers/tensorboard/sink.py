"""The TensorBoard sink writes event files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nectargan.defaults import TENSORBOARD_EVERY_N_STEPS
from nectargan.loggers.tensorboard.event_file import EventFile
from nectargan.loggers.tensorboard.layout import charts, hparams_summaries, success_summary
from nectargan.record.histogram_file import load_histograms
from nectargan.record.points import Point
from nectargan.record.run_directory import EVENT_FILES, RunStatus


class TensorBoardSink:
    """Writes scalars, images, histograms, the layout of charts and a row of the HParams table.

    Args:
        directory: Folder of the event files.
        every_n_steps: Steps between two points of a loss.
        discriminator_losses: Names of the losses that get separate charts.
        hparams: The parameters of the run for the HParams table; ``None`` for no row.
        hparams_columns: Parameters that other runs may have, with the type of their values.
    """

    name = "TensorBoard"
    takes_means = False

    def __init__(
        self,
        directory: Path,
        every_n_steps: int = TENSORBOARD_EVERY_N_STEPS,
        discriminator_losses: Collection[str] = (),
        hparams: Mapping[str, str | float | bool] | None = None,
        hparams_columns: Mapping[str, type] | None = None,
    ) -> None:
        self.every_n_steps = every_n_steps
        self._directory = directory
        self._discriminator_losses = discriminator_losses
        self._hparams = hparams
        self._hparams_columns = hparams_columns or {}
        self._events: Any = None
        self._began = 0.0

    def open(self, first_step: int) -> int | None:
        """Opens an event file; TensorBoard ignores what older ones have from ``first_step`` on."""
        if not self._has_event_files():
            first_step = 0
        self._events = EventFile(self._directory, first_step)
        if first_step == 0:
            self._describe()
        return first_step

    def has_everything(self, status: RunStatus) -> bool:
        """Whether there are event files; the cursor knows how much they contain."""
        return self._has_event_files()

    def _has_event_files(self) -> bool:
        return any(self._directory.glob(EVENT_FILES))

    def _describe(self) -> None:
        """Adds the layout and the row of the HParams table. `SummaryWriter.add_hparams` creates
        another directory, which TensorBoard shows as another run."""
        from torch.utils.tensorboard.summary import custom_scalars

        self._events.add(custom_scalars(charts(self._discriminator_losses)), 0)  # type: ignore[no-untyped-call]  # untyped in torch
        if self._hparams is not None:
            for summary in hparams_summaries(self._hparams, self._hparams_columns):
                self._events.add(summary, 0)

    def write(self, points: Sequence[Point]) -> None:
        """Adds each point as a scalar, with its time in the ledger."""
        from torch.utils.tensorboard.summary import scalar

        for point in points:
            self._events.add(scalar(point.series, point.value), point.step, point.time / 1000)  # type: ignore[no-untyped-call]  # untyped in torch
        if points:
            self._began = self._began or min(point.time for point in points) / 1000
        self._events.flush()

    def add_file(self, kind: str, path: Path, step: int) -> None:
        """Adds an image or the histograms in a file, with the modification time of the file but not
        before the first point."""
        from torch.utils.tensorboard.summary import histogram_raw, image

        made_at = max(path.stat().st_mtime, self._began)
        if kind in ("examples", "loss_maps"):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._events.add(image(kind, pixels, dataformats="HWC"), step, made_at)  # type: ignore[no-untyped-call]  # untyped in torch
        if kind == "histograms":
            for name, histogram in load_histograms(path).items():
                low, high, total, squares = histogram.moments.tolist()
                summary = histogram_raw(  # type: ignore[no-untyped-call]  # untyped in torch
                    f"{kind}/{name}",
                    min=low,
                    max=high,
                    num=int(histogram.counts.sum()),
                    sum=total,
                    sum_squares=squares,
                    # The right edge of each bin; the left edge of the first one is the minimum.
                    bucket_limits=histogram.edges[1:].tolist(),
                    bucket_counts=histogram.counts.tolist(),
                )
                self._events.add(summary, step, made_at)
        self._events.flush()

    def close(self, status: RunStatus, reason: str) -> None:
        """Closes the event file. Only the status FINISHED is written to the HParams table, because
        TensorBoard would keep another status when the run is resumed."""
        if self._hparams is not None and status == "FINISHED":
            self._events.add(success_summary(), 0)
        self._events.close()
