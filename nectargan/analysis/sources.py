"""Where the record of a run can be read: run directory, TensorBoard's event files, MLflow."""

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
from nectargan.record.lineage import Ancestor, ledgers_of, read_ancestors
from nectargan.record.loss_tags import read_loss_tags
from nectargan.record.output_directory import not_a_run
from nectargan.record.run_directory import EVENT_FILES, RunDirectory
from nectargan.shell import expanded, is_pattern, matches

if TYPE_CHECKING:
    from nectargan.config.schema import Config

log = logging.getLogger("nectargan")

T = TypeVar("T")
RunLike = str | PathLike[str]
MLFLOW = "mlflow:"


class Source(Protocol):
    """A source of the record of one run.

    Attributes:
        name: The name of the run in tables and pictures.
        place: The run as the user named it.
    """

    name: str
    place: str

    def tables(
        self, file: str, as_text: bool = False, columns: Sequence[str] = ()
    ) -> Iterator[Any]:
        """The content of a ledger such as ``losses.csv``, in parts; see `tables.read_ledger`.

        A source that is not a ledger may ignore ``columns``."""

    def config(self) -> Config | None:
        """The config of the run; ``None`` if it is not known."""

    def status(self) -> tuple[str, str]:
        """The status of the run and its reason; both empty where they are not known."""

    def tags(self) -> dict[str, list[str]] | None:
        """The tags of each loss; ``None`` if not known."""


class LedgerSource:
    """A run directory, whose ledgers are read.

    Args:
        directory: The run directory.
        lineage: Whether the rows from before the run was forked are read as well.
    """

    def __init__(self, directory: RunDirectory, lineage: bool = False) -> None:
        self._lineage = lineage
        self.name = printable(directory.resolve().name)
        self.place = printable(str(directory))
        self.directory = directory

    def tables(
        self, file: str, as_text: bool = False, columns: Sequence[str] = ()
    ) -> Iterator[Any]:
        """Reads the ledger."""
        return read_ledger(self.directory, file, as_text, columns, self._lineage)

    def has(self, file: str) -> bool:
        """Whether such a ledger is on record."""
        ledgers = ledgers_of(self.directory, file) if self._lineage else [self.directory / file]
        return ledgers[-1].exists()

    def config(self) -> Config | None:
        """Reads ``config.json``, which a run of `nectargan.track` does not have."""
        return read_config(self.directory.config)

    def status(self) -> tuple[str, str]:
        """The status and its reason; see `RunDirectory.observed_status`."""
        return self.directory.observed_status()

    def tags(self) -> dict[str, list[str]] | None:
        """Reads ``losses.json``."""
        return read_loss_tags(self.directory.loss_tags)


def ancestors_of(source: Source) -> list[Ancestor]:
    """The checkpoints that a run descends from; none if it is not known to be a fork."""
    return read_ancestors(source.directory) if isinstance(source, LedgerSource) else []


def read_config(path: Path) -> Config | None:
    """The config in a file; ``None`` if there is no such file."""
    # Importing the models of a config takes longer than reading most ledgers.
    from nectargan.config.config_manager import ConfigManager

    return ConfigManager(path).data if path.exists() else None


def open_sources(
    runs: RunLike | Sequence[RunLike], mlflow_uri: str | None = None, lineage: bool = False
) -> list[Source]:
    """Finds runs and gives each a different name.

    Args:
        runs: One or more of: a run directory; a pattern such as ``"runs/*"``, which stands for the
            run directories among its matches; ``mlflow:<run id>``; a directory with TensorBoard's
            event files. ``~`` and ``$NAME`` are replaced as in a shell.
        mlflow_uri: MLflow server or database; by default the one in ``MLFLOW_TRACKING_URI``, else
            ``runs/mlflow.db``.
        lineage: Whether run directories of forks are read with the rows from before the fork.

    Raises:
        RunError: there is no such run, or MLflow cannot be reached.
    """
    if isinstance(runs, (str, PathLike)):
        runs = [runs]
    sources = [source for run in runs for source in _found(os.fspath(run), mlflow_uri, lineage)]
    if not sources:
        raise RunError("No run was given; give one or more run directories.")
    names = Counter(source.name for source in sources)
    for source in sources:
        if names[source.name] > 1:
            source.name = source.place
    return sources


def open_with_lineage(
    runs: RunLike | Sequence[RunLike], mlflow_uri: str | None, lineage: bool
) -> list[Source]:
    """As `open_sources`; with ``lineage`` also raises `RunError` for what is no run directory."""
    sources = open_sources(runs, mlflow_uri, lineage)
    for source in sources:
        if lineage and not isinstance(source, LedgerSource):
            raise RunError(
                f"'{source.place}' has no lineage to read: only a run directory has one."
            )
    return sources


def readable(sources: Sequence[Source], read: Callable[[Source], T]) -> list[tuple[Source, T]]:
    """What ``read`` returns for each run. If some of several runs cannot be read, they are left out
    with a warning.

    Raises:
        NectarGANError: no run can be read.
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
    """Whether ``runs`` may stand for several runs, which a list and a pattern do."""
    return not isinstance(runs, (str, PathLike)) or _is_pattern(os.fspath(runs))


def _is_pattern(run: str) -> bool:
    return not run.startswith(MLFLOW) and is_pattern(run)


def one_run(run: str) -> RunDirectory:
    """The run directory that a path or a pattern stands for; raises RunError for several."""
    found = runs_matching(run)
    if len(found) > 1:
        names = ", ".join(found[:5])
        raise RunError(f"'{run}' matches {len(found)} runs: {names}; give one of them.")
    return RunDirectory(found[0])


def runs_matching(run: str) -> list[str]:
    """The run directories that a pattern stands for; any other ``run`` is returned unchanged.

    Raises:
        RunError: the pattern matches no run directory.
    """
    if not _is_pattern(run):
        return [run]
    found = [str(path) for path in matches(run) if RunDirectory(path).losses.exists()]
    if not found:
        raise RunError(f"'{run}' matches no run directory.")
    return found


def _found(run: str, mlflow_uri: str | None, lineage: bool) -> list[Source]:
    if run.startswith(MLFLOW):
        from nectargan.analysis.trackers import MLflowSource

        return [MLflowSource(run.removeprefix(MLFLOW), mlflow_uri)]
    run = expanded(run)
    if not _is_pattern(run):
        return [_in_directory(RunDirectory(run), lineage)]
    return [LedgerSource(RunDirectory(path), lineage) for path in runs_matching(run)]


def _in_directory(directory: RunDirectory, lineage: bool) -> Source:
    if not directory.losses.exists() and any(directory.path.glob(EVENT_FILES)):
        from nectargan.analysis.trackers import TensorBoardSource

        return TensorBoardSource(directory.path)
    files = (directory.losses, directory.metrics, directory.config)
    if not any(file.exists() for file in files):
        raise not_a_run(directory, "losses.csv, and no event files of TensorBoard")
    return LedgerSource(directory, lineage)
