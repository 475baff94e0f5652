"""Which MLflow run is that of a run directory: found, or made once."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nectargan.files import read_regular_text, replacing
from nectargan.loggers.mlflow_store import database_of

RUN_FILE = "mlflow_run.json"
GROUP_TAG = "nectargan.group"

_MARK_TAG = "nectargan.mark"
# Without it, the UI opens an experiment as one of language models, with no runs in sight.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_PARENT_TAG = "mlflow.parentRunId"


def remember_run(directory: Path, known: Mapping[str, str] | None) -> None:
    """Writes down which MLflow run is that of a run directory, if the directory does not say so
    itself any more; raises OSError."""
    path = directory / RUN_FILE
    if known is not None and not path.exists():
        _write_json(path, {"mark": "", "run_id": known["run_id"]})


class RunFinder:
    """Finds the MLflow run of a run directory, or makes it.

    Args:
        client: From `connect`.
        tracking_uri: Where ``client`` is connected to.
        experiment: Name of the experiment; made if there is none.
        directory: The run directory, which remembers its run.
    """

    def __init__(self, client: Any, tracking_uri: str, experiment: str, directory: Path) -> None:
        self._client = client
        self._tracking_uri = tracking_uri
        self._experiment = experiment
        self._directory = directory

    def find(self) -> str | None:
        """The id of the run, if an earlier process made one."""
        try:
            known = json.loads(read_regular_text(self._directory / RUN_FILE))
            mark, run_id = str(known["mark"]), known["run_id"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if run_id is None:
            # It died between the two lines of `create`: its run has the mark among its tags.
            run_id = self._oldest(f"tags.`{_MARK_TAG}` = '{mark}'")
        return None if run_id is None else str(run_id)

    def create(self, tags: Mapping[str, str], group: str | None) -> str:
        """Makes a run, named as the directory, and returns its id.

        Args:
            tags: Its tags.
            group: Name of the parent run to list it under, made or found.
        """
        path, mark = self._directory / RUN_FILE, uuid.uuid4().hex
        _write_json(path, {"mark": mark, "run_id": None})
        tags = {**tags, _MARK_TAG: mark}
        if group is not None:
            tags[_PARENT_TAG] = self._parent(group)
        name = self._directory.name
        run = self._client.create_run(self._experiment_id(), run_name=name, tags=tags)
        _write_json(path, {"mark": mark, "run_id": run.info.run_id})
        return str(run.info.run_id)

    def _parent(self, group: str) -> str:
        query = f"tags.`{GROUP_TAG}` = '{group}'"
        if self._oldest(query) is None:
            made = self._client.create_run(
                self._experiment_id(), run_name=group, tags={GROUP_TAG: group}
            )
            self._client.set_terminated(made.info.run_id, "FINISHED")
        # Another process may have made one in the same moment: all take the oldest.
        return str(self._oldest(query))

    def _oldest(self, query: str) -> str | None:
        order = ["attributes.start_time ASC"]
        found = self._client.search_runs([self._experiment_id()], query, order_by=order)
        return str(found[0].info.run_id) if found else None

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
                # Another run made it in the same moment; if not, the look-up says what is wrong.
                experiment = self._client.get_experiment_by_name(self._experiment)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _artifact_location(self) -> str | None:
        """``mlartifacts`` beside an SQLite file; MLflow's own default would be under whatever
        directory the process happens to run in."""
        database = database_of(self._tracking_uri)
        if database is None:
            return None
        # An experiment of MLflow's may have any name, a path among them.
        folder = re.sub(r"[^\w\-. ]", "_", self._experiment).lstrip(".") or "_"
        return (database.resolve().parent / "mlartifacts" / folder).as_uri()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")
