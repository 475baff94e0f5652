"""Shows the progress of a run: a live display on a terminal, otherwise one line per epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nectargan.output import make_console, printable, say
from nectargan.record.ledger import LossRow
from nectargan.record.run_directory import RunDirectory
from nectargan.trainers.lines import duration, losses_line, metrics_line

_REFRESH_SECONDS = 0.25
_LINE_SECONDS = 60.0


class Display(Protocol):
    """Shows the progress of a run."""

    def start(self, directory: RunDirectory, epochs: int, steps_per_epoch: int) -> None:
        """Called when the run starts."""

    def step(self, epoch: int, step: int, losses: Mapping[str, LossRow]) -> None:
        """Called after each step. ``losses`` are the last recorded rows, which are on the CPU."""

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Called at the end of each epoch."""

    def stop(self) -> None:
        """Called at the end of the run, also after an error."""


def make_display() -> Display:
    """Returns a display for standard output."""
    return LiveDisplay() if sys.stdout is not None and sys.stdout.isatty() else PlainDisplay()


class SafeDisplay:
    """Wraps a display. If its output can no longer be written, the run continues without it."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._is_lost = False

    def start(self, directory: RunDirectory, epochs: int, steps_per_epoch: int) -> None:
        """Calls the method of the wrapped display, as all methods do."""
        self._call(self._display.start, directory, epochs, steps_per_epoch)

    def step(self, epoch: int, step: int, losses: Mapping[str, LossRow]) -> None:
        self._call(self._display.step, epoch, step, losses)

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._call(self._display.epoch_end, epoch, metrics)

    def stop(self) -> None:
        self._call(self._display.stop)

    def _call(self, method: Callable[..., None], *args: object) -> None:
        if self._is_lost:
            return
        try:
            method(*args)
        except (OSError, UnicodeError):
            self._is_lost = True
            with suppress(OSError, UnicodeError):
                self._display.stop()


class PlainDisplay:
    """Prints a line at the start, at the end of each epoch, and each minute of a long epoch."""

    def start(self, directory: RunDirectory, epochs: int, steps_per_epoch: int) -> None:
        """Prints the run directory."""
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._rows: Mapping[str, LossRow] = {}
        self._began = self._last_line = time.monotonic()
        self._first: int | None = None
        say(f"Training in {directory}")

    def step(self, epoch: int, step: int, losses: Mapping[str, LossRow]) -> None:
        """Stores the rows for the next line; prints one if the last was a minute ago."""
        self._rows = losses
        now = time.monotonic()
        if now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            total = self._epochs * self._steps_per_epoch
            say(f"epoch {epoch}/{self._epochs}  step {step}/{total}  {losses_line(losses)}")
        # The first epoch of this process, which may have resumed the run.
        self._first = epoch if self._first is None else self._first

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Prints the losses and metrics of the epoch."""
        done = epoch - (self._first or epoch) + 1
        self._last_line = time.monotonic()
        left = (self._last_line - self._began) / done * (self._epochs - epoch)
        say(
            f"epoch {epoch}/{self._epochs}  {losses_line(self._rows)}  {metrics_line(metrics)}  "
            f"{duration(left)} left"
        )

    def stop(self) -> None:
        """Does nothing."""


class LiveDisplay:
    """Shows a progress bar with the losses below it, and a line per epoch above it."""

    def start(self, directory: RunDirectory, epochs: int, steps_per_epoch: int) -> None:
        """Starts the display."""
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._drawn = 0.0
        self._rows: Mapping[str, LossRow] = {}
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left {task.fields[speed]}"),
        )
        self._task: TaskID = self._bar.add_task(
            "", total=epochs * steps_per_epoch, epoch=1, speed=""
        )
        self._losses = Text()
        self._live = Live(
            Group(self._bar, self._losses), console=make_console(), refresh_per_second=4
        )
        self._live.console.print(f"Training in {directory}", highlight=False)
        self._live.start()

    def step(self, epoch: int, step: int, losses: Mapping[str, LossRow]) -> None:
        """Updates the bar, at most a few times per second."""
        self._rows = losses
        now = time.monotonic()
        if now - self._drawn < _REFRESH_SECONDS:
            return
        self._drawn = now
        self._bar.update(self._task, completed=step, epoch=epoch)
        self._show_losses()

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Prints the metrics of the epoch above the bar."""
        line = f"epoch {epoch}/{self._epochs}  {metrics_line(metrics)}"
        self._live.console.print(line, highlight=False)
        speed = f"{metrics['time/images_per_second']:.1f} images/s"
        done = epoch * self._steps_per_epoch
        self._bar.update(self._task, completed=done, epoch=epoch, speed=speed)
        self._show_losses()  # an epoch may be shorter than the time between two updates

    def _show_losses(self) -> None:
        self._losses.plain = printable(losses_line(self._rows))

    def stop(self) -> None:
        """Ends the display and restores the terminal."""
        self._live.stop()
