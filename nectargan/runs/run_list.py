"""A summary of each run in an output directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nectargan.analysis.run_changes import changes_of
from nectargan.errors import NectarGANError, RunError
from nectargan.loggers.mlflow.store import find_experiment, find_store
from nectargan.loggers.mlflow.trouble import TroubleFinder
from nectargan.metrics import USUAL_SERIES
from nectargan.record.cursor import Cursor
from nectargan.record.last_values import best_of, last_step
from nectargan.record.lineage import Ancestor, read_ancestors
from nectargan.record.output_directory import runs_in
from nectargan.record.run_directory import RunDirectory
from nectargan.shell import is_pattern, matches

if TYPE_CHECKING:
    from nectargan.config.schema import Config


class RunSummary(NamedTuple):
    """The state of one run.

    Attributes:
        directory: The run directory.
        status: "RUNNING", "FINISHED", "KILLED" or "FAILED".
        reason: Why the run ended, if it did not finish; else empty.
        epoch: The last recorded epoch; 0 before the first one.
        epochs: The number of epochs in its config; 0 if it has no config.
        losses: The raw losses of the last recorded step, by name.
        best: The best value of `USUAL_SERIES` and its epoch; ``None`` if it was not measured.
        behind: Names of the sinks that have not received everything.
        changes: The changes of the config by resumes and forks, with their epochs.
        trouble: A problem of its MLflow run and how to solve it; empty if there is none.
        parent: The checkpoint that it was forked from; ``None`` if it is not a fork.
    """

    directory: RunDirectory
    status: str
    reason: str
    epoch: int
    epochs: int
    losses: dict[str, float]
    best: tuple[float, int] | None
    behind: list[str]
    changes: list[str]
    trouble: str = ""
    parent: Ancestor | None = None


def summarize_runs(output: str | Path) -> list[RunSummary]:
    """Summaries of all runs in a directory, sorted by name. See `RunDirectory.current_status` for
    runs whose process ended unexpectedly.

    Args:
        output: A directory of runs, a run directory, or a pattern that matches directories.

    Raises:
        RunError: there is no such directory.
    """
    places = [Path(output)]
    if is_pattern(str(output)):
        places = [place for place in matches(str(output)) if place.is_dir()]
    if not all(place.is_dir() for place in places) or not places:
        raise RunError(f"'{output}' is not a directory; give the directory of the runs.")
    finder = TroubleFinder()
    return [_summarize(path, finder) for place in places for path in _runs_at(place)]


def mlflow_troubles(output: Path) -> list[str]:
    """Problems of the MLflow runs of a directory of runs, and how to solve them."""
    finder = TroubleFinder()
    found = [_trouble(path, _config(path), finder) for path in _runs_at(output)]
    return [trouble for trouble in dict.fromkeys(found) if trouble]


def _runs_at(place: Path) -> list[RunDirectory]:
    """The run directories in ``place``, or ``place`` if it is one itself."""
    run = RunDirectory(place)
    return [run] if run.status else runs_in(place)


def _summarize(directory: RunDirectory, finder: TroubleFinder) -> RunSummary:
    status, reason = directory.current_status()
    _, epoch, losses = last_step(directory)
    config = _config(directory)
    epochs = config.train.epochs if config else 0
    names = directory.cursor_names()
    behind = [n for n in names if status != "RUNNING" and Cursor(directory, n).is_behind]
    best = best_of(directory, USUAL_SERIES, lineage=True)
    changes = list(map(str, changes_of(directory)))
    trouble = _trouble(directory, config, finder)
    if trouble and "MLflow" not in behind:
        behind.append("MLflow")
    parent = next(iter(read_ancestors(directory)[-1:]), None)
    return RunSummary(
        directory, status, reason, epoch, epochs, losses, best, behind, changes, trouble, parent
    )


def _config(directory: RunDirectory) -> Config | None:
    from nectargan.config.config_manager import ConfigManager

    try:
        return ConfigManager(directory.config).data
    except NectarGANError:
        return None  # a run of `nectargan.track` has no config


def _trouble(directory: RunDirectory, config: Config | None, finder: TroubleFinder) -> str:
    if config is None:
        return ""
    options, name = config.logging.mlflow, config.common.experiment_name
    try:
        store = find_store(options.tracking_uri, directory.parent, is_new=False)
    except RunError as error:
        return str(error)
    return finder.look(directory, store.uri, find_experiment(options.experiment, name, False))
