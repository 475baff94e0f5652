"""``nectargan-train --sweep``: a run for each combination of values, or for Optuna's guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from nectargan.errors import NectarGANError, RunError

if TYPE_CHECKING:
    from nectargan.trainers.sweep import Cell, Outcome, Resolve, Start

_Command = TypeVar("_Command", bound=Callable[..., Any])

_METRICS = ("val/ssim", "val/psnr", "val/l1")
_TRIALS = 20
# More lines than these, and none of them can be told from the others.
_MOST_COMPARED = 12

_OPTIONS = (
    click.option(
        "--sweep",
        multiple=True,
        metavar="A.B.C=V,V,...",
        help="A run for each value, and each combination if repeated.",
    ),
    click.option(
        "--sweep-search",
        type=click.Choice(["optuna"]),
        help="Let Optuna choose, also from ranges: A.B.C=1..100, or 0.1..10:log.",
    ),
    click.option(
        "--trials",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Runs of a search, with those it has already ({_TRIALS}).",
    ),
    click.option(
        "--metric", type=click.Choice(_METRICS), help=f"What is best in a sweep ({_METRICS[0]})."
    ),
    click.option(
        "--sweep-storage", metavar="URL", help="Database of a search (optuna.db in the output)."
    ),
)


def sweep_options(command: _Command) -> _Command:
    """Adds the options of a sweep, which `SweepOptions` holds, to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class SweepOptions(NamedTuple):
    """What the command line says about a sweep, by name of the option."""

    sweep: tuple[str, ...]
    sweep_search: str | None
    trials: int | None
    metric: str | None
    sweep_storage: str | None

    def check(self, resume: str | None, csv: Path | None) -> None:
        """Raises `RunError` for options that contradict each other."""
        if not self.sweep:
            for name in ("sweep_search", "trials", "metric", "sweep_storage"):
                if getattr(self, name) is not None:
                    raise RunError(f"--{name.replace('_', '-')} says nothing without --sweep.")
            return
        for name in ("trials", "sweep_storage"):
            if getattr(self, name) is not None and self.sweep_search is None:
                raise RunError(f"--{name.replace('_', '-')} says nothing without --sweep-search.")
        if resume is not None:
            raise RunError("--sweep goes on by itself when it is given again, without --resume.")
        if csv is not None:
            raise RunError("--csv is for one run; export-csv writes the history of a sweep's runs.")


def run_sweep(options: SweepOptions, resolve: Resolve, start: Start, dry_run: bool) -> None:
    """Checks all runs of a sweep, trains those that are not finished, shows how they compare."""
    from nectargan.trainers.sweep_axes import parse_axes

    axes = parse_axes(options.sweep)
    metric = options.metric or _METRICS[0]
    try:
        if options.sweep_search is None:
            from nectargan.trainers.sweep import grid

            failed = _run_grid(grid(axes, resolve), metric, start, dry_run)
        else:
            from nectargan.trainers.sweep_search import Search

            search = Search(axes, resolve, metric, options.sweep_storage)
            failed = _run_search(search, metric, options.trials or _TRIALS, start, dry_run)
    except (KeyboardInterrupt, SystemExit):
        click.echo("The same command goes on with the sweep.", err=True)
        raise
    if failed:
        click.echo(f"{failed} of the runs failed.", err=True)
        raise click.exceptions.Exit(1)


def _run_grid(cells: Sequence[Cell], metric: str, start: Start, dry_run: bool) -> int:
    """Runs a grid; returns how many of its runs failed."""
    from nectargan.trainers.sweep import check_cells, find_run, run_cell

    check_cells(cells)
    if dry_run:
        _print_table([find_run(cell) for cell in cells], metric)
        click.echo("Nothing was written.")
        return 0
    outcomes = []
    for number, cell in enumerate(cells, 1):
        click.echo(f"Run {number} of {len(cells)}: {cell.name}")
        outcomes.append(run_cell(cell, start))
        _print_end(outcomes[-1])
    best = _print_table(outcomes, metric)
    _compare(cells[0], best)
    return sum(outcome.state == "FAILED" for outcome in outcomes)


def _run_search(search: Any, metric: str, trials: int, start: Start, dry_run: bool) -> int:
    """Goes on with a search; returns how many runs of this process failed."""
    from nectargan.trainers.sweep import Outcome, check_cells

    check_cells(search.corners, metric)
    if dry_run:
        click.echo(f"{trials} trials of study '{search.name}', for the best {metric}.")
        for cell in search.corners:
            click.echo(f"  for instance {cell.name}")
        click.echo("Nothing was written.")
        return 0

    def announce(number: int, cell: Cell) -> None:
        click.echo(f"Trial {number}: {cell.name}")

    search.open()
    failed = 0
    for outcome in search.run(trials, start, announce):
        _print_end(outcome)
        failed += outcome.state == "FAILED"
    states = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}
    base = search.corners[0]
    _print_table(
        [
            Outcome(
                base._replace(values=t.values),
                states.get(t.state, t.state),
                t.directory,
                t.reason,
            )
            for t in search.trials()
            if t.state != "WAITING"
        ],
        metric,
    )
    _compare(base, [t.directory for t in search.ranked() if t.directory is not None])
    return failed


def _print_end(outcome: Outcome) -> None:
    run = "" if outcome.directory is None else f" {outcome.directory}"
    if outcome.state == "FAILED":
        click.echo(f"Failed:{run} {outcome.reason}", err=True)
    elif outcome.state == "RUNNING":
        click.echo(f"Left alone:{run} {outcome.reason}")
    else:
        click.echo(f"Finished:{run}")


def _print_table(outcomes: Sequence[Outcome], metric: str) -> list[Path]:
    """Prints a row for each run; returns the run directories, the best first."""
    from rich.console import Console
    from rich.table import Table

    from nectargan.analysis.run_list import best_of
    from nectargan.trainers.sweep_axes import short_names
    from nectargan.trainers.trainer import LOWER_IS_BETTER

    lower = metric in LOWER_IS_BETTER
    rows, values = [], dict[Path, float]()
    for cell, state, directory, reason in outcomes:
        best = best_of(directory, metric, lower) if directory is not None else None
        if best is not None and directory is not None and state == "FINISHED":
            values[directory] = best[0]
        shown = f"{best[0]:.4g} in epoch {best[1]}" if best else ""
        status = f"{state}: {reason}" if reason else state
        name = "" if directory is None else directory.name
        rows.append([*cell.values.values(), status, shown, name])
    columns = short_names(list(outcomes[0].cell.values)).values()
    table = Table(*columns, "status", f"best {metric}", "run")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    return sorted(values, key=lambda run: values[run] if lower else -values[run])


def _compare(cell: Cell, runs: Sequence[Path]) -> None:
    """Draws the best runs beside each other; names the best."""
    from nectargan.analysis.compare import plot_comparison

    # Of a shared study, some are on other machines.
    here = [run for run in runs if run.is_dir()][:_MOST_COMPARED]
    if not here:
        return
    picture = cell.output / f"{cell.config.logging.mlflow.group}_compare.png"
    try:
        plot_comparison(here, picture)
    except NectarGANError as error:
        click.echo(f"Warning: {error}", err=True)
    else:
        click.echo(f"Best: {runs[0]}")
        click.echo(f"Drew {picture}.")
