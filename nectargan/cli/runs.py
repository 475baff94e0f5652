"""``nectargan runs``, ``sync``, ``rm`` and ``mv``: list, forward, remove and move runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nectargan.cli.common import Command
from nectargan.cli.paths import INPUT, OUTPUT, RUN
from nectargan.errors import RunError
from nectargan.output import make_console, say
from nectargan.shell import is_pattern


@click.command(cls=Command, examples=("nectargan runs", "nectargan runs 'runs/first_*'"))
@click.argument("directory", type=RUN, default="runs")
def runs(directory: str) -> None:
    """List the runs in DIRECTORY (runs): status, epoch, last losses, best metric.

    A run whose process ended without setting a status is shown as KILLED.
    """
    from rich.table import Column, Table

    from nectargan.metrics import USUAL_SERIES
    from nectargan.runs.run_list import summarize_runs

    columns = ["run", "status", "epoch", "last losses", f"best {USUAL_SERIES}", "behind"]
    several = is_pattern(directory)
    found = summarize_runs(directory)
    if not found:
        say(f"There are no runs in '{directory}'.")
        return
    if any(run.changes for run in found):
        columns.append("changed in")
    if any(run.parent for run in found):
        columns.append("forked from")
    # A path that is cut or broken into lines cannot be copied.
    table = Table(Column(columns[0], no_wrap=True), *columns[1:])
    for run in found:
        status = f"{run.status}: {run.reason}" if run.reason else run.status
        losses = "  ".join(f"{name} {value:.4g}" for name, value in run.losses.items())
        best = f"{run.best[0]:.4g} in epoch {run.best[1]}" if run.best else ""
        epoch = f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch)
        name = str(run.directory) if several else run.directory.name
        cells = {
            **dict(zip(columns, (name, status, epoch, losses, best), strict=False)),
            "behind": ", ".join(run.behind),
            "changed in": "; ".join(run.changes),
            "forked from": str(run.parent or ""),
        }
        table.add_row(*(cells[column] for column in columns))
    make_console().print(table)
    for trouble in dict.fromkeys(run.trouble for run in found if run.trouble):
        say(trouble, err=True)


@click.command(
    cls=Command,
    examples=(
        "nectargan sync runs/first_v1",
        "nectargan sync 'runs/*' --mlflow-uri http://localhost:5000",
    ),
)
@click.argument("run", type=RUN)
@click.option(
    "--mlflow-uri", metavar="URI", help="The new MLflow server or database, if it was moved."
)
@click.option("--new-run", is_flag=True, help="Create a new MLflow run and send everything to it.")
@click.option("--anew", "new_run", is_flag=True, hidden=True)  # the name in version 1.0
@click.option("--trust", is_flag=True, help="Import the sinks that the config of RUN names.")
def sync(run: str, mlflow_uri: str | None, new_run: bool, trust: bool) -> None:
    """Send everything that is missing to TensorBoard, MLflow and your own sinks of RUN.

    The points in MLflow are compared with those of RUN, and none is stored twice.
    """
    from nectargan.analysis.sources import runs_matching
    from nectargan.record.run_directory import RunDirectory
    from nectargan.runs.sinks import synchronize

    found = runs_matching(run)
    for each in found:
        place = f"{each}: " if len(found) > 1 else ""
        sent = synchronize(RunDirectory(each), mlflow_uri, new_run, trust)
        for sink, was_behind in sent.items():
            say(f"{place}{sink}: {'has everything now' if was_behind else 'had everything'}.")
        for sink in ("TensorBoard", "MLflow"):
            if sink not in sent:
                say(f"{place}{sink}: the run does not log to it.")


@click.command(
    cls=Command,
    examples=("nectargan rm runs/first_v1", "nectargan rm --yes runs/trial_v1 runs/trial_v2"),
)
@click.argument("runs", nargs=-1, required=True, type=INPUT, metavar="RUN...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--no-mlflow", is_flag=True, help="Keep the MLflow run.")
def rm(runs: tuple[Path, ...], yes: bool, no_mlflow: bool) -> None:
    """Remove runs: the directory with its TensorBoard files, and the MLflow run.

    MLflow keeps the run as a deleted run; 'mlflow gc' removes it for good.
    """
    from nectargan.record.run_directory import RunDirectory
    from nectargan.runs.relocation import remove_run

    for run in map(RunDirectory, runs):
        status = run.status
        if not yes and status and not _confirmed(f"Remove {run} ({status})?"):
            continue
        remove_run(run, with_mlflow=not no_mlflow)
        say(f"Removed {run}.")


def _confirmed(question: str) -> bool:
    """Asks a question on standard input; raises `RunError` if it is closed."""
    say(f"{question} [y/N]: ", nl=False)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        say("")
        raise RunError("Standard input is closed; give --yes to remove without asking.")
    return answer.strip().lower() in ("y", "yes")


@click.command(
    cls=Command,
    examples=("nectargan mv runs/first_v1 paper", "nectargan mv runs/first_v1 kept/first_v1"),
)
@click.argument("run", type=INPUT)
@click.argument("new", type=OUTPUT)
def mv(run: Path, new: Path) -> None:
    """Rename or move a run: the directory with its TensorBoard files, and the MLflow run.

    NEW is the new path. A name without a slash renames the run within the same directory.
    """
    from nectargan.record.run_directory import RunDirectory
    from nectargan.runs.relocation import move_run

    say(f"Moved {run} to {move_run(RunDirectory(run), new)}.")
