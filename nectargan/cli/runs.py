"""``nectargan runs`` and ``nectargan sync``: runs after their launch."""

from __future__ import annotations

from pathlib import Path

import click

from nectargan.cli.common import Command
from nectargan.cli.paths import RUN
from nectargan.output import make_console, say
from nectargan.shell import is_pattern


@click.command(cls=Command)
@click.argument("directory", type=RUN, default="runs")
def runs(directory: str) -> None:
    """List the runs in DIRECTORY (runs): status, epoch, last losses, best metric.

    A run that died without a word is marked as killed.
    """
    from rich.table import Table

    from nectargan.analysis.run_list import BEST_BY, summarize_runs

    columns = ["run", "status", "epoch", "last losses", f"best {BEST_BY}", "behind"]
    several = is_pattern(directory)
    found = summarize_runs(directory)
    if any(run.changes for run in found):
        columns.append("changed in")
    table = Table(*columns)
    for run in found:
        status = f"{run.status}: {run.reason}" if run.reason else run.status
        losses = "  ".join(f"{name} {value:.4g}" for name, value in run.losses.items())
        best = f"{run.best[0]:.4g} in epoch {run.best[1]}" if run.best else ""
        epoch = f"{run.epoch}/{run.epochs}"
        name = str(run.directory) if several else run.directory.name
        cells = [name, status, epoch, losses, best, ", ".join(run.behind), "; ".join(run.changes)]
        table.add_row(*cells[: len(columns)])
    make_console().print(table)


@click.command(cls=Command)
@click.argument("run", type=RUN)
@click.option("--mlflow-uri", metavar="URI", help="MLflow server or database, if it moved.")
def sync(run: str, mlflow_uri: str | None) -> None:
    """Send to TensorBoard and MLflow what they lack of RUN.

    What they have is not sent again.
    """
    from nectargan.analysis.sources import runs_matching
    from nectargan.trainers.sinks import synchronize

    found = runs_matching(run)
    for each in found:
        place = f"{each}: " if len(found) > 1 else ""
        for sink, was_behind in synchronize(Path(each), mlflow_uri).items():
            say(f"{place}{sink}: {'has everything now' if was_behind else 'had everything'}.")
