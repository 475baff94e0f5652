"""What a sink is, and the `Follower` thread that feeds it from the ledger.

To add a logger, write a class with the methods of `Sink` and name it in ``logging.sinks`` of a
config, or give it to `nectargan.track`; docs/extending.md has an example.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nectargan.credentials import without_credentials
from nectargan.errors import RunError
from nectargan.interrupts import end_before_exit
from nectargan.record.cursor import Cursor
from nectargan.record.ledger import LossRow, MetricRow, read_blocks, rows_in
from nectargan.record.points import (
    Point,
    SingleSteps,
    WindowMeans,
    count_nonfinite,
)
from nectargan.record.run_directory import (
    LOSSES_FILE,
    METRICS_FILE,
    RunDirectory,
    RunStatus,
    step_of,
)
from nectargan.wording import in_short

log = logging.getLogger("nectargan")


class Sink(Protocol):
    """A place that values are forwarded to. All methods run in the follower's thread.

    What a method raises is reported once; the same call comes again later.

    Attributes:
        name: What messages call it.
        every_n_steps: Steps from one point of a loss to the next.

    A sink may also have ``takes_means``: whether a point of a loss is the mean of the steps since
    the one before, see `WindowMeans`. Without it a point is the loss of its step: `SingleSteps`.
    Without `has_everything`, a sink is believed to have what it took.

    And it may have ``tag(key, value)``, which takes a note about the run, and ``reference``, by
    which the place of the run in the sink is found again; checkpoints keep it.

    A sink of one's own is told ``name`` and ``every_n_steps`` after it was made, and before it is
    opened the attribute ``directory``, the run directory, where ``config.json`` has the config.
    """

    name: str
    every_n_steps: int

    def open(self, first_step: int) -> int | None:
        """Makes the sink ready; called before everything else, until it succeeds once.

        ``first_step`` is 0 for a new run. For one that is resumed, it is the first step that comes
        (again): what the sink has of it and of later ones is to be replaced or kept, not doubled.

        Returns:
            0 if everything is to come anew, from the first step on, because the sink lacks what it
            was given once; else ``None``.
        """

    def has_everything(self, status: RunStatus) -> bool:
        """Whether the sink has all of the run and its status; looks where it keeps them.

        Raises:
            Exception: it cannot be reached, or something is in the way that a person must decide.
        """

    def write(self, points: Sequence[Point]) -> None:
        """Takes the next points, in the order of the ledger."""

    def add_file(self, kind: str, path: Path, step: int) -> None:
        """Takes a file that the run makes once an epoch.

        ``kind`` is "examples" or "loss_maps", PNG pictures, or "histograms", an NPZ file; there may
        be more kinds one day, and a sink passes over those that it does not know.
        """

    def close(self, status: RunStatus, reason: str) -> None:
        """Ends the record with the true status, and the message of the error that ended the run if
        one did; called after all points, until it succeeds once."""


class Follower:
    """Reads the ledger of a run behind its writer and feeds one sink, in a thread of its own.

    It has its own cursor, and moves it on only when the sink has taken what was read: a sink that
    fails is tried again, and training goes on meanwhile.

    Args:
        sink: Where to forward to.
        directory: The run directory.
        poll_seconds: Pause between two looks at the ledger.
        go_on: Go on where a follower of the same sink stopped, in an earlier process.

    Raises:
        RunError: the sink's ``every_n_steps`` is below 1.
    """

    def __init__(
        self, sink: Sink, directory: RunDirectory, poll_seconds: float = 1.0, go_on: bool = False
    ) -> None:
        if sink.every_n_steps < 1:
            raise RunError(
                f"every_n_steps of {sink.name} is {sink.every_n_steps}; it must be 1 or more."
            )
        self.sink = sink
        # Sinks written before there were means and questions have neither.
        self._takes_means = getattr(sink, "takes_means", False)
        self._directory = directory
        self._poll_seconds = poll_seconds
        self._cursor = Cursor(directory, sink.name)
        self._first_step = 0
        self._was_behind = self._cursor.is_behind
        if go_on:
            self._first_step = self._cursor.rewind(sink.every_n_steps if self._takes_means else 1)
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
        # That there is a sink is on disk even if it is never reached.
        self._cursor.save()
        self._thread.start()
        end_before_exit(self._thread)

    def lacks_something(self, status: RunStatus) -> bool:
        """Whether the sink lacks something of a run that ended with ``status``.

        Raises:
            Exception: whatever the sink raises when it is asked.
        """
        asked = getattr(self.sink, "has_everything", None)
        return self._was_behind or (asked is not None and not asked(status))

    def tag(self, key: str, value: str) -> None:
        """Hands a note about the run to the sink, soon, in the thread."""
        if hasattr(self.sink, "tag"):
            self._tags.append((key, value))

    def finish(self, status: RunStatus, reason: str = "") -> None:
        """Asks the thread to forward what is left, set the status and end; see `wait`."""
        self._status, self._reason = status, reason
        self._stopping.set()

    def catch_up(self, status: RunStatus, reason: str = "") -> None:
        """Forwards what is left and sets the status, here and now, without the thread.

        Raises:
            Exception: whatever the sink raises; what it took before is not sent again.
        """
        self._status, self._reason = status, reason
        self._cursor.save()
        self._end()

    def wait(self, timeout: float) -> bool:
        """Waits for the thread, ``timeout`` seconds at most, then gives it up.

        Returns:
            Whether the sink has everything, its status included.
        """
        self._thread.join(timeout)
        self._abandoned.set()
        return self._closed

    def _run(self) -> None:
        while True:
            self._try(self._catch_up)
            if self._stopping.wait(self._poll_seconds):
                break
        # The ledger is complete now: forward what came last, until nobody waits any more.
        while not self._try(self._end):
            if self._abandoned.wait(self._poll_seconds):
                break

    def _read_from_cursor(self) -> None:
        """Reads on from what the sink has, whatever was read since."""
        every, path = self.sink.every_n_steps, self._directory.losses
        self._read = dict(self._cursor.offsets)
        self._losses: SingleSteps | WindowMeans = SingleSteps(every)
        if self._takes_means:
            self._losses = WindowMeans(every, count_nonfinite(path, self._read[LOSSES_FILE]))

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
            # Whatever a tracker or its network does, it must not reach the training.
            if not self._warned:
                reason = without_credentials(in_short(error))
                log.warning("%s is behind: %s", self.sink.name, reason)
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
            self._follow(LOSSES_FILE, self._points_of_losses)
            if at_the_end:
                self._forward(LOSSES_FILE, self._losses.close(), self._read[LOSSES_FILE])
            self._follow(METRICS_FILE, self._points_of_metrics)
        except Exception:
            # What the sink did not take comes again.
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

    def _follow(self, file: str, points_of: Callable[[bytes, int], list[Point]]) -> None:
        path = self._directory / file
        if not path.exists():
            return
        for lines, end in read_blocks(path, self._read[file]):
            points = points_of(lines, self._read[file])
            self._forward(file, points, end)

    def _forward(self, file: str, points: Sequence[Point], end: int) -> None:
        """Hands on the points of what was read up to a byte."""
        if points:
            self.sink.write(points)
        self._read[file] = end
        taken = self._losses.begin(end) if file == LOSSES_FILE else end
        if points or taken != self._cursor.offsets[file]:
            self._cursor.offsets[file] = taken
            self._cursor.save()

    def _points_of_losses(self, lines: bytes, begin: int) -> list[Point]:
        rows = rows_in(LossRow, lines, begin)
        return [point for row, offset in rows for point in self._losses.take(row, offset)]

    def _points_of_metrics(self, lines: bytes, begin: int) -> list[Point]:
        rows = rows_in(MetricRow, lines, begin)
        return [Point(row.metric, row.value, row.step, row.time) for row, _ in rows]
