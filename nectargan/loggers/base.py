"""What a sink is, and the `Follower` thread that feeds it from the ledger.

To add a logger, write a class with the methods of `Sink` and hand it to a `Tracker`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from nectargan.credentials import without_credentials
from nectargan.errors import RunError
from nectargan.interrupts import end_before_exit
from nectargan.loggers.cursor import Cursor
from nectargan.loggers.epoch_files import list_epoch_files, step_of
from nectargan.loggers.ledger import LOSSES_FILE, METRICS_FILE, read_blocks

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger("nectargan")


class Point(NamedTuple):
    """One value of one series.

    Attributes:
        series: ``loss/<name>/raw``, ``loss/<name>/weighted``, ``weight/<name>``, ``lr/<network>``,
            ``val/<metric>`` or ``time/<what>``.
        value: The value in the CSV file.
        step: Step, from 1.
        time: Unix time in milliseconds.
    """

    series: str
    value: float
    step: int
    time: int


class Sink(Protocol):
    """A place that values are forwarded to. All methods run in the follower's thread.

    What a method raises is reported once; the same call comes again later.

    Attributes:
        name: What messages call it.
        every_n_steps: Losses are forwarded in the first step and in multiples of this one.
    """

    name: str
    every_n_steps: int

    def open(self, first_step: int) -> None:
        """Makes the sink ready; called before everything else, until it succeeds once.

        ``first_step`` is 0 for a new run. For one that is resumed, it is the first step that comes
        (again): what the sink has of it and of later ones is to be replaced or kept, not doubled.
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
        self, sink: Sink, directory: Path, poll_seconds: float = 1.0, go_on: bool = False
    ) -> None:
        if sink.every_n_steps < 1:
            raise RunError(
                f"every_n_steps of {sink.name} is {sink.every_n_steps}; it must be 1 or more."
            )
        self.sink = sink
        self._directory = directory
        self._poll_seconds = poll_seconds
        self._cursor = Cursor(directory, sink.name)
        self._first_step = 0
        if go_on:
            self._first_step = self._cursor.rewind()
        self._opened = False
        self._warned = False
        self._closed = False
        self._status: RunStatus = "FINISHED"
        self._reason = ""
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

    @property
    def is_behind(self) -> bool:
        """Whether the sink lacks something, if only its status."""
        return self._cursor.is_behind

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

    def _end(self) -> None:
        self._catch_up()
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
                reason = without_credentials(" ".join(str(error).split()))
                log.warning("%s is behind: %s", self.sink.name, reason)
            self._warned = True
            return False
        if self._warned:
            log.warning("%s is back", self.sink.name)
        self._warned = False
        return True

    def _catch_up(self) -> None:
        if not self._opened:
            self.sink.open(self._first_step)
            self._opened = True
        cursor = self._cursor
        for file in (LOSSES_FILE, METRICS_FILE):
            path = self._directory / file
            if not path.exists():
                continue
            for lines, offset in read_blocks(path, cursor.offsets[file]):
                points = list(self._points(file, lines))
                if points:
                    self.sink.write(points)
                cursor.offsets[file] = offset
                cursor.save()
        for name in list_epoch_files(self._directory):
            if name not in cursor.files:
                kind = name.partition("/")[0]
                self.sink.add_file(kind, self._directory / name, step_of(name) or 0)
                cursor.files.add(name)
                cursor.save()

    def _points(self, file: str, lines: bytes) -> Iterator[Point]:
        for line in lines.decode("utf-8").splitlines():
            first, _, rest = line.partition(",")
            if first == "step":
                continue
            step = int(first)
            if file == METRICS_FILE:
                _, time, metric, value = rest.split(",")
                yield Point(metric, float(value), step, int(time))
                continue
            _, time, loss, raw, weight, weighted = rest.split(",")
            # What went wrong is forwarded whenever it did.
            is_due = step == 1 or step % self.sink.every_n_steps == 0
            if is_due or not math.isfinite(float(raw)):
                yield Point(f"loss/{loss}/raw", float(raw), step, int(time))
                yield Point(f"loss/{loss}/weighted", float(weighted), step, int(time))
                yield Point(f"weight/{loss}", float(weight), step, int(time))
