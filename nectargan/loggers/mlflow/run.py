"""Finds or creates the MLflow run of a run directory."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nectargan.credentials import public_address
from nectargan.errors import RunError
from nectargan.loggers.mlflow.artifact_places import ARTIFACTS
from nectargan.loggers.mlflow.client import check_reachable, connect
from nectargan.loggers.mlflow.run_file import read_run_file, write_run_file
from nectargan.loggers.mlflow.store import database_of
from nectargan.record.ledger import LossRow, read_rows
from nectargan.record.run_directory import RunDirectory
from nectargan.wording import one_line

log = logging.getLogger("nectargan")

GROUP_TAG, _EARLIER_GROUP_TAG = "group_of_runs", "nectargan.group"

RUN_DIRECTORY = "run_directory"
SUPERSEDES, SUPERSEDED_BY = "supersedes", "superseded_by"
# Without this tag, the UI of MLflow shows the pages for language models, without a list of runs.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_PARENT_TAG, _NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
# MLflow derives the color of a run from its id, so two runs often have the same color.
_COLOR_TAG = "mlflow.runColor"
_COLORS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22"),
    *("#17becf", "#393b79", "#637939", "#8c6d31", "#843c39", "#7b4173", "#3182bd", "#e6550d"),
)


class RunFinder:
    """Finds or creates the MLflow run of a run directory.

    Args:
        client: The client that `connect` returned.
        tracking_uri: The server or database of ``client``.
        experiment: Name of the experiment; created if it does not exist.
        directory: The run directory. The id of its MLflow run is stored in it.
    """

    def __init__(
        self, client: Any, tracking_uri: str, experiment: str, directory: RunDirectory
    ) -> None:
        self._client = client
        self._tracking_uri = tracking_uri
        self._experiment = experiment
        self._directory = directory.resolve()

    def find(self) -> Any | None:
        """Finds the MLflow run of the directory.

        Returns:
            The `mlflow.entities.Run`; ``None`` if none was created, if the server does not have it,
            or if it belongs to another directory of which this one is a copy.

        Raises:
            RunError: the run or its experiment was deleted.
        """
        self.check_experiment()
        known = read_run_file(self._directory)
        run_id = known.get("run_id") or self._unwritten(known)
        run = self._get(run_id) if run_id else None
        while run is not None and run.info.lifecycle_stage == "deleted":
            newer = run.data.tags.get(SUPERSEDED_BY)
            if newer is None:
                raise RunError(run_is_deleted(self._directory, run.info.run_id, self._tracking_uri))
            run = self._get(newer)
        return run if run is not None and self._is_ours(run) else None

    def check_experiment(self) -> None:
        """Raises `RunError` if the experiment was deleted."""
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise RunError(
                experiment_is_deleted(
                    self._experiment, experiment.experiment_id, self._tracking_uri
                )
            )

    def _get(self, run_id: str) -> Any | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _unwritten(self, known: Mapping[str, Any]) -> str | None:
        """The id of a run whose process died in `create` before it stored the id."""
        if "started" in known:
            found = self._search(f"attributes.start_time = {int(known['started'])}")
        elif known.get("mark"):  # written by an earlier version
            found = self._search(f"tags.`nectargan.mark` = '{known['mark']}'")
            return str(found[0].info.run_id) if found else None
        else:
            return None
        mine = str(self._directory)
        ids = [run.info.run_id for run in found if run.data.tags.get(RUN_DIRECTORY) == mine]
        return str(ids[0]) if ids else None

    def _is_ours(self, run: Any) -> bool:
        """Whether a run belongs to this directory, which may have been moved, or to another
        directory of which this one is a copy."""
        other = Path(run.data.tags.get(RUN_DIRECTORY, self._directory))
        database, home = database_of(self._tracking_uri), self._directory.parent
        if database is not None and database.resolve().parent == home:
            # The directories of all runs in the database are beside it, even if both were moved.
            other = home / other.name
        if not other.is_dir() or other.samefile(self._directory):
            return True
        return bool(read_run_file(RunDirectory(other)).get("run_id") != run.info.run_id)

    def create(self, tags: Mapping[str, str], group: str | None, old: Any | None = None) -> Any:
        """Creates a run with the name of the directory.

        Args:
            tags: Tags of the run.
            group: Name of the parent run under which it is listed; created if it does not exist.
            old: The run that the new one replaces.
        """
        known: dict[str, Any] = {"started": _beginning_of(self._directory), "run_id": None}
        color = {_COLOR_TAG: _color_of(self._directory.name)}
        tags = {**tags, **color, RUN_DIRECTORY: str(self._directory)}
        if old is not None:
            earlier = read_run_file(self._directory).get(SUPERSEDES, [])
            known[SUPERSEDES] = [*earlier, old.info.run_id]
            tags[SUPERSEDES] = old.info.run_id
        if group is not None:
            tags[_PARENT_TAG] = self._parent(group)
        experiment = self._experiment_id()
        write_run_file(self._directory, known)
        run = self._client.create_run(
            experiment, start_time=known["started"], run_name=self._directory.name, tags=tags
        )
        write_run_file(self._directory, {**known, "run_id": run.info.run_id})
        return run

    def set_aside_old(self, run: Any) -> None:
        """Marks the run that ``run`` replaces as deleted, and links it to ``run`` by a tag. MLflow
        can restore it."""
        from mlflow.exceptions import MlflowException

        old_id = run.data.tags.get(SUPERSEDES)
        old = self._get(old_id) if old_id else None
        if old is None or old.info.lifecycle_stage == "deleted" or SUPERSEDED_BY in old.data.tags:
            return
        try:
            if old.info.status == "RUNNING":
                self._client.set_terminated(old_id, "KILLED")
            self._client.set_tag(old_id, SUPERSEDED_BY, run.info.run_id)
            self._client.delete_run(old_id)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            log.warning("MLflow run %s cannot be deleted: %s", old_id, one_line(error)[:200])

    def claim(self, run: Any) -> None:
        """Sets the status of an existing run to RUNNING and stores its id in the directory."""
        run_id = run.info.run_id
        self._client.update_run(run_id, status="RUNNING")
        self.note_place(run)
        known = read_run_file(self._directory)
        if known.get("run_id") != run_id:
            write_run_file(self._directory, {**known, "run_id": run_id})

    def note_place(self, run: Any) -> None:
        """Updates the path of the directory in a run, and the name of a renamed run."""
        before = run.data.tags.get(RUN_DIRECTORY)
        if before != str(self._directory):
            self._client.set_tag(run.info.run_id, RUN_DIRECTORY, str(self._directory))
            if before is not None and run.info.run_name == Path(before).name:
                self._client.update_run(run.info.run_id, name=self._directory.name)

    def _parent(self, group: str) -> str:
        for tag in (_EARLIER_GROUP_TAG, GROUP_TAG):
            if found := self._oldest(f"tags.`{tag}` = '{group}'"):
                return found
        note = f"A group, not a training: the runs of '{group}' are listed under it."
        created = self._client.create_run(
            self._experiment_id(), run_name=group, tags={GROUP_TAG: group, _NOTE_TAG: note}
        )
        self._client.set_terminated(created.info.run_id, "FINISHED")
        # Another process may have created one at the same time; all use the oldest.
        return str(self._oldest(f"tags.`{GROUP_TAG}` = '{group}'"))

    def _oldest(self, query: str) -> str | None:
        found = self._search(query)
        return str(found[0].info.run_id) if found else None

    def _search(self, query: str) -> Any:
        order = ["attributes.start_time ASC"]
        return self._client.search_runs([self._experiment_id()], query, order_by=order)

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            try:
                return str(
                    self._client.create_experiment(
                        self._experiment, self._artifact_location(), tags=_KIND
                    )
                )
            except MlflowException:
                # Probably another run has just created it; if not, this error is raised.
                experiment = self._client.get_experiment_by_name(self._experiment)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _artifact_location(self) -> str | None:
        """``mlartifacts`` beside an SQLite file. The default of MLflow is relative to the working
        directory of the process."""
        database = database_of(self._tracking_uri)
        if database is None:
            return None
        # The name of an experiment may be any text, even a path.
        folder = re.sub(r"[^\w\-. ]", "_", self._experiment).lstrip(".") or "_"
        return (database.resolve().parent / ARTIFACTS / folder).as_uri()


def run_is_deleted(directory: RunDirectory, run_id: str, tracking_uri: str) -> str:
    """A sentence that says what to do about a deleted MLflow run."""
    return (
        f"The MLflow run of '{directory}' was deleted; restore it with: "
        f"{_restore(tracking_uri)} runs restore --run-id {run_id}; or send everything to a new one "
        f"with: nectargan sync '{directory}' --new-run."
    )


def experiment_is_deleted(name: str, experiment_id: str, tracking_uri: str) -> str:
    """A sentence that says what to do about a deleted experiment."""
    return (
        f"The MLflow experiment '{name}' was deleted; restore it with: {_restore(tracking_uri)} "
        f"experiments restore --experiment-id {experiment_id}; or use another one with --set "
        "logging.mlflow.experiment=NAME."
    )


def _restore(tracking_uri: str) -> str:
    return f"MLFLOW_TRACKING_URI='{public_address(tracking_uri)}' mlflow"


def check_usable(tracking_uri: str, experiment: str, directory: RunDirectory | None) -> None:
    """Raises `RunError` unless a run can be logged.

    Args:
        tracking_uri: Server or database.
        experiment: Name of the experiment, which need not exist.
        directory: Directory of a run to resume; ``None`` for a new run.
    """
    check_reachable(tracking_uri)
    finder = RunFinder(
        connect(tracking_uri), tracking_uri, experiment, directory or RunDirectory("")
    )
    if directory is None:
        finder.check_experiment()
    else:
        finder.find()


def _beginning_of(directory: RunDirectory) -> int:
    """The time of the first row of a run, or now; in milliseconds since 1970."""
    try:
        return next(read_rows(directory.losses, LossRow)).time
    except (OSError, RunError, StopIteration):
        return time.time_ns() // 1_000_000


def _color_of(name: str) -> str:
    """A color for a run; up to sixteen consecutive versions have different colors."""
    version = name.rpartition("_v")[2]
    number = int(version) if version.isdecimal() else sum(name.encode())
    return _COLORS[(number - 1) % len(_COLORS)]
