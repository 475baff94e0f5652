"""Where the record of a run can be read: a run directory, TensorBoard's event files, MLflow."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from nectargan.analysis.tables import read_ledger
from nectargan.errors import NectarGANError, RunError
from nectargan.output import printable
from nectargan.record.loss_tags import read_loss_tags
from nectargan.record.run_directory import EVENT_FILES, RunDirectory
from nectargan.shell import expanded, is_pattern, matches

if TYPE_CHECKING:
    from nectargan.config.schema import Config

log = logging.getLogger("nectargan")

T = TypeVar("T")
RunLike = str | PathLike[str]
MLFLOW = "mlflow:"


class Source(Protocol):
    """The record of one run, wherever it is kept.

    Attributes:
        name: What tables and pictures call the run.
        place: What the user called it.
    """

    name: str
    place: str

    def tables(
        self, file: str, as_text: bool = False, columns: Sequence[str] = ()
    ) -> Iterator[Any]:
        """What ``losses.csv`` or ``metrics.csv`` holds, in parts; see `tables.read_ledger`.

        ``columns`` spares work where there is a ledger; a sink may ignore it."""

    def config(self) -> Config | None:
        """The config of the run, where it is known."""

    def status(self) -> tuple[str, str]:
        """How the run stands, and why; empty where it is not known."""

    def tags(self) -> dict[str, list[str]] | None:
        """The tags of each loss, where they are known."""


class LedgerSource:
    """A run directory: the ledger itself."""

    def __init__(self, directory: RunDirectory) -> None:
        self.name = printable(directory.resolve().name)
        self.place = printable(str(directory))
        self.directory = directory

    def tables(
        self, file: str, as_text: bool = False, columns: Sequence[str] = ()
    ) -> Iterator[Any]:
        """Reads the ledger."""
        return read_ledger(self.directory, file, as_text, columns)

    def config(self) -> Config | None:
        """Reads ``config.json``, which a loop under `nectargan.track` does not have."""
        return read_config(self.directory.config)

    def status(self) -> tuple[str, str]:
        """The status and its reason; see `RunDirectory.observed_status`."""
        return self.directory.observed_status()

    def tags(self) -> dict[str, list[str]] | None:
        """Reads ``losses.json``."""
        return read_loss_tags(self.directory.loss_tags)


def read_config(path: Path) -> Config | None:
    """The config in a file; ``None`` if there is no such file."""
    # Models of a config take longer to import than most ledgers to read.
    from nectargan.config.config_manager import ConfigManager

    return ConfigManager(path).data if path.exists() else None


def open_sources(runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None) -> list[Source]:
    """Finds runs; their names are all different.

    Args:
        runs: One or more of: a run directory; a pattern such as ``"runs/*"``, which stands for the
            run directories among its matches; ``mlflow:<run id>``; a directory with TensorBoard's
            event files. ``~`` and ``$NAME`` stand for what they do in a shell.
        mlflow_uri: MLflow server or database; without one, that in ``MLFLOW_TRACKING_URI``, else
            ``runs/mlflow.db``.

    Raises:
        RunError: there is no such run, or MLflow cannot be reached.
    """
    if isinstance(runs, (str, PathLike)):
        runs = [runs]
    sources = [source for run in runs for source in _found(os.fspath(run), mlflow_uri)]
    if not sources:
        raise RunError("No run was named; name one or more run directories.")
    names = Counter(source.name for source in sources)
    for source in sources:
        if names[source.name] > 1:
            source.name = source.place
    return sources


def readable(sources: Sequence[Source], read: Callable[[Source], T]) -> list[tuple[Source, T]]:
    """What ``read`` finds in each run. One of several that cannot be read is left out, with a
    warning: it must not hide the others.

    Raises:
        NectarGANError: none can be read.
    """
    found, problems = [], list[NectarGANError]()
    for source in sources:
        try:
            found.append((source, read(source)))
        except NectarGANError as error:
            problems.append(error)
    if problems and not found:
        raise problems[0]
    for problem in problems:
        log.warning("%s It is left out.", problem)
    return found


def is_several(runs: RunLike | Sequence[RunLike]) -> bool:
    """Whether ``runs`` may stand for several runs: a list or a pattern, whatever it matches."""
    return not isinstance(runs, (str, PathLike)) or _is_pattern(os.fspath(runs))


def _is_pattern(run: str) -> bool:
    return not run.startswith(MLFLOW) and is_pattern(run)


def one_run(run: str) -> RunDirectory:
    """The one run directory that a path or a pattern stands for; raises RunError for several."""
    found = runs_matching(run)
    if len(found) > 1:
        raise RunError(f"'{run}' matches {len(found)} runs: {', '.join(found[:5])}; name one.")
    return RunDirectory(found[0])


def runs_matching(run: str) -> list[str]:
    """The run directories that a pattern stands for; what is none stands for itself.

    Raises:
        RunError: a pattern matches no run directory.
    """
    if not _is_pattern(run):
        return [run]
    found = [str(path) for path in matches(run) if RunDirectory(path).losses.exists()]
    if not found:
        raise RunError(f"'{run}' matches no run directory.")
    return found


def _found(run: str, mlflow_uri: str | None) -> list[Source]:
    if run.startswith(MLFLOW):
        from nectargan.analysis.trackers import MLflowSource

        return [MLflowSource(run.removeprefix(MLFLOW), mlflow_uri)]
    run = expanded(run)
    if not _is_pattern(run):
        return [_in_directory(RunDirectory(run))]
    return [LedgerSource(RunDirectory(path)) for path in runs_matching(run)]


def _in_directory(directory: RunDirectory) -> Source:
    if not directory.losses.exists() and any(directory.path.glob(EVENT_FILES)):
        from nectargan.analysis.trackers import TensorBoardSource

        return TensorBoardSource(directory.path)
    files = (directory.losses, directory.metrics, directory.config)
    if not any(file.exists() for file in files):
        raise directory.not_a_run("losses.csv, and no event files of TensorBoard")
    return LedgerSource(directory)
