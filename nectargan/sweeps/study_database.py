"""The database of an Optuna study, which several processes and machines can share."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nectargan.credentials import public_address, without_credentials
from nectargan.errors import RunError
from nectargan.wording import one_line

# Optuna detects by missing heartbeats that the process of a trial has died.
HEARTBEAT_SECONDS = 60
GRACE_SECONDS = 180
_DRIVERS = {
    "postgresql": {"psycopg2": "psycopg2", "psycopg": "psycopg"},
    "mysql": {"mysqldb": "MySQLdb", "pymysql": "pymysql"},
}


def connected(storage: str, on_dead: Callable[[Any], None]) -> Any:
    """Optuna's storage in a database.

    Args:
        storage: Address of the database.
        on_dead: Called with each trial whose process has stopped without an end.
    """
    import optuna

    waits = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else None
    return optuna.storages.RDBStorage(
        _with_driver(storage),
        engine_kwargs=waits,
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=lambda _, trial: on_dead(trial),
    )


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turns an error of the database with this address into a `RunError`."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError, OSError) as error:
        uri = public_address(storage)
        reason = without_credentials(one_line(error))[:200].rstrip(".")
        if isinstance(error, ImportError):
            reason = "its driver is not installed, such as psycopg2-binary or pymysql"
        if "://" not in storage:
            reason = "it must be an address such as sqlite:///optuna.db"
        raise RunError(f"Optuna's storage '{uri}' cannot be used: {reason}.") from None


def no_warnings() -> warnings.catch_warnings[None]:
    """Ignores warnings: heartbeats and the constant liar are marked as experimental in Optuna 4."""
    return warnings.catch_warnings(action="ignore")


def _with_driver(storage: str) -> str:
    """The address of a database with a driver that is installed, if it does not name one.

    SQLAlchemy looks for one driver only, and not for the same one in all its versions.
    """
    scheme, separator, rest = storage.partition("://")
    for driver, module in _DRIVERS.get(scheme, {}).items():
        if importlib.util.find_spec(module) is not None:
            return f"{scheme}+{driver}{separator}{rest}"
    return storage
