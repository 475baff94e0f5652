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
from nectargan.distributed import ALONE, World
from nectargan.errors import PeerError, PrunedError, RunError
from nectargan.interrupts import is_second, uninterrupted
from nectargan.losses.lm_data import GradientEvent, LossEvent, MetricEvent, check_series_name
from nectargan.output import printable
from nectargan.record.follower import Follower, Sink
from nectargan.record.ledger import GradientRow, Ledger, LossRow, MetricRow, mean_losses
from nectargan.record.lineage import ledgers_of
from nectargan.record.loss_tags import write_loss_tags
from nectargan.record.recorder import Clock, LossRecorder
from nectargan.record.run_directory import LOSSES_FILE, RunDirectory, RunStatus
from nectargan.record.running_means import RunningMeans, StepValues
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

    def register_metric_hook(self, fn: Callable[[MetricEvent], object]) -> Any:
        """As `register_hook`, for `MetricEvent`."""

    def register_gradient_hook(
        self, fn: Callable[[GradientEvent], object], every_n_steps: int = 1
    ) -> Any:
        """As `register_hook`, for the `GradientEvent` of every n-th step."""

    def get_registered_losses(self, query: Iterable[str] | None = None) -> Mapping[str, Any]:
        """The losses by name; if ``query`` is given, only those that have one of its tags."""


