"""`RunDirectory`: the files of a run, ``<output>/<experiment>_v<N>``."""

from __future__ import annotations

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

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
EpochFileKind = Literal["examples", "loss_maps", "histograms"]

LOSSES_FILE = "losses.csv"
METRICS_FILE = "metrics.csv"
GRADIENTS_FILE = "gradients.csv"
EVENT_FILES = "events.out.tfevents.*"
"""Pattern of the names of TensorBoard's event files."""

STATUS_FILE = "status.json"
_PARENT = "parent checkpoint"
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
    def gradients(self) -> Path:
        """The ledger of the gradients; see `GradientRow`. Not every run has one."""
        return self.path / GRADIENTS_FILE

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
    def lineage(self) -> Path:
        """Folder of what a fork has from its parent; see `nectargan.record.lineage`."""
        return self.path / "lineage"

    @property
    def ancestors(self) -> Path:
        """The checkpoints that a fork descends from; see `read_ancestors`."""
        return self.lineage / "ancestors.json"

    def inherited(self, ledger: str) -> Path:
        """The rows of a ledger from before the run was forked."""
        return self.lineage / ledger

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

    @property
    def report(self) -> Path:
        """The page that ``save.report`` asks for; see `nectargan.analysis.report`."""
        return self.path / "report.html"

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

    def test_images(self, split: str) -> Path:
        """Folder of the images of a split on which a metric is best or worst."""
        return self.tests / split

    def test_image(self, split: str, row: int) -> Path:
        """A PNG image of input, generated and target, of a row of `test_values`, from 0."""
        return self.test_images(split) / f"{row:06d}.png"

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
        content = self._status_content()
        return content.get("status", ""), content.get("reason", "")

    def _status_content(self) -> dict[str, str]:
        """The content of ``status.json``; empty if there is no status in it."""
        try:
            content = json.loads(read_regular_text(self.path / STATUS_FILE))
            keys = ["status", "reason", *([_PARENT] if _PARENT in content else [])]
            return {key: str(content[key]) for key in keys}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def write_status(self, status: str, reason: str = "", parent: Path | None = None) -> None:
        """Writes the status and its reason to ``status.json``.

        Args:
            status: The status.
            reason: Why the run ended; empty if there is nothing to say.
            parent: The checkpoint that the run was forked from, which later calls keep.

        Raises:
            OSError: the file cannot be written.
        """
        path = self.path / STATUS_FILE
        content = {"status": status, "reason": reason}
        kept = str(parent) if parent else self._status_content().get(_PARENT)
        text = json.dumps(content if kept is None else {**content, _PARENT: kept})
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
            # mypy does not narrow a text by `in`.
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
