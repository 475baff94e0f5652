"""Finds problems of the MLflow runs of run directories, without writing to MLflow."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from nectargan.errors import RunError
from nectargan.loggers.mlflow.client import check_reachable, connect
from nectargan.loggers.mlflow.run import RunFinder, experiment_is_deleted, run_is_deleted
from nectargan.loggers.mlflow.run_file import read_run_file
from nectargan.loggers.mlflow.store import database_of
from nectargan.record.run_directory import RunDirectory


class TroubleFinder:
    """Checks the MLflow runs of run directories; a server that cannot be reached is tried once."""

    def __init__(self) -> None:
        self._away: dict[str, str] = {}

    def look(self, directory: RunDirectory, tracking_uri: str, experiment: str) -> str:
        """A sentence about the problem of an MLflow run and what to do about it; empty if there is
        no problem, or no MLflow run.

        Args:
            directory: The run directory.
            tracking_uri: Server or database of its MLflow run.
            experiment: Name of its experiment.
        """
        run_id = read_run_file(directory).get("run_id")
        if not run_id:
            return ""
        database = database_of(tracking_uri)
        if database is not None:
            # This way needs no import of MLflow, which takes seconds.
            return _look_in(database, directory, str(run_id), tracking_uri)
        if tracking_uri not in self._away:
            try:
                check_reachable(tracking_uri)
                self._away[tracking_uri] = ""
            except RunError as error:
                self._away[tracking_uri] = str(error)
        if self._away[tracking_uri]:
            return self._away[tracking_uri]
        try:
            finder = RunFinder(connect(tracking_uri), tracking_uri, experiment, directory)
            return "" if finder.find() else _lost(directory)
        except RunError as error:
            return str(error)


def _lost(directory: RunDirectory, why: str = "MLflow has no run") -> str:
    return f"{why} of '{directory}'; send it again with: nectargan sync '{directory}'."


def _look_in(database: Path, directory: RunDirectory, run_id: str, uri: str) -> str:
    if not database.is_file():
        return _lost(directory, f"'{database}' does not exist any more, nor does the MLflow run")
    query = (
        "SELECT r.lifecycle_stage, e.lifecycle_stage, e.name, e.experiment_id FROM runs r "
        "JOIN experiments e ON e.experiment_id = r.experiment_id WHERE r.run_uuid = ?"
    )
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as mlflow:
            found = mlflow.execute(query, (run_id,)).fetchone()
    except sqlite3.Error as error:
        return f"MLflow's database '{database}' cannot be read: {error}."
    if found is None:
        return _lost(directory)
    run_stage, experiment_stage, name, experiment_id = found
    if experiment_stage == "deleted":
        return experiment_is_deleted(name, str(experiment_id), uri)
    return run_is_deleted(directory, run_id, uri) if run_stage == "deleted" else ""
