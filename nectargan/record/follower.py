"""The `Sink` protocol, and the `Follower` thread that sends the rows of the ledger to a sink.

To add a logger, write a class with the methods of `Sink` and name it in ``logging.sinks`` of a
config, or pass an instance to `nectargan.track`; docs/extending.md has an example.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from nectargan.credentials import without_credentials
from nectargan.errors import RunError
from nectargan.interrupts import end_before_exit
from nectargan.record.cursor import Cursor
from nectargan.record.ledger import GradientRow, LossRow, MetricRow, read_blocks, rows_in
from nectargan.record.points import (
    EpochMeans,
    EveryRow,
    Point,
    SingleSteps,
    WindowMeans,
    count_nonfinite,
)
from nectargan.record.run_directory import (
    GRADIENTS_FILE,
    LOSSES_FILE,
    METRICS_FILE,
    RunDirectory,
    RunStatus,
    step_of,
)
from nectargan.wording import one_line

log = logging.getLogger("nectargan")
# The tracebacks of sinks, which are not printed; `nectargan.loggers.sinks_log` writes them.
traces = logging.getLogger("nectargan.sinks")
traces.propagate = False
traces.addHandler(logging.NullHandler())


class Sink(Protocol):
    """A destination for the values of a run, such as TensorBoard.

    All methods are called in the follower's thread. If one raises an exception, a warning is
    logged once, and the same call is made again later.

    Attributes:
        name: Name of the sink in messages.
        every_n_steps: Steps from one point of a loss to the next.

    A sink may also have these members:

    - ``takes_means``: if true, a point of a loss is the mean since the previous point, see
      `WindowMeans`, and a point of its gradient is the mean over an epoch, see `EpochMeans`;
      otherwise both are the values at that step, see `SingleSteps`.
    - ``tag(key, value)``: adds a tag to the run.
    - ``reference``: a dictionary of strings that identifies the run in the sink. It is saved in
      checkpoints.

    Where `has_everything` is missing, whatever the sink received counts as stored.

    For a sink that is named in the config, ``name`` and ``every_n_steps`` are set after it is
    created. Before `open` is called, the attribute ``directory`` is set to the run directory, whose
    ``config.json`` holds the config.
    """

    name: str
    every_n_steps: int

    def open(self, first_step: int) -> int | None:
        """Prepares the sink. Called before all other methods, and again until it succeeds.

        Args:
            first_step: 0 for a new run. For a resumed run, the first step that will be sent. The
                sink may already have this step and later ones; it must not store them twice.

        Returns:
            0 if the sink has lost values that it received before, so that everything must be sent
            again from the first step; else ``None``.
        """

    def has_everything(self, status: RunStatus) -> bool:
        """Whether the sink still stores the whole run and its final status. Checks the storage
        itself, for example by asking the server.

        Raises:
            Exception: the storage cannot be reached, or the user must solve a problem first.
        """

    def write(self, points: Sequence[Point]) -> None:
        """Stores the next points, which come in the order of the ledger."""

    def add_file(self, kind: str, path: Path, step: int) -> None:
        """Stores a file that the run writes once per epoch.

        Args:
            kind: "examples" or "loss_maps" for a PNG image, or "histograms" for an NPZ file. A sink
                should ignore other kinds, because later versions may add some.
            path: The file.
            step: The last step of the epoch.
        """

    def close(self, status: RunStatus, reason: str) -> None:
        """Stores the final status of the run. Called after all points, and again until it succeeds.

        Args:
            status: The final status.
            reason: The message of the error that ended the run; empty if there was no error.
        """


class Follower:
    """Reads the ledger of a run while it grows and sends the rows to one sink, in its own thread.

    Its cursor advances only after the sink has accepted the points. A call that fails is repeated
    later, and training continues meanwhile.

    Args:
        sink: The sink to send points to.
        directory: The run directory.
        poll_seconds: Seconds to wait before the ledger is read again.
        resume: Continue from the cursor that an earlier process saved for this sink.

    Raises:
        RunError: the sink's ``every_n_steps`` is below 1.
    """

    def __init__(
        self, sink: Sink, directory: RunDirectory, poll_seconds: float = 1.0, resume: bool = False
    ) -> None:
        if sink.every_n_steps < 1:
            raise RunError(
                f"every_n_steps of {sink.name} is {sink.every_n_steps}; it must be 1 or more."
            )
        self.sink = sink
        # Optional: sinks written for earlier versions do not have it.
        self._takes_means = getattr(sink, "takes_means", False)
        self._directory = directory
        self._poll_seconds = poll_seconds
        self._cursor = Cursor(directory, sink.name)
        self._first_step = 0
        self._was_behind = self._cursor.is_behind
        if resume:
            window = sink.every_n_steps if self._takes_means else None
            self._first_step = self._cursor.rewind(window)
        self._read_from_cursor()
        self._opened = False
        self._warned = False
        self._closed = False
        self._status: RunStatus = "FINISHED"
        self._reason = ""
        self._tags: deque[tuple[str, str]] = deque()
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"nectargan-{sink.name}", daemon=True
        )

    def start(self) -> None:
        """Starts the thread; raises OSError if the run directory cannot be written."""
        # Written at once, so that `sync` finds the sink even if it never becomes reachable.
        self._cursor.save()
        self._thread.start()
        end_before_exit(self._thread)

    def lacks_something(self, status: RunStatus) -> bool:
        """Whether part of a run that ended with ``status`` is missing from the sink.

        Raises:
            Exception: any error of the sink's `has_everything`.
        """
        asked = getattr(self.sink, "has_everything", None)
        return self._was_behind or (asked is not None and not asked(status))

    def tag(self, key: str, value: str) -> None:
        """Queues a tag of the run, which the thread passes to the sink."""
        if hasattr(self.sink, "tag"):
            self._tags.append((key, value))

    def finish(self, status: RunStatus, reason: str = "") -> None:
        """Tells the thread to send the remaining points, set the status and end; see `wait`."""
        self._status, self._reason = status, reason
        self._stopping.set()

    def catch_up(self, status: RunStatus, reason: str = "") -> None:
        """Sends the remaining points and sets the status in the calling thread.

        Raises:
            Exception: any error of the sink. A later call continues where it failed.
        """
        self._status, self._reason = status, reason
        self._cursor.save()
        self._end()

    def wait(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds for the thread; afterwards it makes no more attempts.

        Returns:
            Whether the sink has received everything, including the final status.
        """
        self._thread.join(timeout)
        self._abandoned.set()
        return self._closed

    def _run(self) -> None:
        while True:
            self._try(self._catch_up)
            if self._stopping.wait(self._poll_seconds):
                break
        # The ledger is complete now. Retry until everything is sent or `wait` has timed out.
        while not self._try(self._end):
            if self._abandoned.wait(self._poll_seconds):
                break

    def _read_from_cursor(self) -> None:
        """Continues reading at the cursor, which may be behind what was already read."""
        every, path = self.sink.every_n_steps, self._directory.losses
        self._read = dict(self._cursor.offsets)
        # For each ledger, the type of its rows and what makes points of them.
        self._ledgers: dict[str, tuple[Any, Any]] = {
            LOSSES_FILE: (LossRow, SingleSteps[LossRow](every)),
            GRADIENTS_FILE: (GradientRow, SingleSteps[GradientRow](every)),
            METRICS_FILE: (MetricRow, EveryRow()),
        }
        if self._takes_means:
            counts = count_nonfinite(path, self._read[LOSSES_FILE])
            self._ledgers[LOSSES_FILE] = LossRow, WindowMeans(every, counts)
            self._ledgers[GRADIENTS_FILE] = GradientRow, EpochMeans()

    def _end(self) -> None:
        self._catch_up(at_the_end=True)
        self.sink.close(self._status, self._reason)
        self._cursor.status = self._status
        self._cursor.save()
        self._closed = True

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:
            # An error of a tracker or of the network must not stop the training.
            if not self._warned:
                reason = without_credentials(one_line(error))
                log.warning("%s is behind: %s", self.sink.name, reason)
                traces.warning("%s is behind", self.sink.name, exc_info=True)
            self._warned = True
            return False
        if self._warned:
            log.warning("%s is back", self.sink.name)
        self._warned = False
        return True

    def _catch_up(self, at_the_end: bool = False) -> None:
        if not self._opened:
            if self.sink.open(self._first_step) == 0:
                self._cursor.reset()
                self._read_from_cursor()
            self._opened = True
        try:
            for file, (_, points) in self._ledgers.items():
                self._follow(file)
                if at_the_end:
                    self._forward(file, points.close(), self._read[file])
        except Exception:
            # The points that the sink did not accept are read and sent again.
            self._read_from_cursor()
            raise
        while self._tags:
            self.sink.tag(*self._tags[0])  # type: ignore[attr-defined]  # a sink need not have it
            self._tags.popleft()
        for name in self._directory.epoch_files():
            if name not in self._cursor.files:
                kind = name.partition("/")[0]
                self.sink.add_file(kind, self._directory / name, step_of(name) or 0)
                self._cursor.files.add(name)
                self._cursor.save()

    def _follow(self, file: str) -> None:
        path = self._directory / file
        if not path.exists():
            return
        row_type, points = self._ledgers[file]
        for lines, end in read_blocks(path, self._read[file]):
            rows = rows_in(row_type, lines, self._read[file])
            self._forward(
                file, [point for row, offset in rows for point in points.take(row, offset)], end
            )

    def _forward(self, file: str, points: Sequence[Point], end: int) -> None:
        """Sends the points of the rows before the byte ``end``, and moves the cursor."""
        if points:
            self.sink.write(points)
        self._read[file] = end
        taken = self._ledgers[file][1].begin(end)
        if points or taken != self._cursor.offsets[file]:
            self._cursor.offsets[file] = taken
            self._cursor.save()
