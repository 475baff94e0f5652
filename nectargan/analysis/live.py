"""`LiveRun`: reads the record of a run while it grows."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from nectargan.config.config_manager import ConfigManager
from nectargan.errors import RunError
from nectargan.record.ledger import GradientRow, LossRow, MetricRow, Row, read_blocks, rows_in
from nectargan.record.lineage import read_ancestors
from nectargan.record.output_directory import require_status
from nectargan.record.run_directory import RunDirectory
from nectargan.record.seeking import line_after

# The first `look` at a ledger reads at most this many bytes at its end.
_FIRST_LOOK = 1 << 20
_KEPT_STEPS = 2000
_SPEED_SECONDS = 30
_BARS = "▁▂▃▄▅▆▇█"


class LiveRun:
    """The state of a run at the last `look`.

    Args:
        directory: The run directory.
        lineage: Whether a fork begins with the last rows of its parent.

    Attributes:
        status: "RUNNING", "FINISHED", "KILLED" or "FAILED".
        reason: Why it ended, if it did not finish.
        epochs: Length of the run in epochs.
        epoch: The epoch of the last recorded step; 0 before the first one.
        step: The last recorded step.
        losses: The rows of the last step, by name of the loss.
        trends: The raw losses of the last steps, by name of the loss.
        shares: The last recorded share of the gradient, by name of the loss; empty if gradients are
            not on record.
        metrics: The last value of each metric, by series.
        metrics_epoch: The epoch of the last recorded metric; 0 before the first one.
        ancestors: The checkpoints that the run descends from, the oldest first.

    Raises:
        RunError: this is not a run directory, or its config turns off ``logging.csv``.
        ConfigError: its config cannot be read.
    """

    def __init__(self, directory: RunDirectory, lineage: bool = True) -> None:
        require_status(directory)
        config = ConfigManager(directory.config).data
        if not config.logging.csv:
            raise RunError(f"'{directory}' has no record to watch: logging.csv is false.")
        self.directory = directory
        self.epochs = config.train.epochs
        self._batch_size = config.dataloader.batch_size
        self._ledgers = (directory.losses, directory.metrics, directory.gradients)
        self._losses, self._metrics, self._gradients = map(_Tail, self._ledgers)
        self.ancestors = read_ancestors(directory)
        self._lineage = lineage
        self._forget()
        self.look()

    def _forget(self) -> None:
        self.epoch = self.step = self.metrics_epoch = 0
        self.losses: dict[str, LossRow] = {}
        self.trends: dict[str, deque[float]] = {}
        self.shares: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self._steps_per_epoch = 0
        self._times: deque[tuple[int, int]] = deque(maxlen=_KEPT_STEPS)
        if self._lineage:
            inherited = [self.directory.inherited(ledger.name) for ledger in self._ledgers]
            self._take(*map(_Tail, inherited))
            self._times.clear()  # the speed is that of the run itself

    def look(self) -> None:
        """Reads the new rows and the status; see `RunDirectory.current_status`."""
        # The status is read first: if the run has ended, its record is complete.
        self.status, self.reason = self.directory.current_status()
        if self._losses.was_replaced() or self._metrics.was_replaced():
            # The run was resumed from a checkpoint before the last recorded step.
            self._forget()
            self._losses.begin()
            self._metrics.begin()
            self._gradients.begin()
        self._take(self._losses, self._metrics, self._gradients)

    def _take(self, losses: _Tail, metrics: _Tail, gradients: _Tail) -> None:
        for loss in losses.rows(LossRow):
            self._take_loss(loss)
        for metric in metrics.rows(MetricRow):
            self._take_metric(metric)
        for gradient in gradients.rows(GradientRow):
            self.shares[gradient.loss] = gradient.share

    def _take_loss(self, row: LossRow) -> None:
        if row.step != self.step:
            self.step, self.epoch, self.losses = row.step, row.epoch, {}
            self._times.append((row.step, row.time))
        self.losses[row.loss] = row
        self.trends.setdefault(row.loss, deque(maxlen=_KEPT_STEPS)).append(row.raw)

    def _take_metric(self, row: MetricRow) -> None:
        self.metrics[row.metric] = row.value
        if row.metric.startswith("time/") and row.epoch > 0:
            # These are recorded at the end of an epoch.
            self._steps_per_epoch = row.step // row.epoch
            self.metrics_epoch = row.epoch

    @property
    def total_steps(self) -> int | None:
        """Number of steps of the whole run; ``None`` before the end of the first epoch."""
        return self.epochs * self._steps_per_epoch or None

    @property
    def images_per_second(self) -> float | None:
        """Speed over the last 30 recorded seconds; ``None`` if not known yet."""
        if not self._times:
            return None
        last_step, last_time = self._times[-1]
        first_step, first_time = next(
            each for each in self._times if last_time - each[1] <= 1000 * _SPEED_SECONDS
        )
        if last_time == first_time:
            return self.metrics.get("time/images_per_second")
        return 1000 * self._batch_size * (last_step - first_step) / (last_time - first_time)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end at this speed; ``None`` if not known."""
        total, speed = self.total_steps, self.images_per_second
        if total is None or speed is None or not speed > 0:
            return None
        left = max(0, total - self.step) * self._batch_size / speed
        return left if math.isfinite(left) else None


class _Tail:
    """Reads a ledger while it grows, starting near its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.begin()

    def begin(self) -> None:
        """Starts again near the end of the file."""
        self._offset: int | None = None
        self._file = 0

    def was_replaced(self) -> bool:
        """Whether the file was replaced or truncated since it was read."""
        if self._offset is None:
            return False
        try:
            found = self._path.stat()
        except OSError:
            return True
        return found.st_ino != self._file or found.st_size < self._offset

    def rows(self, row_type: type[Row]) -> Iterator[Row]:
        """The rows since the last call, without damaged lines; raises `RunError`."""
        try:
            yield from self._rows(row_type)
        except OSError as error:
            raise RunError(f"'{self._path}' cannot be read: {error.strerror}.") from None

    def _rows(self, row_type: type[Row]) -> Iterator[Row]:
        if self._offset is None:
            try:
                found = self._path.stat()
            except OSError:
                return
            self._file = found.st_ino
            self._offset = line_after(self._path, max(0, found.st_size - _FIRST_LOOK))
        for lines, offset in read_blocks(self._path, self._offset):
            self._offset = offset
            for row, _ in rows_in(row_type, lines, skip_damaged=True):
                yield row


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve in one line of text: the means of ``width`` equal parts, with a gap for NaN."""
    if not values:
        return ""
    width = min(width, len(values))
    ends = [len(values) * part // width for part in range(width + 1)]
    points = list(values)
    means = [fmean(points[a:b]) for a, b in itertools.pairwise(ends)]
    finite = [mean for mean in means if abs(mean) < float("inf")]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join(
        _BARS[int((mean - low) / span * (len(_BARS) - 1) + 0.5) if span else 0]
        if abs(mean) < float("inf")
        else " "
        for mean in means
    )
