"""Connects to MLflow, and logs entries so that a rejected one does not affect the others."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nectargan.credentials import public_address, without_credentials
from nectargan.errors import RunError
from nectargan.loggers.mlflow.answers import CheckedClient
from nectargan.loggers.mlflow.artifact_places import follow_move
from nectargan.loggers.mlflow.store import database_of, prepare_database
from nectargan.wording import one_line

log = logging.getLogger("nectargan")

_PER_CALL = {"metrics": 1000, "params": 100, "tags": 100}
# Error codes for entries that MLflow will never accept, in contrast to an outage.
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def connect(tracking_uri: str) -> Any:
    """Returns a client for a server or database. A server is only contacted by the first call.

    Raises:
        RunError: the database file cannot be created or opened.
    """
    database = database_of(tracking_uri)
    if database is not None:
        prepare_database(database)
        follow_move(database)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    if tracking_uri.startswith("http"):
        # With MLflow's defaults, a call can block for four minutes. The sink retries anyway.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri)
    if tracking_uri.startswith("http"):
        return CheckedClient(client, public_address(tracking_uri))
    return client


def check_reachable(tracking_uri: str) -> None:
    """Raises `RunError` unless a server or database answers."""
    try:
        connect(tracking_uri).search_experiments(max_results=1)
    except Exception as error:
        # MLflow, its database driver and its network may raise anything.
        reason = without_credentials(one_line(error))[:200].rstrip(".")
        uri = public_address(tracking_uri)
        raise RunError(
            f"MLflow cannot be reached at '{uri}': {reason}.{login_hint(error)}"
        ) from None


def login_hint(error: BaseException) -> str:
    """Says what to do if an error means that the server requires a login; otherwise empty."""
    if getattr(error, "error_code", "") not in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ""
    return (
        " The user and password of an address are never stored: give it again with --mlflow-uri or "
        "MLFLOW_TRACKING_URI, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    )


@contextmanager
def as_default(tracking_uri: str) -> Iterator[None]:
    """A context manager that makes a store the default of MLflow. Some functions of the registry
    use the default store instead of that of the client."""
    import mlflow

    before: Any = os.environ.get("MLFLOW_TRACKING_URI")  # None selects the default
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


class RunClient:
    """Logs to one MLflow run.

    Args:
        client: The client that `connect` returned.
        run_id: Id of the run.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def log(self, kind: str, entities: Sequence[Any]) -> None:
        """Logs "metrics", "params" or "tags". An entry that MLflow rejects is left out with a
        warning; the others are logged."""
        self._log(kind, entities, _PER_CALL[kind])

    def _log(self, kind: str, entities: Sequence[Any], per_call: int) -> None:
        from mlflow.exceptions import MlflowException

        for i in range(0, len(entities), per_call):
            part = entities[i : i + per_call]
            try:
                self.client.log_batch(self.run_id, **{kind: part})
            except MlflowException as error:
                if error.error_code not in _REFUSED:
                    raise
                if len(part) > 1:
                    self._log(kind, part, (len(part) + 1) // 2)
                    continue
                reason = one_line(error)[:200]
                log.warning("MLflow refuses %s '%s': %s", kind, part[0].key, reason)

    def tag(self, key: str, value: str) -> None:
        """Sets a tag."""
        self.client.set_tag(self.run_id, key, value)

    def keep(self, path: Path, folder: str | None = None) -> None:
        """Uploads a file if it exists. If MLflow rejects it, it is left out with a warning."""
        from mlflow.exceptions import MlflowException

        if not path.exists():
            return
        try:
            self.client.log_artifact(self.run_id, str(path), folder)
        except MlflowException as error:
            if error.error_code not in (*_REFUSED, "PERMISSION_DENIED"):
                raise
            log.warning("MLflow refuses '%s': %s", path.name, one_line(error)[:200])
