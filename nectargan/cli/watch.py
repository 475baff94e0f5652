"""``nectargan watch``: shows the progress of a run."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from nectargan.cli.common import Command
from nectargan.cli.history import lineage_option
from nectargan.cli.paths import RUN
from nectargan.output import make_console, printable, say
from nectargan.trainers.lines import duration, losses_line, metrics_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nectargan.analysis.live import LiveRun

_LOOK_SECONDS = 0.5
# Without a terminal, lines are printed at this interval and at the end of each epoch.
_LINE_SECONDS = 30.0


@click.command(
    cls=Command,
    examples=("nectargan watch runs/first_v1", "nectargan watch runs/first_v1 | tee progress.txt"),
)
@click.argument("run", type=RUN)
@lineage_option(True)
def watch(run: str, lineage: bool) -> None:
    """Show the progress of RUN, a run directory, until the run has ended.

    Ctrl-C ends this command (exit code 130), but not the run.
    """
    from nectargan.analysis.live import LiveRun
    from nectargan.analysis.sources import one_run

    live = LiveRun(one_run(run), lineage)
    if sys.stdout.isatty():
        _show(live)
    else:
        _print_lines(live)


def _show(live: LiveRun) -> None:
    from rich.live import Live

    with Live(_picture(live), console=make_console(), auto_refresh=False) as screen:
        while live.status == "RUNNING":
            time.sleep(_LOOK_SECONDS)
            live.look()
            screen.update(_picture(live), refresh=True)


def _print_lines(live: LiveRun) -> None:
    say(_status_line(live))
    shown, printed = (live.step, live.metrics_epoch), time.monotonic()
    while live.status == "RUNNING":
        time.sleep(_LOOK_SECONDS)
        live.look()
        is_time = time.monotonic() - printed >= _LINE_SECONDS and live.step != shown[0]
        if is_time or live.metrics_epoch != shown[1] or live.status != "RUNNING":
            say(_status_line(live))
            shown, printed = (live.step, live.metrics_epoch), time.monotonic()


def _status_line(live: LiveRun) -> str:
    parts = [
        f"{live.status}: {live.reason}" if live.reason else live.status,
        f"epoch {live.epoch}/{live.epochs}",
        f"step {live.step}",
        losses_line(live.losses),
        metrics_line(live.metrics),
    ]
    if live.status == "RUNNING" and live.seconds_left is not None:
        parts.append(f"{duration(live.seconds_left)} left")
    return "  ".join(part for part in parts if part)


def _picture(live: LiveRun) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from nectargan.analysis.live import sparkline

    head = Text(printable(f"{live.directory}  {live.status}"), style="bold")
    if live.reason:
        head.append(printable(f": {live.reason}"), style="not bold")

    total = live.total_steps
    speed, left = live.images_per_second, live.seconds_left
    columns = [
        f"epoch {live.epoch}/{live.epochs}",
        f"step {live.step}" + (f"/{total}" if total else ""),
    ]
    if speed is not None:
        columns.append(f"{speed:.4g} images/s")
    if left is not None and live.status == "RUNNING":
        columns.append(f"{duration(left)} left")
    for ancestor in live.ancestors[-1:]:
        head.append(printable(f"\nforked from {ancestor}"), style="not bold")
    progress = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=total or live.epochs, completed=live.step if total else 0, width=30)
    progress.add_row(bar, *columns)

    losses = Table("loss", box=None, padding=(0, 2, 0, 0))
    for column in ("raw", "weight", "weighted", *(["gradient"] if live.shares else [])):
        losses.add_column(column, justify="right")
    losses.add_column("trend of raw", no_wrap=True)
    for name, row in live.losses.items():
        numbers = [f"{value:.4g}" for value in (row.raw, row.weight, row.weighted)]
        if live.shares:
            numbers.append(f"{100 * live.shares[name]:.3g} %" if name in live.shares else "")
        losses.add_row(name, *numbers, sparkline(live.trends[name]))

    val = metrics_line({name: v for name, v in live.metrics.items() if name.startswith("val/")})
    last = Text(f"epoch {live.metrics_epoch}:  {val}" if val else "no validation yet")
    return Group(head, progress, losses, last)
