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
# Within an epoch a checkpoint has the step in its name; at the end of the epoch it has not.
_CHECKPOINT = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.pt")
_BEFORE_ALL = (-1, 0.0)


class RunDirectory(PathLike[str]):
    """Knows where each file of a run is, whether it is there or not, and how the run stands.

    It is accepted wherever a path is, and ``directory / "name"`` is the path of a file in it.

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
        """The directory that the run is in, absolute and without links."""
        # Of "." the parent would be "." again.
        return self.path.resolve().parent

    def resolve(self) -> RunDirectory:
        """The same directory with an absolute path without links."""
        return RunDirectory(self.path.resolve())

    # --- files ---------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        """The resolved config, as it is now."""
        return self.path / "config.json"

    @property
    def original_config(self) -> Path:
        """The config that the run began with, once it was resumed with another."""
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
        """The tags of each loss on record; see `read_loss_tags`."""
        return self.path / "losses.json"

    @property
    def metadata(self) -> Path:
        """What only the process that trains can know of a run: tags and data sets."""
        return self.path / "facts.json"

    @property
    def trusted_functions(self) -> Path:
        """A code that shows that this user allowed the functions that the config names."""
        return self.path / "functions.hmac"

    @property
    def resumptions(self) -> Path:
        """A line for each time that the run was resumed."""
        return self.path / "resumptions.jsonl"

    @property
    def orphaned(self) -> Path:
        """Folder of the rows and checkpoints that a resumed run did not go on from."""
        return self.path / "orphaned"

    @property
    def sinks_log(self) -> Path:
        """What the libraries of the sinks log."""
        return self.path / "sinks.log"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def mlflow_run(self) -> Path:
        """Which MLflow run is that of the directory."""
        return self.path / "mlflow_run.json"

    @property
    def cursors(self) -> Path:
        """Folder of the cursors of the sinks."""
        return self.path / "sinks"

    def cursor(self, sink: str) -> Path:
        """How far a sink has followed the ledgers; see `Cursor`."""
        return self.cursors / (re.sub(r"\W+", "_", sink) + ".json")

    def cursor_names(self) -> list[str]:
        """Names of the sinks that followed the run."""
        return sorted(path.stem for path in self.cursors.glob("*.json"))

    # --- files of epochs -----------------------------------------------------------------------

    @property
    def examples(self) -> Path:
        """Folder of the pictures of examples."""
        return self.path / "examples"

    def epoch_file(self, kind: EpochFileKind, epoch: int, step: int) -> Path:
        """A file made after ``step``, which ended ``epoch``: a picture or histograms (NPZ)."""
        suffix = _EPOCH_FILE_SUFFIXES[kind]
        return self.path / kind / f"epoch_{epoch:04d}_step_{step:08d}{suffix}"

    def epoch_files(self) -> list[str]:
        """All of them, relative to the directory, kind by kind in the order of steps."""
        return [
            f"{kind}/{path.name}"
            for kind in _EPOCH_FILE_SUFFIXES
            for path in sorted((self.path / kind).glob("epoch_*"))
            if step_of(path.name) is not None
        ]

    # --- checkpoints ---------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Another name of the newest checkpoint."""
        return self.checkpoints / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        """Another name of the best checkpoint."""
        return self.checkpoints / "best.pt"

    def checkpoint(self, epoch: int, step: int | None = None) -> Path:
        """The checkpoint of the end of an epoch, or of a step within it."""
        within = "" if step is None else f"_step_{step:08d}"
        return self.checkpoints / f"epoch_{epoch:04d}{within}.pt"

    def list_checkpoints(self, after: Path | None = None) -> list[Path]:
        """All checkpoints, or those later than one of them; the newest last."""
        found = [(_place_of(path), path) for path in self.checkpoints.glob("epoch_*.pt")]
        first = _BEFORE_ALL if after is None else _place_of(after)
        return [path for place, path in sorted(found) if place > first]

    # --- status --------------------------------------------------------------------------------

    def lock(self) -> AbstractContextManager[None]:
        """Keeps other processes out, for the time of a ``with`` statement; see `locked`."""
        return locked(self)

    @property
    def is_locked(self) -> bool:
        """Whether a process is at work in it."""
        return is_locked(self)

    @property
    def status(self) -> str:
        """One of "RUNNING", "FINISHED", "KILLED", "FAILED"; empty for what is no run directory."""
        return self.read_status()[0]

    def read_status(self) -> tuple[str, str]:
        """How the run stands, and why; empty if nothing is known."""
        try:
            content = json.loads(read_regular_text(self.path / _STATUS_FILE))
            return str(content["status"]), str(content["reason"])
        except (OSError, ValueError, TypeError, KeyError):
            return "", ""

    def write_status(self, status: str, reason: str = "") -> None:
        """Notes how the run stands, and why.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path / _STATUS_FILE
        text = json.dumps({"status": status, "reason": reason})
        try:
            with replacing(path) as part:
                part.write_text(text, encoding="utf-8")
        except OSError:
            if not path.is_file():
                raise
            # A full disk has no room for another file, but in the one that is there.
            with path.open("r+b") as file:
                file.truncate(file.write(text.encode("utf-8")))

    def end_status(self) -> tuple[RunStatus, str]:
        """How the run ended, and why. One that died without a word is marked as killed.

        Nobody else may be at work in the directory; see `current_status`.

        Raises:
            RunError: that cannot be noted.
        """
        status, reason = self.read_status()
        if status in ("FINISHED", "FAILED"):
            return status, reason  # type: ignore[return-value]
        if status != "KILLED":
            reason = "it died without a word"
            try:
                self.write_status("KILLED", reason)
            except OSError as error:
                place = error.filename or self
                raise RunError(f"'{place}' cannot be written: {error.strerror}.") from error
        return "KILLED", reason

    def current_status(self) -> tuple[str, str]:
        """As `read_status`, but one that died without a word is marked as killed."""
        if self.status == "RUNNING":
            try:
                with self.lock():
                    return self.end_status()
            except RunError:
                pass  # somebody is at work in it
        return self.read_status()

    def require_status(self) -> None:
        """Raises `RunError` unless this is a run directory: it has a status."""
        if not self.status:
            raise self.not_a_run(_STATUS_FILE)

    def not_a_run(self, lacks: str) -> RunError:
        """The error for a path that names no run, with what may have been meant.

        Args:
            lacks: What a run directory would have there.
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
            return RunError(f"'{path}' is no run directory: there is none.{meant}")
        runs = runs_in(path)
        if runs:
            return RunError(
                f"'{path}' is no run directory, but holds {counted(len(runs), 'run')}, such as "
                f"'{runs[0]}'."
            )
        return RunError(f"'{path}' is no run directory: it has no {lacks}.")


