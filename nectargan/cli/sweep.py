"""``nectargan-train --sweep``: a run for each combination of values, or for Optuna's guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from nectargan.cli.closing import program
from nectargan.cli.common import WholeNumber
from nectargan.cli.options import option
from nectargan.errors import NectarGANError, RunError
from nectargan.metrics import USUAL_SERIES
from nectargan.output import make_console, say
from nectargan.shell import quoted
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.sweeps.grid import Cell, Outcome, Resolve, Start
    from nectargan.sweeps.results import Result
    from nectargan.sweeps.search import Search

_Command = TypeVar("_Command", bound=Callable[..., Any])

_TRIALS = 20
# More lines than these, and none of them can be told from the others.
_MOST_COMPARED = 12

_GROUP = "Sweep"
_OPTIONS = (
    option(
        "--sweep",
        group=_GROUP,
        multiple=True,
        metavar="A.B.C=V,V,...",
        help="A run for each value of this key, and each combination if repeated.",
    ),
    option(
        "--sweep-search",
        group=_GROUP,
        type=click.Choice(["optuna"]),
        help="Let Optuna choose, also from ranges: A.B.C=1..100, or 0.1..10:log.",
    ),
    option(
        "--trials",
        group=_GROUP,
        type=WholeNumber(1, 10**6),
        metavar="N",
        help=f"Runs of a search, with those it has already.  [default: {_TRIALS}]",
    ),
    option(
        "--metric",
        group=_GROUP,
        metavar="val/NAME",
        help=f"What is best in a sweep: one of validation.metrics.  [default: {USUAL_SERIES}]",
    ),
    option(
        "--sweep-storage",
        group=_GROUP,
        metavar="URL",
        help="Database of a search.  [default: optuna.db in --output]",
    ),
)


def sweep_options(command: _Command) -> _Command:
    """Adds the options of a sweep, which `SweepOptions` holds, to a command."""
    for add in reversed(_OPTIONS):
        command = add(command)
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
    from nectargan.sweeps.axes import parse_axes

    axes = parse_axes(options.sweep)
    try:
        if options.sweep_search is None:
            from nectargan.sweeps.grid import grid

            failed = _run_grid(grid(axes, resolve), options.metric, start, dry_run)
        else:
            from nectargan.sweeps.search import Search

            metric = options.metric or USUAL_SERIES
            search = Search(axes, resolve, metric, options.sweep_storage)
            failed = _run_search(search, metric, options.trials or _TRIALS, start, dry_run)
    except (KeyboardInterrupt, SystemExit):
        say("The same command goes on with the sweep.", err=True)
        raise
    if failed:
        say(f"{counted(failed, 'run')} failed.", err=True)
        raise click.exceptions.Exit(1)


def _run_grid(cells: Sequence[Cell], wanted: str | None, start: Start, dry_run: bool) -> int:
    """Runs a grid; returns how many of its runs failed."""
    from nectargan.sweeps.grid import check_cells, find_run, run_cell
    from nectargan.sweeps.results import result_of_cell

    check_cells(cells, wanted)
    metric = wanted or cells[0].config.judged_by or USUAL_SERIES
    if dry_run:
        _print_table([result_of_cell(find_run(cell), metric) for cell in cells], metric)
        say("Nothing was written.")
        return 0
    outcomes = []
    for number, cell in enumerate(cells, 1):
        say(f"Run {number} of {len(cells)}: {cell.name}")
        outcomes.append(run_cell(cell, start))
        _print_end(outcomes[-1])
    results = [result_of_cell(outcome, metric) for outcome in outcomes]
    _print_table(results, metric)
    _compare(cells[0], results, metric)
    return sum(outcome.state == "FAILED" for outcome in outcomes)


def _run_search(search: Search, metric: str, trials: int, start: Start, dry_run: bool) -> int:
    """Goes on with a search; returns how many runs of this process failed."""
    from nectargan.sweeps.grid import check_cells
    from nectargan.sweeps.results import result_of_trial

    check_cells(search.corners, metric)
    if dry_run:
        say(f"{counted(trials, 'trial')} of study '{search.name}', for the best {metric}.")
        for cell in search.corners:
            say(f"  for instance {cell.name}")
        say("Nothing was written.")
        return 0

    def announce(number: int, cell: Cell) -> None:
        say(f"Trial {number}: {cell.name}")

    search.open()
    failed = 0
    for outcome in search.run(trials, start, announce):
        _print_end(outcome)
        failed += outcome.state == "FAILED"
    results = [result_of_trial(trial) for trial in search.trials() if trial.values]
    _print_table(results, metric)
    _compare(search.corners[0], results, metric)
    return failed


def _print_end(outcome: Outcome) -> None:
    run = "" if outcome.directory is None else f" {outcome.directory}"
    if outcome.state == "FAILED":
        say(f"Failed:{run} {outcome.reason}", err=True)
    elif outcome.state == "RUNNING":
        say(f"Left alone:{run} {outcome.reason}")
    else:
        say(f"Finished:{run}")


def _print_table(results: Sequence[Result], metric: str) -> None:
    from rich.table import Table

    from nectargan.sweeps.axes import short_names

    columns = short_names(list(results[0].values)).values() if results else ()
    table = Table(*columns, "status", f"best {metric}", "run")
    for values, state, reason, best, directory in results:
        status = f"{state}: {reason}" if reason else state
        shown = "" if best is None else f"{best:.4g}"
        table.add_row(*values.values(), status, shown, directory.name if directory else "")
    make_console().print(table)


def _compare(cell: Cell, results: Sequence[Result], metric: str) -> None:
    """Names the best finished run, and draws the best ones beside each other."""
    from nectargan.analysis.plots import plot_comparison
    from nectargan.sweeps.results import ranked

    finished = ranked(results, cell.config.validation.is_lower_better(metric))
    if finished and finished[0].best is not None:
        say(f"Best: {finished[0].directory}")
    # Of a shared study, some are on other machines.
    here = [each.directory for each in finished if each.directory and each.directory.path.is_dir()]
    if not here:
        return
    picture = cell.output / f"{cell.config.logging.mlflow.group}_compare.png"
    try:
        plot_comparison(here[:_MOST_COMPARED], picture)
    except NectarGANError as error:
        say(f"Warning: {error}", err=True)
    else:
        say(f"Drew {picture}.")
    say(f"Look: {program('nectargan')} ui {quoted(cell.output)}")
