"""Whether it is MLflow that answers: a login page of a network, or a proxy, says yes to everything.

To MLflow's client, an answer without content is an entity without an id, an empty list, or the
success of what it sent. So an id must be there, and after an answer that says nothing one more
question is asked, which only MLflow can answer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from nectargan.errors import RunError

_NOBODY = "0" * 32
_IDS = ("info.run_id", "model_id", "experiment_id", "version", "name", "key", "path")


class CheckedClient:
    """An `MlflowClient` of a server, whose methods raise `RunError` for what is no answer of
    MLflow's.

    Args:
        client: The client.
        address: What messages call the server.
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
        """A run, and no other."""
        run = self._client.get_run(run_id)
        if run.info.run_id != run_id:
            raise self._not_mlflow()
        return run

    def create_experiment(self, *arguments: Any, **options: Any) -> str:
        """The id of a new experiment."""
        experiment_id = str(self._client.create_experiment(*arguments, **options))
        if not experiment_id:
            raise self._not_mlflow()
        return experiment_id

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), **others: Any) -> None:
        """Logs metrics, params or tags; looks whether the last metrics have arrived."""
        self._client.log_batch(run_id, metrics=metrics, **others)
        # Not public; a history of each metric would be the whole record.
        latest = {each.key: each.step for each in self.get_run(run_id).data._metric_objs}
        if any(latest.get(metric.key, -1) < metric.step for metric in metrics):
            raise self._not_mlflow()

    def _check(self, answer: Any) -> None:
        if answer is None or (isinstance(answer, list) and not answer):
            self._ask_for_nobody()
            return
        first = answer[0] if isinstance(answer, list) else answer
        for path in _IDS:
            try:
                found = attrgetter(path)(first)
            except AttributeError:
                continue
            if found == "":
                raise self._not_mlflow()

    def _ask_for_nobody(self) -> None:
        """Asks for a run that is not there, which only MLflow says in its own words."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(_NOBODY)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            raise
        raise self._not_mlflow()

    def _not_mlflow(self) -> RunError:
        return RunError(f"what answers at '{self._address}' is not MLflow")
