"""Checks that the answers come from MLflow, not from a proxy or the login page of a network.

Such a page answers every request with success. MLflow's client turns it into an entity without an
id, an empty list, or a successful write. Therefore an answer must have an id, and an empty answer
is followed by a request that only MLflow can answer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from nectargan.errors import RunError

_MISSING_RUN = "0" * 32
_IDS = ("info.run_id", "model_id", "experiment_id", "version", "name", "key", "path")


class CheckedClient:
    """An `MlflowClient` for a server whose methods raise `RunError` if MLflow did not answer.

    Args:
        client: The client.
        address: Address of the server in messages.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self._address = address

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def checked(*arguments: Any, **options: Any) -> Any:
            answer = method(*arguments, **options)
            self._check(answer)
            return answer

        return checked

    def get_run(self, run_id: str) -> Any:
        """The run with this id."""
        run = self._client.get_run(run_id)
        if run.info.run_id != run_id:
            raise self._not_mlflow()
        return run

    def create_experiment(self, *arguments: Any, **options: Any) -> str:
        """Creates an experiment and returns its id."""
        experiment_id = str(self._client.create_experiment(*arguments, **options))
        if not experiment_id:
            raise self._not_mlflow()
        return experiment_id

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), **others: Any) -> None:
        """Logs metrics, params or tags, and checks that the metrics have arrived."""
        self._client.log_batch(run_id, metrics=metrics, **others)
        # This attribute is private. The public way would read all points of each metric.
        latest = {each.key: each.step for each in self.get_run(run_id).data._metric_objs}
        if any(latest.get(metric.key, -1) < metric.step for metric in metrics):
            raise self._not_mlflow()

    def _check(self, answer: Any) -> None:
        if answer is None or (isinstance(answer, list) and not answer):
            self._request_missing_run()
            return
        first = answer[0] if isinstance(answer, list) else answer
        for path in _IDS:
            try:
                found = attrgetter(path)(first)
            except AttributeError:
                continue
            if found == "":
                raise self._not_mlflow()

    def _request_missing_run(self) -> None:
        """Requests a run that does not exist; only MLflow answers with its error code for that."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(_MISSING_RUN)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            raise
        raise self._not_mlflow()

    def _not_mlflow(self) -> RunError:
        return RunError(f"what answers at '{self._address}' is not MLflow")
