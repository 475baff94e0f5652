"""`RunDirectory`: the files of a run, ``<output>/<experiment>_v<N>``."""

from __future__ import annotations

import difflib
import json
import math
import re
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Literal

from nectargan.errors import RunError
from nectargan.files import read_regular_text, replacing
from nectargan.record.lock import is_locked, locked
from nectargan.wording import counted

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
EpochFileKind = Literal["examples", "loss_maps", "histograms"]

LOSSES_FILE = "losses.csv"
METRICS_FILE = "metrics.csv"
EVENT_FILES = "events.out.tfevents.*"
"""Pattern of the names of TensorBoard's event files."""

_STATUS_FILE = "status.json"
_EPOCH_FILE_SUFFIXES: dict[EpochFileKind, str] = {
    "examples": ".png",
    "loss_maps": ".png",
    "histograms": ".npz",
}
_EPOCH_FILE = re.compile(r"epoch_(\d+)_step_(\d+)\.(png|npz)")
# A checkpoint made in mid-epoch has its step in the name; one made at the end of an epoch does not.
_CHECKPOINT = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.pt")
_BEFORE_ALL = (-1, 0.0)
_DIED = "the process ended unexpectedly"


class RunDirectory(PathLike[str]):
    """The paths of all files of a run, whether they exist or not, and the status of the run.

    It can be passed wherever a path is accepted, and ``directory / "name"`` is the path of a file
    in it.

    Args:
        path: The directory of the run.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathLike) and self.path == Path(other)

    def __hash__(self) -> int:
        return hash(self.path)

    def __truediv__(self, name: str | PathLike[str]) -> Path:
        return self.path / name

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def parent(self) -> Path:
        """The directory that contains the run directory, as an absolute path without links."""
        # Path(".").parent is Path(".").
        return self.path.resolve().parent

    def resolve(self) -> RunDirectory:
        """The same directory with an absolute path without links."""
        return RunDirectory(self.path.resolve())

    # --- files ---------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        """The resolved config; after a resume with another config, the new one."""
        return self.path / "config.json"

    @property
    def original_config(self) -> Path:
        """The config that the run started with; written when it is resumed with another one."""
        return self.path / "config_original.json"

    @property
    def losses(self) -> Path:
        """The ledger of the losses; see `LossRow`."""
        return self.path / LOSSES_FILE

    @property
    def metrics(self) -> Path:
        """The ledger of all other measurements; see `MetricRow`."""
        return self.path / METRICS_FILE

    @property
    def loss_tags(self) -> Path:
        """The tags of each recorded loss; see `read_loss_tags`."""
        return self.path / "losses.json"

    @property
    def metadata(self) -> Path:
        """Tags and data sets of the run, as the training process found them."""
        old = self.path / "facts.json"  # the name in earlier versions
        return old if old.exists() else self.path / "metadata.json"

    @property
    def trusted_functions(self) -> Path:
        """A keyed hash (HMAC) which proves that this user trusted the functions in the config."""
        return self.path / "functions.hmac"

    @property
    def resumptions(self) -> Path:
        """One line of JSON for each time the run was resumed."""
        return self.path / "resumptions.jsonl"

    @property
    def orphaned(self) -> Path:
        """Folder of rows and checkpoints that are later than the checkpoint that was resumed."""
        return self.path / "orphaned"

    @property
    def sinks_log(self) -> Path:
        """Log messages of the libraries that the sinks use, such as MLflow."""
        return self.path / "sinks.log"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def mlflow_run(self) -> Path:
        """The id and server of the MLflow run that belongs to this directory."""
        return self.path / "mlflow_run.json"

    @property
    def cursors(self) -> Path:
        """Folder of the sinks' cursors."""
        return self.path / "sinks"

    def cursor(self, sink: str) -> Path:
        """The file that says how much of the ledgers a sink has received; see `Cursor`."""
        return self.cursors / (re.sub(r"\W+", "_", sink) + ".json")

    def cursor_names(self) -> list[str]:
        """Names of the sinks that have a cursor, sorted."""
        return sorted(path.stem for path in self.cursors.glob("*.json"))

    # --- files of epochs -----------------------------------------------------------------------

    @property
    def examples(self) -> Path:
        """Folder of the example images."""
        return self.path / "examples"

    def epoch_file(self, kind: EpochFileKind, epoch: int, step: int) -> Path:
        """The file of ``epoch``, whose last step is ``step``: a PNG image, or an NPZ file for
        "histograms"."""
        suffix = _EPOCH_FILE_SUFFIXES[kind]
        return self.path / kind / f"epoch_{epoch:04d}_step_{step:08d}{suffix}"

    def epoch_files(self) -> list[str]:
        """All existing epoch files relative to the run directory, grouped by kind and sorted by
        step."""
        return [
            f"{kind}/{path.name}"
            for kind in _EPOCH_FILE_SUFFIXES
            for path in sorted((self.path / kind).glob("epoch_*"))
            if step_of(path.name) is not None
        ]

    # --- tests ---------------------------------------------------------------------------------

    @property
    def tests(self) -> Path:
        """Folder of what ``nectargan test`` measured."""
        return self.path / "test"

    def test_values(self, split: str) -> Path:
        """The metrics of each image of a split; see `TestRecord`."""
        return self.tests / f"{split}.csv"

    def test_record(self, split: str) -> Path:
        """The metrics of a split and how they were measured; see `TestRecord`."""
        return self.tests / f"{split}.json"

    # --- checkpoints ---------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Link to, or copy of, the newest checkpoint."""
        return self.checkpoints / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        """Link to, or copy of, the checkpoint with the best validation metric."""
        return self.checkpoints / "best.pt"

    def checkpoint(self, epoch: int, step: int | None = None) -> Path:
        """The path of a checkpoint made at the end of ``epoch``, or in mid-epoch after ``step``."""
        suffix = "" if step is None else f"_step_{step:08d}"
        return self.checkpoints / f"epoch_{epoch:04d}{suffix}.pt"

    def list_checkpoints(self, after: Path | None = None) -> list[Path]:
        """All existing checkpoints, or those later than ``after``, sorted from old to new."""
        found = [(_place_of(path), path) for path in self.checkpoints.glob("epoch_*.pt")]
        first = _BEFORE_ALL if after is None else _place_of(after)
        return [path for place, path in sorted(found) if place > first]

    # --- status --------------------------------------------------------------------------------

    def lock(self) -> AbstractContextManager[None]:
        """A context manager that keeps other processes out of the directory; see `locked`."""
        return locked(self)

    @property
    def is_locked(self) -> bool:
        """Whether a process has locked the directory, which it does while it trains."""
        return is_locked(self)

    @property
    def status(self) -> str:
        """ "RUNNING", "FINISHED", "KILLED" or "FAILED"; empty if this is not a run directory."""
        return self.read_status()[0]

    def read_status(self) -> tuple[str, str]:
        """The status in ``status.json`` and its reason; both empty if there is none."""
        try:
            content = json.loads(read_regular_text(self.path / _STATUS_FILE))
            return str(content["status"]), str(content["reason"])
        except (OSError, ValueError, TypeError, KeyError):
            return "", ""

    def write_status(self, status: str, reason: str = "") -> None:
        """Writes the status and its reason to ``status.json``.

        Raises:
            OSError: the file cannot be written.
        """
        path = self.path / _STATUS_FILE
        text = json.dumps({"status": status, "reason": reason})
        try:
            with replacing(path) as part:
                part.write_text(text, encoding="utf-8")
        except OSError:
            if not path.is_file():
                raise
            # On a full disk a new file cannot be written, but the existing one can be overwritten.
            with path.open("r+b") as file:
                file.truncate(file.write(text.encode("utf-8")))

    def end_status(self) -> tuple[RunStatus, str]:
        """The final status and its reason. A run whose process ended without setting a status is
        marked as KILLED in ``status.json``.

        The caller must hold the lock of the directory; `current_status` takes it itself.

        Raises:
            RunError: ``status.json`` cannot be written.
        """
        status, reason = self.read_status()
        if status in ("FINISHED", "FAILED"):
            return status, reason  # type: ignore[return-value]
        if status != "KILLED":
            reason = _DIED
            try:
                self.write_status("KILLED", reason)
            except OSError as error:
                place = error.filename or self
                raise RunError(f"'{place}' cannot be written: {error.strerror}.") from error
        return "KILLED", reason

    def current_status(self) -> tuple[str, str]:
        """As `read_status`, but "KILLED" for a run that is "RUNNING" according to ``status.json``
        though no process has locked its directory. The file is corrected if it can be written."""
        if self.status == "RUNNING":
            try:
                with self.lock():
                    return self.end_status()
            except RunError:
                pass  # in use, or cannot be written
        return self.observed_status()

    def observed_status(self) -> tuple[str, str]:
        """As `current_status`, but writes nothing."""
        status, reason = self.read_status()
        if status == "RUNNING" and not self.is_locked:
            return "KILLED", _DIED
        return status, reason

    def require_status(self) -> None:
        """Raises `RunError` unless the directory has a status, which every run directory has."""
        if not self.status:
            raise self.not_a_run(_STATUS_FILE)

    def not_a_run(self, lacks: str) -> RunError:
        """The error for a path that is not a run directory, with a suggestion if one is likely.

        Args:
            lacks: The name of the file that is missing.
        """
        path = self.path
        if path.is_file():
            parent = RunDirectory(path.parent)
            hint = f"; '{parent}' is one" if parent.status else ""
            return RunError(f"'{path}' is a file, not a run directory{hint}.")
        if not path.exists():
            near = [each for folder in (path.parent, Path("runs")) for each in runs_in(folder)]
            names = difflib.get_close_matches(path.name, [each.name for each in near], n=1)
            meant = next((f" Did you mean '{each}'?" for each in near if each.name in names), "")
            return RunError(f"'{path}' is not a run directory: it does not exist.{meant}")
        runs = runs_in(path)
        if runs:
            return RunError(
                f"'{path}' is not a run directory, but contains {counted(len(runs), 'run')}, such "
                f"as '{runs[0]}'."
            )
        return RunError(f"'{path}' is not a run directory: it has no {lacks}.")


