"""Where MLflow keeps runs: which server or database, and the database file itself."""

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
# For so long nobody has written to a database that somebody else may be making.
_QUIET_SECONDS = 5.0
_PATIENCE_SECONDS = 300.0

log = logging.getLogger("nectargan")


class Store(NamedTuple):
    """A server or database of MLflow's.

    Attributes:
        uri: Its address, for MLflow; it may hold a password.
        why: What says so: an option, a variable, or the default.
    """

    uri: str
    why: str

    def __str__(self) -> str:
        return f"{public_address(self.uri)} ({self.why})"


def find_store(named: str | None, output: Path, is_new: bool = True) -> Store:
    """The store of the runs in a directory: the only place where this is decided.

    What the config names comes first, then ``MLFLOW_TRACKING_URI``, then ``mlflow.db`` in the
    directory. User and password of a named store, which no config keeps, are those in the variable
    if it has the same address.

    Args:
        named: ``logging.mlflow.tracking_uri`` of the config, which ``--mlflow-uri`` sets.
        output: The directory.
        is_new: Whether the variable is asked: not for a run that is in some store already.

    Raises:
        RunError: what is named is no address of MLflow's, or only what is left of one.
    """
    variable = os.environ.get(TRACKING_URI, "")
    if named == HIDDEN and not variable:
        raise RunError(
            "The address of the run's MLflow was not kept, because it could not be told from its "
            f"password; give it again with --mlflow-uri or {TRACKING_URI}."
        )
    if named is not None and named != HIDDEN:
        named = public_address(named) if HIDDEN in named else named
        if not variable or public_address(variable) != named:
            return Store(_absolute(named, "The address of MLflow"), "logging.mlflow.tracking_uri")
    elif not variable or not (is_new or named == HIDDEN):
        return Store(sqlite_uri(output.resolve() / DATABASE), DEFAULT)
    return Store(_absolute(variable, TRACKING_URI), TRACKING_URI)


def find_experiment(named: str | None, otherwise: str, is_new: bool = True) -> str:
    """The experiment of a run: the named one, else that in ``MLFLOW_EXPERIMENT_NAME``, else the
    last one.

    Raises:
        RunError: the variable holds no name for an experiment.
    """
    variable = os.environ.get(EXPERIMENT_NAME, "") if is_new else ""
    if named or not variable:
        return named or otherwise
    if not is_experiment_name(variable):
        raise RunError(f"{EXPERIMENT_NAME} cannot be {variable!r:.60}: {EXPERIMENT_NAMES}.")
    return variable


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file, whatever characters its path has."""
    plain = path.as_posix()
    if not any(character in plain for character in "%?"):
        return f"sqlite:///{plain}"
    from sqlalchemy.engine import make_url

    # With the driver's name in it: without, MLflow makes a directory of the quoted name.
    quoted = plain.replace("%", "%25").replace("?", "%3F")
    for uri in (f"sqlite+pysqlite:///{quoted}", f"sqlite+pysqlite:///{plain}"):
        if make_url(uri).database == plain:
            return uri
    raise RunError(f"SQLAlchemy before 2.1 can open no database in '{path.parent}'.")


def database_of(uri: str) -> Path | None:
    """The file of an SQLite address; ``None`` for a server, another database, or memory."""
    scheme, _, path = uri.partition(":///")
    if not scheme.startswith("sqlite") or path in ("", ":memory:"):
        return None
    if "%" in path or "?" in path:
        from sqlalchemy.engine import make_url

        path = str(make_url(uri).database)
    return Path(path)


def prepare_database(path: Path) -> None:
    """Makes MLflow's database, unless it is there.

    MLflow takes seconds to make one, in many steps. So it is made aside, by one process at a time,
    and takes its name when it is complete. One that MLflow itself left half-made, and that holds
    nothing yet, is moved out of the way.

    Raises:
        RunError: the file cannot be made or opened, or is no database.
    """
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            raise RunError(f"MLflow's database cannot be '{path}': it is no file.")
        if not _is_complete(path):
            with _making(path) as folder:
                if folder is not None:
                    _move_half_made(path)
                    _make(folder / path.name)
                    os.replace(folder / path.name, path)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"MLflow's database '{path}' cannot be used: {reason}.") from None


@contextmanager
def _making(path: Path) -> Iterator[Path | None]:
    """An empty folder that is this process's own, or ``None`` once another made the database."""
    folder = path.with_name(f".{path.name}.making")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with ExitStack() as stack:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(folder))
                break
            except RunError:
                # Whoever had the lock removes the folder in the end.
                is_waiting = is_locked(folder) or not folder.is_dir()
                if not is_waiting or time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)
        try:
            if _is_complete(path):
                yield None
                return
            # What a killed process left.
            for left in folder.glob(f"{path.name}*"):
                left.unlink()
            yield folder
        finally:
            # Those who wait for the lock find the database; nobody else asks for it.
            shutil.rmtree(folder, ignore_errors=True)


def _is_complete(path: Path) -> bool:
    """Whether MLflow has finished making a database, or something else is in it.

    The first experiment is added when all tables are there.

    Raises:
        RunError: it holds runs, and is not complete.
    """
    if not path.exists():
        return False
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=20.0)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        # Migrations copy a table, drop it and rename the copy.
        copies = {name for name in tables if name.startswith(_COPY)}
        if not {"experiments", f"{_COPY}experiments"} & tables:
            return bool(tables)
        holds_something = any(
            database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()  # noqa: S608 - our names
            for table in ("experiments", "runs", "registered_models")
            for name in {table, _COPY + table} & tables
        )
    if holds_something and copies:
        raise RunError(
            f"MLflow's database '{path}' was left half-made when its upgrade was cut off; put a "
            "copy of it back, or move it away and send each run anew with nectargan sync."
        )
    return holds_something


def _move_half_made(path: Path) -> None:
    """Makes room at ``path``, where nothing or a half-made database is."""
    if path.exists():
        # An MLflow server may be making it right now.
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
            "MLflow was stopped while it made '%s', which holds nothing yet: it is '%s' now, and "
            "a new one is made.",
            path,
            aside.name,
        )
    # SQLite would take what these hold for a part of the new one.
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _make(path: Path) -> None:
    from mlflow.tracking import MlflowClient

    pool = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"
    before = os.environ.get(pool)
    # No connection stays open: the file moves.
    os.environ[pool] = "NullPool"
    try:
        MlflowClient(sqlite_uri(path)).search_experiments(max_results=1)
    finally:
        if before is None:
            del os.environ[pool]
        else:
            os.environ[pool] = before


def _absolute(uri: str, place: str) -> str:
    """An address that means the same in every working directory."""
    if not is_tracking_uri(uri):
        raise RunError(f"{place} cannot be '{public_address(uri)}': {TRACKING_URIS}.")
    path = database_of(uri)
    if path is not None:
        path = Path(expanded(str(path)))
    if path is None or (path.is_absolute() and path == database_of(uri)):
        return uri
    _, mark, parameters = uri.partition("?")
    return f"{sqlite_uri(path.resolve())}{mark}{parameters}"
