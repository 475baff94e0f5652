"""How the runs of an output directory stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nectargan.analysis.run_changes import changes_of
from nectargan.errors import NectarGANError, RunError
from nectargan.loggers.mlflow.store import find_experiment, find_store
from nectargan.loggers.mlflow.trouble import TroubleFinder
from nectargan.metrics import USUAL_SERIES
from nectargan.record.cursor import Cursor, cursor_names
from nectargan.record.ledger import LOSSES_FILE, METRICS_FILE, read_blocks
from nectargan.record.run_directory import CONFIG_FILE, end_of, locked, read_status
from nectargan.shell import is_pattern, matches

if TYPE_CHECKING:
    from nectargan.config.schema import Config


class RunSummary(NamedTuple):
    """How one run stands.

    Attributes:
        directory: The run directory.
        status: "RUNNING", "FINISHED", "KILLED" or "FAILED".
        reason: Why it ended, if it was not finished.
        epoch: The last epoch on record; 0 for none.
        epochs: Epochs that it was to last.
        losses: The raw losses of the last step on record, by name.
        best: The best `USUAL_SERIES` and its epoch; ``None`` where that is not measured.
        behind: Names of the sinks that lack something.
        changes: What was changed of it when it was resumed, and in which epoch.
        trouble: What is the matter with its MLflow run, and what to do; empty for nothing.
    """

    directory: Path
    status: str
    reason: str
    epoch: int
    epochs: int
    losses: dict[str, float]
    best: tuple[float, int] | None
    behind: list[str]
    changes: list[str]
    trouble: str = ""


def summarize_runs(output: str | Path) -> list[RunSummary]:
    """All runs in a directory, by name; one that died without a word is marked as killed.

    Args:
        output: The directory, or a run directory itself, or a pattern of such.

    Raises:
        RunError: there is no such directory.
    """
    places = [Path(output)]
    if is_pattern(str(output)):
        places = [place for place in matches(str(output)) if place.is_dir()]
    if not all(place.is_dir() for place in places) or not places:
        raise RunError(f"'{output}' is no directory; name the one that runs are in.")
    finder = TroubleFinder()
    return [_summarize(path, finder) for place in places for path in _runs_in(place)]


def mlflow_troubles(output: Path) -> list[str]:
    """What is the matter with the MLflow runs of the runs in a directory, and what to do."""
    finder = TroubleFinder()
    found = [_trouble(path, _config(path), finder) for path in _runs_in(output)]
    return [trouble for trouble in dict.fromkeys(found) if trouble]


def _runs_in(place: Path) -> list[Path]:
    if read_status(place)[0]:
        return [place]
    return [path for path in sorted(place.iterdir()) if read_status(path)[0]]


def current_status(directory: Path) -> tuple[str, str]:
    """How a run stands, and why. One that died without a word is marked as killed."""
    if read_status(directory)[0] == "RUNNING":
        try:
            with locked(directory):
                return end_of(directory)
        except RunError:
            pass  # somebody is at work in it
    return read_status(directory)


def _summarize(directory: Path, finder: TroubleFinder) -> RunSummary:
    status, reason = current_status(directory)
    _, epoch, losses = last_step(directory / LOSSES_FILE)
    config = _config(directory)
    epochs = config.train.epochs if config else 0
    names = cursor_names(directory)
    behind = [n for n in names if status != "RUNNING" and Cursor(directory, n).is_behind]
    best = best_of(directory, USUAL_SERIES)
    changes = list(map(str, changes_of(directory)))
    trouble = _trouble(directory, config, finder)
    if trouble and "MLflow" not in behind:
        behind.append("MLflow")
    return RunSummary(
        directory, status, reason, epoch, epochs, losses, best, behind, changes, trouble
    )


def _config(directory: Path) -> Config | None:
    from nectargan.config.config_manager import ConfigManager

    try:
        return ConfigManager(directory / CONFIG_FILE).data
    except NectarGANError:
        return None  # a loop under `nectargan.track` has none


def _trouble(directory: Path, config: Config | None, finder: TroubleFinder) -> str:
    if config is None:
        return ""
    options, name = config.logging.mlflow, config.common.experiment_name
    try:
        store = find_store(options.tracking_uri, directory.resolve().parent, is_new=False)
    except RunError as error:
        return str(error)
    return finder.look(directory, store.uri, find_experiment(options.experiment, name, False))


def last_step(path: Path) -> tuple[int, int, dict[str, float]]:
    """Step, epoch and raw losses of the last step in a ledger; 0, 0 and nothing for an empty one.

    Only the end of the file is read, and what is no row is passed over.
    """
    last: dict[str, float] = {}
    at = (0, 0)
    for step, epoch, loss, raw in _rows(path, tail=1 << 16):
        if (step, epoch) != at:
            at, last = (step, epoch), {}
        last[loss] = raw
    return *at, last


def best_of(
    directory: Path, metric: str, is_lower_better: bool = False
) -> tuple[float, int] | None:
    """The best value of a metric in a run directory, and its epoch; ``None`` if there is none."""
    rows = _rows(directory / METRICS_FILE)
    # NaN would be greater and less than nothing: what comes first would be the best.
    values = [(v, epoch) for _, epoch, name, v in rows if name == metric and math.isfinite(v)]
    choose = min if is_lower_better else max
    return choose(values, key=lambda each: each[0], default=None)


def _rows(path: Path, tail: int | None = None) -> Iterator[tuple[int, int, str, float]]:
    """Step, epoch, name and value of all rows, or of those in the last ``tail`` bytes. What is no
    row, or no ledger at all, is passed over: a damaged run must not hide the others."""
    try:
        begin = max(0, path.stat().st_size - tail) if tail else 0
        for lines, _ in read_blocks(path, begin):
            for line in lines.decode("utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    step, epoch, _, name, value = line.split(",")[:5]
                    row = int(step), int(epoch), name, float(value)
                    yield row
    except (OSError, RunError):
        return