def step_of(name: str) -> int | None:
    """The step in the name of an epoch file; ``None`` if the name is not one of an epoch file."""
    match = _EPOCH_FILE.fullmatch(name.rpartition("/")[2])
    return int(match[2]) if match else None


def _place_of(path: Path) -> tuple[int, float]:
    """A key to sort checkpoints by."""
    match = _CHECKPOINT.fullmatch(path.name)
    if match is None:
        return _BEFORE_ALL
    return int(match[1]), int(match[2]) if match[2] else math.inf


# --- the directories of an output directory ------------------------------------------------------


def create_run_directory(
    output: Path, experiment: str, first: int = 1, auto_increment: bool = True
) -> RunDirectory:
    """Creates the directory of a new run, ``<output>/<experiment>_v<number>``.

    Args:
        output: Directory of the runs; created if it does not exist.
        experiment: First part of the name.
        first: Lowest version number to use.
        auto_increment: Use the number after the highest existing one; otherwise exactly ``first``.

    Returns:
        The new, empty directory. Two processes never get the same one.

    Raises:
        RunError: the directory cannot be created, or it exists and ``auto_increment`` is off.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        version = first
        if auto_increment:
            highest = max((version for version, _ in _versions(output, experiment)), default=0)
            version = max(first, highest + 1)
        while True:
            directory = output / f"{experiment}_v{version}"
            try:
                directory.mkdir()
            except FileExistsError:
                if not auto_increment:
                    raise RunError(
                        f"Run directory '{directory}' exists already; set "
                        "save.auto_increment_version or another common.experiment_version."
                    ) from None
                version += 1
            else:
                return RunDirectory(directory)
    except OSError as error:
        raise RunError(f"No run can be created in '{output}': {error.strerror}.") from None


def list_runs(output: Path, experiment: str) -> list[RunDirectory]:
    """The run directories of an experiment, sorted by version number."""
    return [RunDirectory(path) for _, path in _versions(output, experiment)]


def runs_in(folder: Path) -> list[RunDirectory]:
    """The run directories in a folder, sorted by name."""
    if not folder.is_dir():
        return []
    return [run for path in sorted(folder.iterdir()) if (run := RunDirectory(path)).status]


def _versions(output: Path, experiment: str) -> list[tuple[int, Path]]:
    if not output.is_dir():
        return []
    pattern = re.compile(re.escape(experiment) + r"_v(\d+)")
    matches = ((pattern.fullmatch(entry.name), entry) for entry in output.iterdir())
    # Sorted as numbers, because as text version 10 would come before version 9.
    return sorted((int(match[1]), entry) for match, entry in matches if match)
