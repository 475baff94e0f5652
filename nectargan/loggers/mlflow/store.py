"""Determines the MLflow server or database of a run, and creates the database file."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from nectargan.credentials import HIDDEN, TRACKING_URIS, is_tracking_uri, public_address
from nectargan.errors import RunError
from nectargan.names import EXPERIMENT_NAMES, is_experiment_name
from nectargan.record.lock import is_locked, locked
from nectargan.shell import expanded

TRACKING_URI, EXPERIMENT_NAME = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
DATABASE, DEFAULT = "mlflow.db", "the default"

_COPY = "_alembic_tmp_"
_LOOK_SECONDS = 0.1
# A database that another process may be creating must be unchanged for this time.
_QUIET_SECONDS = 5.0
_PATIENCE_SECONDS = 300.0

log = logging.getLogger("nectargan")


class Store(NamedTuple):
    """An MLflow server or database.

    Attributes:
        uri: Its address, which may contain a password.
        why: What selected it: an option, an environment variable, or the default.
    """

    uri: str
    why: str

    def __str__(self) -> str:
        return f"{public_address(self.uri)} ({self.why})"


def find_store(named: str | None, output: Path, is_new: bool = True) -> Store:
    """Determines the server or database of the runs in a directory.

    The address in the config is used first, then ``MLFLOW_TRACKING_URI``, then ``mlflow.db`` in the
    directory. A config never contains a user and password. If the variable has the same address as
    the config, its user and password are used.

    Args:
        named: ``logging.mlflow.tracking_uri`` of the config.
        output: The directory of the runs.
        is_new: Whether the run is new. For an existing run, the variable does not replace the
            default.

    Raises:
        RunError: the address is not one of MLflow, or the config contains only a part of it.
    """
    variable = os.environ.get(TRACKING_URI, "")
    if named == HIDDEN and not variable:
        raise RunError(
            "The MLflow address of the run was not stored, because it could not be separated from "
            f"its password; give it again with --mlflow-uri or {TRACKING_URI}."
        )
    if named is not None and named != HIDDEN:
        named = public_address(named) if HIDDEN in named else named
        if not variable or public_address(variable) != named:
            return Store(_absolute(named, "The address of MLflow"), "logging.mlflow.tracking_uri")
    elif not variable or not (is_new or named == HIDDEN):
        return Store(sqlite_uri(output.resolve() / DATABASE), DEFAULT)
    return Store(_absolute(variable, TRACKING_URI), TRACKING_URI)


def find_experiment(named: str | None, otherwise: str, is_new: bool = True) -> str:
    """Determines the name of the experiment of a run.

    Args:
        named: ``logging.mlflow.experiment`` of the config, which is used first.
        otherwise: The default, if ``MLFLOW_EXPERIMENT_NAME`` is not set either.
        is_new: Whether the run is new. For an existing run, the variable is ignored.

    Raises:
        RunError: the variable does not contain a valid name.
    """
    variable = os.environ.get(EXPERIMENT_NAME, "") if is_new else ""
    if named or not variable:
        return named or otherwise
    if not is_experiment_name(variable):
        raise RunError(f"{EXPERIMENT_NAME} cannot be {variable!r:.60}: {EXPERIMENT_NAMES}.")
    return variable


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file, whose path may contain any characters."""
    plain = path.as_posix()
    if not any(character in plain for character in "%?"):
        return f"sqlite:///{plain}"
    from sqlalchemy.engine import make_url

    # Without the name of the driver, MLflow creates a folder with the quoted name.
    quoted = plain.replace("%", "%25").replace("?", "%3F")
    for uri in (f"sqlite+pysqlite:///{quoted}", f"sqlite+pysqlite:///{plain}"):
        if make_url(uri).database == plain:
            return uri
    raise RunError(f"SQLAlchemy before 2.1 cannot open a database in '{path.parent}'.")


def database_of(uri: str) -> Path | None:
    """The file of an SQLite address; ``None`` for servers, other databases, and memory."""
    scheme, _, path = uri.partition(":///")
    if not scheme.startswith("sqlite") or path in ("", ":memory:"):
        return None
    if "%" in path or "?" in path:
        from sqlalchemy.engine import make_url

        path = str(make_url(uri).database)
    return Path(path)


