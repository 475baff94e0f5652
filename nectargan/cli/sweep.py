"""``nectargan-train --sweep``: one run per combination of values, or values chosen by Optuna."""

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
    from nectargan.sweeps.grid import GridOutcome, GridPoint, Resolve, Start
    from nectargan.sweeps.results import Result
    from nectargan.sweeps.search import Search

_Command = TypeVar("_Command", bound=Callable[..., Any])

_TRIALS = 20
# With more lines in a plot, their colors cannot be distinguished.
_MOST_COMPARED = 12

_GROUP = "Sweep"
_OPTIONS = (
    option(
        "--sweep",
        group=_GROUP,
        multiple=True,
        metavar="A.B.C=V,V,...",
        help="One run per value of this key; if repeated, one per combination of values.",
    ),
    option(
        "--sweep-search",
        group=_GROUP,
        type=click.Choice(["optuna"]),
        help="Let Optuna choose the values, also from ranges: A.B.C=1..100 or 0.1..10:log.",
    ),
    option(
        "--trials",
        group=_GROUP,
        type=WholeNumber(1, 10**6),
        metavar="N",
        help=f"Total runs of a search, including finished ones.  [default: {_TRIALS}]",
    ),
    option(
        "--metric",
        group=_GROUP,
        metavar="val/NAME",
        help=f"Metric to rank runs by, one of validation.metrics.  [default: {USUAL_SERIES}]",
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
    """The values of the sweep options; ``None`` or empty for options that were not given."""

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
                    raise RunError(f"--{name.replace('_', '-')} needs --sweep.")
            return
        for name in ("trials", "sweep_storage"):
            if getattr(self, name) is not None and self.sweep_search is None:
                raise RunError(f"--{name.replace('_', '-')} needs --sweep-search.")
        if resume is not None:
            raise RunError(
                "--sweep and --resume cannot be combined; the same --sweep command resumes the "
                "sweep."
            )
        if csv is not None:
            raise RunError(
                "--csv is for a single run; use 'nectargan export-csv' for the runs of a sweep."
            )


def run_sweep(options: SweepOptions, resolve: Resolve, start: Start, dry_run: bool) -> None:
    """Checks all runs of a sweep, trains those that are not finished, and compares them.

    Raises:
        click.exceptions.Exit: with code 1, if a run failed.
    """
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
        say("Run the same command again to continue the sweep.", err=True)
        raise
    if failed:
        say(f"{counted(failed, 'run')} failed.", err=True)
        raise click.exceptions.Exit(1)


def _run_grid(points: Sequence[GridPoint], wanted: str | None, start: Start, dry_run: bool) -> int:
    """Runs a grid; returns how many of its runs failed."""
    from nectargan.sweeps.grid import check_grid, find_run, run_grid_point
    from nectargan.sweeps.results import result_of_grid_point

    check_grid(points, wanted)
    metric = wanted or points[0].config.judged_by or USUAL_SERIES
    if dry_run:
        _print_table([result_of_grid_point(find_run(point), metric) for point in points], metric)
        say("Nothing was written.")
        return 0
    outcomes = []
    for number, point in enumerate(points, 1):
        say(f"Run {number} of {len(points)}: {point.name}")
        outcomes.append(run_grid_point(point, start))
        _print_end(outcomes[-1])
    results = [result_of_grid_point(outcome, metric) for outcome in outcomes]
    _print_table(results, metric)
    _compare(points[0], results, metric)
    return sum(outcome.state == "FAILED" for outcome in outcomes)


def _run_search(search: Search, metric: str, trials: int, start: Start, dry_run: bool) -> int:
    """Starts or continues a search; returns how many runs of this process failed."""
    from nectargan.sweeps.grid import check_grid
    from nectargan.sweeps.results import result_of_trial

    check_grid(search.corners, metric)
    if dry_run:
        say(f"{counted(trials, 'trial')} of study '{search.name}', for the best {metric}.")
        for point in search.corners:
            say(f"  for example {point.name}")
        say("Nothing was written.")
        return 0

    def announce(number: int, point: GridPoint) -> None:
        say(f"Trial {number}: {point.name}")

    search.open()
    failed = 0
    for outcome in search.run(trials, start, announce):
        _print_end(outcome)
        failed += outcome.state == "FAILED"
    results = [result_of_trial(trial) for trial in search.trials() if trial.values]
    _print_table(results, metric)
    _compare(search.corners[0], results, metric)
    return failed


def _print_end(outcome: GridOutcome) -> None:
    run = "" if outcome.directory is None else f" {outcome.directory}"
    if outcome.state == "FAILED":
        say(f"Failed:{run} {outcome.reason}", err=True)
    elif outcome.state == "RUNNING":
        say(f"Skipped:{run} {outcome.reason}")
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


def _compare(point: GridPoint, results: Sequence[Result], metric: str) -> None:
    """Prints the best finished run, and plots the best ones together."""
    from nectargan.analysis.plots import plot_comparison
    from nectargan.sweeps.results import ranked

    finished = ranked(results, point.config.validation.is_lower_better(metric))
    if finished and finished[0].best is not None:
        say(f"Best: {finished[0].directory}")
    # Some runs of a shared study may be on other machines.
    here = [each.directory for each in finished if each.directory and each.directory.path.is_dir()]
    if not here:
        return
    picture = point.output / f"{point.config.logging.mlflow.group}_compare.png"
    try:
        plot_comparison(here[:_MOST_COMPARED], picture)
    except NectarGANError as error:
        say(f"Warning: {error}", err=True)
    else:
        say(f"Drew {picture}.")
    say(f"Look: {program('nectargan')} ui {quoted(point.output)}")
