"""``nectargan-train --sweep``: one run per combination of values, or values chosen by Optuna."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from nectargan.cli.closing import program
from nectargan.cli.common import WholeNumber, typed_arguments
from nectargan.cli.options import option, with_options
from nectargan.cli.sweep_output import print_end, report, shown, table_of
from nectargan.errors import RunError
from nectargan.interrupts import stop_with_parent
from nectargan.metrics import USUAL_SERIES
from nectargan.output import make_console, say
from nectargan.shell import command_line
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.sweeps.axes import Axis
    from nectargan.sweeps.grid import GridOutcome, GridPoint, Resolve, Start
    from nectargan.sweeps.search import Search

_Command = TypeVar("_Command", bound=Callable[..., Any])

_TRIALS = 20
_STORAGE = "OPTUNA_STORAGE"  # as for the commands of Optuna

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
        "metrics",
        group=_GROUP,
        multiple=True,
        metavar="val/NAME",
        help="Metric to rank runs by, one of validation.metrics; if repeated, the Pareto front is "
        f"marked.  [default: {USUAL_SERIES}]",
    ),
    option(
        "--pruner",
        group=_GROUP,
        type=click.Choice(["median", "hyperband"]),
        help="End runs of a search whose metric is worse than that of other runs, with this pruner "
        "of Optuna.",
    ),
    option(
        "--sweep-storage",
        group=_GROUP,
        metavar="URL",
        help="Database of a search; on several machines one of a server.  [default: "
        f"${_STORAGE}, else optuna.db in --output]",
    ),
    option(
        "--workers",
        group=_GROUP,
        metavar="auto|N",
        help="Share the runs between processes: one per GPU, or N per GPU (on a CPU, N in all).",
    ),
    option(
        "--print-commands",
        group=_GROUP,
        is_flag=True,
        help="Print a complete command for each run, for a job array or a scheduler.",
    ),
)


def sweep_options(command: _Command) -> _Command:
    """Adds the options of `SweepOptions` to a command."""
    return with_options(command, _OPTIONS)


class SweepOptions(NamedTuple):
    """The values of the sweep options; ``None`` or empty for options that were not given."""

    sweep: tuple[str, ...]
    sweep_search: str | None
    trials: int | None
    metrics: tuple[str, ...]
    pruner: str | None
    sweep_storage: str | None
    workers: str | None
    print_commands: bool

    def check(self, resume: str | None, csv: Path | None) -> None:
        """Raises `RunError` for options that contradict each other."""
        if not self.sweep:
            for name in self._fields[1:]:
                if getattr(self, name):
                    option = "metric" if name == "metrics" else name.replace("_", "-")
                    raise RunError(f"--{option} needs --sweep.")
            return
        for metric in self.metrics:
            if self.metrics.count(metric) > 1:
                raise RunError(f"--metric {metric} is given twice.")
        if self.pruner and len(self.metrics) > 1:
            raise RunError("--pruner judges runs by a single metric; give only one --metric.")
        for name in ("trials", "pruner", "sweep_storage"):
            if getattr(self, name) is not None and self.sweep_search is None:
                raise RunError(f"--{name.replace('_', '-')} needs --sweep-search.")
        if self.print_commands and self.sweep_search:
            raise RunError(
                "--print-commands is for a grid: a search chooses values by the results of "
                "earlier runs; give each job the same --sweep-search command."
            )
        if self.print_commands and self.workers:
            raise RunError("--print-commands and --workers cannot be combined.")
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
    from nectargan.sweeps.workers import is_worker

    if is_worker():
        stop_with_parent()
    axes = parse_axes(options.sweep)
    try:
        if options.sweep_search is None:
            from nectargan.sweeps.grid import grid

            points = grid(axes, resolve)
            if options.print_commands:
                _print_commands(points, options.metrics)
                return
            failed = _run_grid(points, axes, options.metrics, start, dry_run, options.workers)
        else:
            from nectargan.sweeps.search import Search

            metrics = options.metrics or (USUAL_SERIES,)
            storage = options.sweep_storage or os.environ.get(_STORAGE)
            search = Search(axes, resolve, metrics, storage, options.pruner)
            trials = options.trials or _TRIALS
            failed = _run_search(search, axes, metrics, trials, start, dry_run, options.workers)
    except (KeyboardInterrupt, SystemExit):
        if is_worker():
            raise
        say("Run the same command again to continue the sweep.", err=True)
        raise
    if failed:
        say(f"{counted(failed, 'run')} failed.", err=True)
        raise click.exceptions.Exit(1)


def _run_grid(
    points: Sequence[GridPoint],
    axes: Sequence[Axis],
    wanted: Sequence[str],
    start: Start,
    dry_run: bool,
    workers: str | None,
) -> int:
    """Runs a grid; returns how many of its runs failed."""
    from nectargan.sweeps.grid import check_grid, find_run, run_grid_point
    from nectargan.sweeps.results import result_of_grid_point
    from nectargan.sweeps.workers import is_worker

    if not is_worker():
        check_grid(points, wanted)
    metrics = wanted or [points[0].config.judged_by or USUAL_SERIES]
    if dry_run:
        results = [result_of_grid_point(find_run(point), *metrics) for point in points]
        make_console().print(table_of(results, metrics))
        say("Nothing was written.")
        return 0
    outcomes = []
    if workers:
        outcomes = _run_grid_in_workers(points, workers)
    else:
        for number, point in enumerate(points, 1):
            say(f"Run {number} of {len(points)}: {point.name}")
            outcomes.append(run_grid_point(point, start))
            print_end(outcomes[-1])
    if not is_worker():
        results = [result_of_grid_point(outcome, *metrics) for outcome in outcomes]
        report(points[0], axes, results, metrics)
    return sum(outcome.state == "FAILED" for outcome in outcomes)


def _print_commands(points: Sequence[GridPoint], metrics: Sequence[str]) -> None:
    """Prints the command of each run: the one that was typed, with one value for each key."""
    from nectargan.sweeps.grid import check_grid
    from nectargan.sweeps.workers import without_options

    check_grid(points, metrics)
    rest = without_options(typed_arguments(), {"--sweep": 1, "--print-commands": 0})
    for point in points:
        sweep = [
            part for key, item in point.values.items() for part in ("--sweep", f"{key}={item}")
        ]
        say(command_line([program("nectargan-train"), *rest, *sweep]))


def _run_grid_in_workers(points: Sequence[GridPoint], wanted: str) -> list[GridOutcome]:
    """Runs a grid in several processes, and shows how its runs stand."""
    from nectargan.sweeps.grid import GridOutcome, find_run
    from nectargan.sweeps.results import Result, result_of_grid_point

    metric = points[0].config.judged_by or USUAL_SERIES
    found = [GridOutcome(point, "NEW") for point in points]

    def results() -> list[Result]:
        for index, old in enumerate(found):
            if old.state != "FINISHED":
                found[index] = find_run(old.point)
        return [result_of_grid_point(outcome, metric) for outcome in found]

    with shown(results, [metric], len(points)) as look:
        _supervise(points[0], wanted, f"{counted(len(points), 'run')} for", look)
    return [_failed(each) if each.state != "FINISHED" else each for each in found]


def _supervise(
    point: GridPoint,
    wanted: str,
    task: str,
    look: Callable[[], object],
    environment: Mapping[str, str] | None = None,
) -> int:
    """Starts the typed command in several processes, and returns when they have ended.

    Args:
        point: One of the runs.
        wanted: The value of ``--workers``.
        task: What they do, for the first line.
        look: Called about once a second.
        environment: Variables for the processes.

    Returns:
        How many of them gave up.
    """
    from nectargan.sweeps.grid import CLAIMS
    from nectargan.sweeps.workers import (
        Worker,
        environments,
        supervise,
        without_options,
        worker_log,
    )

    arguments = without_options(typed_arguments(), {"--workers": 1, "--sweep-storage": 1})
    places = environments(wanted, point.config.common.device)
    folder = point.output / CLAIMS
    folder.mkdir(parents=True, exist_ok=True)
    workers = [
        Worker(number, arguments, {**variables, **(environment or {})}, worker_log(folder, number))
        for number, variables in enumerate(places, 1)
    ]
    say(f"{task} {counted(len(workers), 'worker')}, output in {folder}.")
    if environment and len(workers) > 1:
        say(
            "With several workers, the values of a trial depend on which runs end before it: the "
            "seed alone does not determine them."
        )
    troubles = supervise(workers, look, say)
    for trouble in troubles:
        say(trouble, err=True)
    return len(troubles)


def _failed(outcome: GridOutcome) -> GridOutcome:
    """The outcome of a run that no worker has finished."""
    if outcome.state == "RUNNING":  # by another command
        return outcome
    reason = outcome.directory.read_status()[1] if outcome.directory else ""
    return outcome._replace(state="FAILED", reason=reason or "see the output of the workers")


def _run_search(
    search: Search,
    axes: Sequence[Axis],
    metrics: Sequence[str],
    trials: int,
    start: Start,
    dry_run: bool,
    workers: str | None,
) -> int:
    """Starts or continues a search; returns how many runs of this command failed."""
    from nectargan.sweeps.grid import check_grid
    from nectargan.sweeps.results import result_of_trial
    from nectargan.sweeps.workers import is_worker

    if not is_worker():
        check_grid(search.corners, metrics)
    if dry_run:
        names = " and ".join(metrics)
        say(f"{counted(trials, 'trial')} of study '{search.name}', for the best {names}.")
        for point in search.corners:
            say(f"  for example {point.name}")
        say("Nothing was written.")
        return 0

    def announce(number: int, point: GridPoint) -> None:
        say(f"Trial {number}: {point.name}")

    search.open()
    if workers:
        failed = _run_search_in_workers(search, metrics, trials, workers)
    else:
        failed = 0
        for outcome in search.run(trials, start, announce):
            print_end(outcome)
            failed += outcome.state == "FAILED"
    if not is_worker():
        results = [result_of_trial(trial) for trial in search.trials() if trial.values]
        report(search.corners[0], axes, results, metrics)
    return failed


def _run_search_in_workers(search: Search, metrics: Sequence[str], trials: int, wanted: str) -> int:
    """Searches in several processes, and shows how the trials stand."""
    from nectargan.sweeps.results import Result, result_of_trial

    def failures() -> int:
        return sum(trial.state == "FAIL" and bool(trial.reason) for trial in search.trials())

    def results() -> list[Result]:
        return [result_of_trial(trial) for trial in search.trials() if trial.values]

    before = failures()
    with shown(results, metrics, trials) as look:
        # In the environment, because all users of the machine can read a command line.
        storage = {_STORAGE: search.storage}
        task = f"{counted(trials, 'trial')} of study '{search.name}' for"
        gave_up = _supervise(search.corners[0], wanted, task, look, storage)
    return failures() - before or gave_up