def prepare_database(path: Path) -> None:
    """Creates MLflow's database if it does not exist.

    MLflow creates it in many steps, which take seconds. Therefore one process at a time creates it
    in a temporary folder and renames it when it is complete. An incomplete database without
    content, which MLflow itself may leave, is renamed.

    Raises:
        RunError: the file cannot be created or opened, or is not a database.
    """
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            raise RunError(f"MLflow's database cannot be '{path}': it is not a file.")
        if not _is_complete(path):
            with _creating(path) as folder:
                if folder is not None:
                    _move_incomplete(path)
                    _make(folder / path.name)
                    os.replace(folder / path.name, path)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"MLflow's database '{path}' cannot be used: {reason}.") from None


@contextmanager
def _creating(path: Path) -> Iterator[Path | None]:
    """An empty folder that only this process uses; ``None`` if another process was faster."""
    folder = path.with_name(f".{path.name}.making")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with ExitStack() as stack:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(folder))
                break
            except RunError:
                # The process that had the lock removes the folder at the end.
                is_waiting = is_locked(folder) or not folder.is_dir()
                if not is_waiting or time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)
        try:
            if _is_complete(path):
                yield None
                return
            # Files of a process that was killed.
            for left in folder.glob(f"{path.name}*"):
                left.unlink()
            yield folder
        finally:
            # The processes that wait for the lock will find the database.
            shutil.rmtree(folder, ignore_errors=True)


def _is_complete(path: Path) -> bool:
    """Whether MLflow has created a database completely, or it has other content.

    MLflow adds the first experiment after it has created all tables.

    Raises:
        RunError: the database contains runs but is incomplete.
    """
    if not path.exists():
        return False
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=20.0)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        # A migration copies a table, drops it, and renames the copy.
        copies = {name for name in tables if name.startswith(_COPY)}
        if not {"experiments", f"{_COPY}experiments"} & tables:
            return bool(tables)
        has_content = any(
            database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()  # noqa: S608 - our names
            for table in ("experiments", "runs", "registered_models")
            for name in {table, _COPY + table} & tables
        )
    if has_content and copies:
        raise RunError(
            f"MLflow's database '{path}' is incomplete: its upgrade was interrupted; restore "
            "a backup, or move it away and send each run again with nectargan sync."
        )
    return has_content


def _move_incomplete(path: Path) -> None:
    """Renames the incomplete database at ``path``, if there is one."""
    if path.exists():
        # An MLflow server may be creating it at this moment.
        seen, since = _state(path), time.monotonic()
        while time.monotonic() < since + _QUIET_SECONDS:
            time.sleep(_LOOK_SECONDS)
            if _state(path) != seen:
                seen, since = _state(path), time.monotonic()
        number = 1
        while (aside := path.with_name(f"{path.name}.half-made-{number}")).exists():
            number += 1
        os.replace(path, aside)
        log.warning(
            "MLflow was stopped while it created '%s'. The file has no content; it was renamed to "
            "'%s', and a new one is created.",
            path,
            aside.name,
        )
    # SQLite would apply these files to the new database.
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _make(path: Path) -> None:
    from mlflow.tracking import MlflowClient

    pool = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"
    before = os.environ.get(pool)
    # No connection must stay open, because the file is renamed.
    os.environ[pool] = "NullPool"
    try:
        MlflowClient(sqlite_uri(path)).search_experiments(max_results=1)
    finally:
        if before is None:
            del os.environ[pool]
        else:
            os.environ[pool] = before


def _absolute(uri: str, place: str) -> str:
    """The address with an absolute path; raises `RunError` if it is not valid."""
    if not is_tracking_uri(uri):
        raise RunError(f"{place} cannot be '{public_address(uri)}': {TRACKING_URIS}.")
    path = database_of(uri)
    if path is not None:
        path = Path(expanded(str(path)))
    if path is None or (path.is_absolute() and path == database_of(uri)):
        return uri
    _, mark, parameters = uri.partition("?")
    return f"{sqlite_uri(path.resolve())}{mark}{parameters}"