def step_of(name: str) -> int | None:
    """The step in the name of a file of an epoch; ``None`` for any other name."""
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
    """Makes the directory of a new run.

    Args:
        output: Where runs are kept; made if need be.
        experiment: First part of the name.
        first: Lowest version number to give.
        auto_increment: Take the number after the highest one there is; else exactly ``first``.

    Returns:
        The new, empty directory. Two processes never get the same one.

    Raises:
        RunError: it cannot be made, or exists and ``auto_increment`` is off.
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
                        f"Run directory '{directory}' exists; set save.auto_increment_version, or "
                        "another common.experiment_version."
                    ) from None
                version += 1
            else:
                return RunDirectory(directory)
    except OSError as error:
        raise RunError(f"No run can be made in '{output}': {error.strerror}.") from None


def list_runs(output: Path, experiment: str) -> list[RunDirectory]:
    """The run directories of an experiment, the newest version last."""
    return [RunDirectory(path) for _, path in _versions(output, experiment)]


def runs_in(folder: Path) -> list[RunDirectory]:
    """The run directories in a folder, by name: those that have a status."""
    if not folder.is_dir():
        return []
    return [run for path in sorted(folder.iterdir()) if (run := RunDirectory(path)).status]


def _versions(output: Path, experiment: str) -> list[tuple[int, Path]]:
    if not output.is_dir():
        return []
    pattern = re.compile(re.escape(experiment) + r"_v(\d+)")
    matches = ((pattern.fullmatch(entry.name), entry) for entry in output.iterdir())
    # As numbers: as text, version 10 would come before version 9.
    return sorted((int(match[1]), entry) for match, entry in matches if match)
