"""What a sweep prints: its runs while they are trained and at the end, the best ones, a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from nectargan.cli.closing import program
from nectargan.errors import NectarGANError
from nectargan.output import make_console, say
from nectargan.shell import quoted
from nectargan.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from nectargan.sweeps.axes import Axis
    from nectargan.sweeps.grid import GridOutcome, GridPoint
    from nectargan.sweeps.results import Result

# With more lines in a plot, their colors cannot be distinguished.
_MOST_COMPARED = 12
# Of a table on a terminal: its frame, its head, its caption, and a message above it.
_LINES_AROUND = 8


@contextmanager
def shown(
    results: Callable[[], Sequence[Result]], metrics: Sequence[str], count: int
) -> Iterator[Callable[[], None]]:
    """Yields a function that shows how the runs of a sweep stand: a live table, or without a
    terminal a line for each change.

    Args:
        results: The runs so far; those that are known stay where they are.
        metrics: The metrics to show.
        count: Number of runs in all, of which some may not be known yet.
    """
    from rich.live import Live

    from nectargan.sweeps.axes import name_of

    console = make_console()
    states: dict[int, str] = {}
    with (
        Live(console=console, auto_refresh=False, transient=True)
        if console.is_terminal and not console.is_dumb_terminal
        else nullcontext() as live
    ):

        def look() -> None:
            found = results()
            if live is not None:
                table = table_of(_fitting(found, console.height), metrics)
                table.caption = _summary(found, count)
                live.update(table, refresh=True)
                return
            for number, each in enumerate(found, 1):
                if states.get(number, "NEW") != each.state:
                    states[number] = each.state
                    run = "" if each.directory is None else f" {each.directory}"
                    say(f"Run {number} of {count}: {name_of(each.values)}: {each.state}{run}")

        yield look


def _fitting(results: Sequence[Result], height: int) -> list[Result]:
    """The results that fit on a terminal: of the finished and the new ones, only the last."""
    room = max(height - _LINES_AROUND, 1)
    running = sum(each.state == "RUNNING" for each in results)
    others = max(len(results) - max(room - running, 0) - running, 0)
    kept = []
    for each in results:
        if others and each.state != "RUNNING":
            others -= 1
        else:
            kept.append(each)
    return kept


def _summary(results: Sequence[Result], count: int) -> str:
    states = [each.state for each in results if each.state != "NEW"]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return ", ".join([*parts, f"{counted(count, 'run')} in all"])


def print_end(outcome: GridOutcome) -> None:
    """Prints how a run ended."""
    run = "" if outcome.directory is None else f" {outcome.directory}"
    if outcome.state == "FAILED":
        say(f"Failed:{run} {outcome.reason}", err=True)
    elif outcome.state == "RUNNING":
        say(f"Skipped:{run} {outcome.reason}")
    elif outcome.state == "PRUNED":
        say(f"Pruned:{run} {outcome.reason}")
    else:
        say(f"Finished:{run}")


def report(
    point: GridPoint, axes: Sequence[Axis], results: Sequence[Result], metrics: Sequence[str]
) -> None:
    """Prints the runs, which of them are best, and how much each option matters; plots the best."""
    from nectargan.sweeps.axes import short_names
    from nectargan.sweeps.results import importances, pareto_front

    are_lower_better = [point.config.validation.is_lower_better(metric) for metric in metrics]
    front = pareto_front(results, are_lower_better) if len(metrics) > 1 else []
    make_console().print(table_of(results, metrics, front))
    if len(metrics) > 1:
        say(f"Pareto: {counted(len(front), 'run')} that no other run beats in all metrics.")
    names = short_names([axis.key for axis in axes])
    found = importances(results, axes)
    if found:
        parts = ", ".join(f"{names[key]} {value:.0%}" for key, value in found.items())
        say(f"Importance for {metrics[0]}: {parts}.")
    _compare(point, results, metrics[0])


def table_of(
    results: Sequence[Result], metrics: Sequence[str], front: Sequence[Result] = ()
) -> Table:
    """A table with a row for each run; runs of the Pareto ``front`` are marked."""
    from rich.table import Table

    from nectargan.sweeps.axes import short_names

    columns = short_names(list(results[0].values)).values() if results else ()
    several = len(metrics) > 1
    measured = [*metrics, "Pareto"] if several else [f"best {metrics[0]}"]
    table = Table(*columns, "status", *measured, "run")
    for result in results:
        status = f"{result.state}: {result.reason}" if result.reason else result.state
        if several:
            shown = [f"{value:.4g}" for value in result.measured] or [""] * len(metrics)
            shown.append("*" if result in front else "")
        else:
            shown = ["" if result.best is None else f"{result.best:.4g}"]
        name = result.directory.name if result.directory else ""
        table.add_row(*result.values.values(), status, *shown, name)
    return table


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
    say(f"View: {program('nectargan')} ui {quoted(point.output)}")