class Tracker:
    """A context manager that records one run.

    On entry it opens the ledger in ``directory``, registers the hooks of a `LossRecorder` with the
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
        gradients_every_n_steps: Steps from one record of the gradients to the next, which
            `LossManager.gradients_at` measures; ``None`` for no gradients.
        world: The processes that share each batch. Each needs a tracker, and only that of the main
            one writes.

    Attributes:
        watch: Detects losses that are not finite, as soon as their rows are written.
        means: The means of metrics and pairwise cosines so far, which a checkpoint must hold.
        reason: Why the run ends, if it ends without an error and there is something to say.

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
        gradients_every_n_steps: int | None = 1,
        world: World = ALONE,
    ) -> None:
        self._keeps_status = keeps_status
        self._held = ExitStack()
        self.directory = RunDirectory(directory)
        self._drain_seconds = drain_seconds
        self.sinks = list(sinks)
        self._manager = loss_manager
        self._csv = csv
        self._clock = Clock()
        self._recorder = LossRecorder(
            self._write_losses,
            window_steps,
            window_seconds,
            self._clock,
            self._write_gradients,
            self._write_means,
            world,
        )
        self._writes = csv and world.is_main
        self.means = RunningMeans(window_steps)
        self._gradients_every_n_steps = gradients_every_n_steps
        self.watch = NonFiniteWatch()
        self.reason = ""
        self._watchers = [self.watch.look, *watchers]
        self._resume = resume
        self._followers = [Follower(sink, self.directory, resume=resume) for sink in self.sinks]
        self._losses: Ledger | None = None
        self._metrics: Ledger | None = None
        self._gradients: Ledger | None = None
        self._handles: list[Any] = []
        self._tagged = 0

    def __enter__(self) -> Tracker:
        try:
            self._open()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def _open(self) -> None:
        if self._writes:
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
        self._register_hooks()
        for follower in self._followers:
            follower.start()

    def _close(self, error: BaseException | None) -> None:
        """Closes the ledger, and lets the followers send the remaining rows."""
        for handle in self._handles:
            handle.remove()
        for ledger in self._ledgers():
            ledger.close()
        for follower in self._followers:
            follower.finish(*self._end(error))

    def _register_hooks(self) -> None:
        manager, recorder = self._manager, self._recorder
        self._handles.append(manager.register_hook(recorder))
        self._handles.append(manager.register_metric_hook(recorder.note_metric))
        every = self._gradients_every_n_steps
        if every is not None and self._csv:
            self._handles.append(manager.register_gradient_hook(recorder.note_gradients, every))

    def _open_ledgers(self) -> None:
        self._losses = Ledger(self.directory.losses, LossRow, self._resume)
        self._metrics = Ledger(self.directory.metrics, MetricRow, self._resume)
        if self._resume and self.directory.gradients.exists():
            self._gradients = Ledger(self.directory.gradients, GradientRow, resume=True)
        for ledger in self._ledgers():
            for path in ledgers_of(self.directory, ledger.path.name):
                self._clock.go_on_from(last_time(path))

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
        self._write_metrics(StepValues(step, epoch, now, values, {}))

    def end_epoch(self, step: int, epoch: int, values: Mapping[str, float] | None = None) -> None:
        """Appends the measurements of a finished epoch to ``metrics.csv``, with the means of the
        unfinished window of steps and those of the pairwise cosines; see `RunningMeans`.

        Calling it is optional. Without it, the window goes on until the next epoch begins or the
        tracker is closed, and there are no means of cosines.

        Args:
            step: As in `log_metrics`.
            epoch: As in `log_metrics`.
            values: As in `log_metrics`.

        Raises:
            LossError: as from `log_metrics`.
            RunError: as from `log_metrics`.
        """
        self.flush()
        self.log_metrics(step, epoch, {**(values or {}), **self.means.end_epoch()})

    def mean_losses_since(self, first_step: int) -> dict[str, float]:
        """Mean raw value of each loss over the written rows from ``first_step`` on; see
        `mean_losses`. The keys are ``epoch/loss/<name>``. Empty without a ledger."""
        if self._losses is None:
            return {}
        self._losses.require_untouched()
        means = mean_losses(ledgers_of(self.directory, LOSSES_FILE), first_step)
        return {f"epoch/loss/{loss}": mean for loss, mean in means.items()}

    def sizes(self) -> dict[str, int]:
        """Size of each ledger in bytes, by file name."""
        return {each.path.name: each.size for each in self._ledgers()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each ledger in hexadecimal, by file name."""
        return {each.path.name: each.digest for each in self._ledgers()}

    def _ledgers(self) -> list[Ledger]:
        ledgers = (self._losses, self._metrics, self._gradients)
        return [each for each in ledgers if each is not None]

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
                        rest = self.means.end_epoch()
                        self._write_metrics(StepValues(*self.means.last, rest, {}))
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
                            self.directory.write_status(*self._end(error))

    def _end(self, error: BaseException | None) -> tuple[RunStatus, str]:
        """The final status and its reason."""
        return status_of(error), self.reason if error is None else reason_of(error)

    def _wait_for_followers(self, error: BaseException | None) -> None:
        # After an interrupt the user does not want to wait; `nectargan sync` sends the rest.
        patience = self._drain_seconds
        if status_of(error) == "KILLED" or isinstance(error, PeerError):
            # The launcher kills what is left when another process has ended.
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

    def _write_gradients(self, rows: list[GradientRow]) -> None:
        if self._losses is None:
            return
        if self._gradients is None:
            # Created only now, because most custom loops record no gradients.
            self._gradients = Ledger(self.directory.gradients, GradientRow)
        self._gradients.append(rows)

    def _write_means(self, steps: list[StepValues]) -> None:
        for step in steps:
            for means in self.means.add(step):
                self._write_metrics(means)

    def _write_metrics(self, at: StepValues) -> None:
        if self._metrics is not None:
            place = at.step, at.epoch, at.time
            self._metrics.append(MetricRow(*place, k, float(v)) for k, v in at.metrics.items())

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
    ends = (KeyboardInterrupt, SystemExit, PrunedError)
    return "KILLED" if isinstance(error, ends) else "FAILED"


def reason_of(error: BaseException | None) -> str:
    """Type and message of the error that ended a run; empty for an interrupt or no error."""
    if error is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
        return ""
    kind = "" if isinstance(error, (PeerError, PrunedError)) else f"{type(error).__name__}: "
    text = printable(one_line(f"{kind}{error}"))
    return without_credentials(text)[:1000]
