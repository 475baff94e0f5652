"""`Tracker`: records the losses of a loss manager in the ledger and sends them to the sinks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from os import PathLike
from types import TracebackType
from typing import Any, Protocol

from nectargan.credentials import without_credentials
from nectargan.defaults import WINDOW_SECONDS, WINDOW_STEPS
from nectargan.errors import RunError
from nectargan.interrupts import is_second, uninterrupted
from nectargan.losses.lm_data import LossEvent, check_series_name
from nectargan.output import printable
from nectargan.record.follower import Follower, Sink
from nectargan.record.ledger import Ledger, LossRow, MetricRow, mean_losses
from nectargan.record.loss_tags import write_loss_tags
from nectargan.record.recorder import Clock, LossRecorder
from nectargan.record.run_directory import RunDirectory, RunStatus
from nectargan.record.seeking import last_time
from nectargan.record.watchers import NonFiniteWatch
from nectargan.shell import quoted
from nectargan.wording import one_line

_PATIENCE = 5.0  # seconds to wait for sinks after an interrupt

log = logging.getLogger("nectargan")


class HasHooks(Protocol):
    """The methods of `LossManager` that a tracker uses."""

    def register_hook(self, fn: Callable[[LossEvent], object]) -> Any:
        """Registers ``fn`` and returns a handle that has a ``remove()`` method."""

    def get_registered_losses(self, query: Iterable[str] | None = None) -> Mapping[str, Any]:
        """The losses by name; if ``query`` is given, only those that have one of its tags."""


class Tracker:
    """A context manager that records one run.

    On entry it opens the ledger in ``directory``, registers a `LossRecorder` as a hook of the
    manager and starts a `Follower` for each sink. On exit it writes all rows, waits for the sinks
    and gives them the status of the run: KILLED if the ``with`` block ended with KeyboardInterrupt
    or SystemExit, FAILED for any other exception, else FINISHED.

    Args:
        loss_manager: The manager whose losses are recorded.
        directory: The run directory; created if it does not exist.
        sinks: The sinks that receive the rows of the ledger.
        csv: Whether to write a ledger; must be true if there are sinks.
        window_steps: See `LossRecorder`.
        window_seconds: See `LossRecorder`.
        resume: Append to the ledger that is in ``directory``.
        drain_seconds: Maximum time to wait at the end for sinks that are behind, in seconds.
        watchers: Called with the rows of each window after they are written.
        keeps_status: Whether to lock the directory and to write ``status.json``, which
            ``nectargan runs`` reads. Leave it off if the caller does both itself.

    Attributes:
        watch: Detects losses that are not finite, as soon as their rows are written.

    Raises:
        RunError: on entry, if the directory holds a ledger already or cannot be written.
    """

    def __init__(
        self,
        loss_manager: HasHooks,
        directory: str | PathLike[str],
        sinks: Iterable[Sink] = (),
        csv: bool = True,
        window_steps: int = WINDOW_STEPS,
        window_seconds: float = WINDOW_SECONDS,
        resume: bool = False,
        drain_seconds: float = 30.0,
        watchers: Iterable[Callable[[list[LossRow]], object]] = (),
        keeps_status: bool = False,
    ) -> None:
        self._keeps_status = keeps_status
        self._held = ExitStack()
        self.directory = RunDirectory(directory)
        self._drain_seconds = drain_seconds
        self.sinks = list(sinks)
        self._manager = loss_manager
        self._csv = csv
        self._clock = Clock()
        self._recorder = LossRecorder(self._write_losses, window_steps, window_seconds, self._clock)
        self.watch = NonFiniteWatch()
        self._watchers = [self.watch.look, *watchers]
        self._resume = resume
        self._followers = [Follower(sink, self.directory, resume=resume) for sink in self.sinks]
        self._losses: Ledger | None = None
        self._metrics: Ledger | None = None
        self._handle: Any = None
        self._tagged = 0

    def __enter__(self) -> Tracker:
        try:
            self._open()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def _open(self) -> None:
        if self._csv:
            try:
                self.directory.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"'{self.directory}' cannot be created: {error.strerror}.") from None
            with ExitStack() as held:
                if self._keeps_status:
                    held.enter_context(self.directory.lock())
                self._open_ledgers()
                if self._keeps_status:
                    self.directory.write_status("RUNNING")
                # Nothing failed: keep the lock until the run ends.
                self._held = held.pop_all()
        self._handle = self._manager.register_hook(self._recorder)
        for follower in self._followers:
            follower.start()

    def _close(self, error: BaseException | None) -> None:
        """Closes the ledger, and lets the followers send the remaining rows."""
        if self._handle is not None:
            self._handle.remove()
        for ledger in self._ledgers():
            ledger.close()
        for follower in self._followers:
            follower.finish(status_of(error), reason_of(error))

    def _open_ledgers(self) -> None:
        self._losses = Ledger(self.directory.losses, LossRow, self._resume)
        self._metrics = Ledger(self.directory.metrics, MetricRow, self._resume)
        for ledger in self._ledgers():
            self._clock.go_on_from(last_time(ledger.path))

    @property
    def last(self) -> Mapping[str, LossRow]:
        """The last row of each loss that was written, by name. It may be one or two windows old;
        reading it does not wait for the device."""
        return self._recorder.last

    def log_metrics(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Appends measurements to ``metrics.csv``.

        Args:
            step: Step, from 1.
            epoch: Epoch, from 1.
            values: Values by name of the series, such as ``val/ssim`` or ``lr/generator``.

        Raises:
            LossError: the name of a series is not allowed.
            RunError: the file cannot be written.
        """
        now = self._clock()
        for name in values:
            check_series_name(name)
        if self._metrics is not None:
            self._metrics.append(
                MetricRow(step, epoch, now, name, float(value)) for name, value in values.items()
            )

    def mean_losses_since(self, first_step: int) -> dict[str, float]:
        """Mean raw value of each loss over the written rows from ``first_step`` on; see
        `mean_losses`. The keys are ``epoch/loss/<name>``. Empty without a ledger."""
        if self._losses is None:
            return {}
        self._losses.require_untouched()
        means = mean_losses(self._losses.path, first_step)
        return {f"epoch/loss/{loss}": mean for loss, mean in means.items()}

    def sizes(self) -> dict[str, int]:
        """Size of each ledger in bytes, by file name."""
        return {each.path.name: each.size for each in self._ledgers()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each ledger in hexadecimal, by file name."""
        return {each.path.name: each.digest for each in self._ledgers()}

    def _ledgers(self) -> list[Ledger]:
        return [each for each in (self._losses, self._metrics) if each is not None]

    def tag(self, key: str, value: str) -> None:
        """Adds a tag to the run in all sinks that support tags; sent by their threads."""
        for follower in self._followers:
            follower.tag(key, value)

    def reference(self, sink: str) -> dict[str, str] | None:
        """The ``reference`` of the sink with this name; see `Sink`. ``None`` if it has none yet."""
        found = [getattr(each, "reference", None) for each in self.sinks if each.name == sink]
        return found[0] if found else None

    def flush(self) -> None:
        """Writes every loss computed so far; waits for the device."""
        with uninterrupted():
            self._recorder.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with uninterrupted():
                try:
                    self._recorder.flush()
                    if error is None:
                        for ledger in self._ledgers():
                            ledger.check()
                except BaseException as failure:
                    error = error or failure
                    raise
                finally:
                    self._close(error)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            error = interrupt
            raise
        finally:
            with self._held:
                try:
                    self._wait_for_followers(error)
                finally:
                    if self._keeps_status:
                        with suppress(OSError):  # a full disk must not hide what ended the run
                            self.directory.write_status(status_of(error), reason_of(error))

    def _wait_for_followers(self, error: BaseException | None) -> None:
        # After an interrupt the user does not want to wait; `nectargan sync` sends the rest.
        patience = self._drain_seconds
        if status_of(error) == "KILLED":
            patience = 0.0 if is_second(error) else min(patience, _PATIENCE)
        deadline = time.monotonic() + patience
        try:
            for follower in self._followers:
                follower.wait(max(0.0, deadline - time.monotonic()))
        finally:
            self._tell_who_is_behind()

    def _tell_who_is_behind(self) -> None:
        for follower in self._followers:
            if not follower.wait(0.0):
                # A run of `track` has no config, which `nectargan sync` needs.
                rest = f"; to send the rest: nectargan sync {quoted(self.directory)}"
                log.warning(
                    "%s did not get everything; the CSV files are complete%s",
                    follower.sink.name,
                    "." if self._keeps_status else rest,
                )

    def _write_losses(self, rows: list[LossRow]) -> None:
        if self._losses is not None:
            self._losses.append(rows)
            if len(self._recorder.tags) > self._tagged:
                write_loss_tags(self.directory.loss_tags, self._recorder.tags)
                self._tagged = len(self._recorder.tags)
        for watcher in self._watchers:
            watcher(rows)


def status_of(error: BaseException | None) -> RunStatus:
    """The final status of a run that ended with ``error``; ``None`` means without one."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED"


def reason_of(error: BaseException | None) -> str:
    """Type and message of the error that ended a run; empty for an interrupt or no error."""
    if error is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
        return ""
    text = printable(one_line(f"{type(error).__name__}: {error}"))
    return without_credentials(text)[:1000]
