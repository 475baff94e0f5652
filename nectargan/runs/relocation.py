"""Removes and moves run directories together with their MLflow runs."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nectargan.config.schema import Config
from nectargan.credentials import public_address, without_credentials
from nectargan.errors import RunError
from nectargan.files import replacing
from nectargan.loggers.mlflow.client import connect
from nectargan.loggers.mlflow.run import RUN_DIRECTORY, RunFinder
from nectargan.loggers.mlflow.run_file import read_run_file
from nectargan.loggers.mlflow.store import database_of, find_experiment, find_store
from nectargan.names import EXPERIMENT_NAMES, is_experiment_name
from nectargan.record.output_directory import require_status
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.sinks import config_of, synchronize
from nectargan.wording import one_line


class _Place(NamedTuple):
    """The MLflow run of a directory, and its server."""

    client: Any
    uri: str
    run: Any  # None if there is none


def remove_run(directory: RunDirectory, with_mlflow: bool = True) -> None:
    """Removes a run directory and deletes its MLflow run, which MLflow can restore; both or none.

    Args:
        directory: The run directory.
        with_mlflow: Whether to delete the MLflow run.

    Raises:
        RunError: this is not a run directory, the run is in use, or MLflow or the disk does not
            allow it.
    """
    require_status(directory)
    directory = directory.resolve()
    aside = directory.path.with_name(f".{directory.name}.removed-{secrets.token_hex(4)}")
    with directory.lock():
        place = _mlflow_of(directory, config_of(directory)) if with_mlflow else None
        if place is not None and place.run is not None:
            _call(place.uri, lambda: place.client.delete_run(place.run.info.run_id))
    try:
        directory.path.rename(aside)
    except OSError as error:
        if place is not None and place.run is not None:
            place.client.restore_run(place.run.info.run_id)
        raise RunError(f"'{directory}' cannot be removed: {error.strerror}.") from None
    try:
        shutil.rmtree(aside)
    except OSError as error:
        raise RunError(
            f"'{directory}' was removed as a run, but some of its files remain in '{aside}': "
            f"{error.strerror}; remove them by hand."
        ) from None


def move_run(directory: RunDirectory, target: Path) -> Path:
    """Renames or moves a run directory together with its MLflow run; both or none.

    If another MLflow database belongs to the new place, the run is sent to it again.

    Args:
        directory: The run directory.
        target: Its new path, or only a new name.

    Returns:
        The new path.

    Raises:
        RunError: this is not a run directory, the run is in use, the new path exists already, or
            MLflow or the disk does not allow it.
    """
    require_status(directory)
    directory = directory.resolve()
    if target.parent == Path() and not str(target).startswith("."):
        target = directory.parent / target
    target = target.resolve()
    if not is_experiment_name(target.name):
        raise RunError(f"A run cannot be named {target.name!r}: {EXPERIMENT_NAMES}.")
    if target.exists():
        raise RunError(f"'{target}' exists already; give another name.")
    if not target.parent.is_dir() or target.is_relative_to(directory.path):
        raise RunError(f"'{directory}' cannot be moved to '{target}': there is no such directory.")
    with directory.lock():
        config = config_of(directory)
        place = _mlflow_of(directory, config)
    known = directory.mlflow_run
    before = known.read_bytes() if known.exists() else None
    _rename(directory.path, target)
    try:
        if place is not None and place.run is not None:
            _move_in_mlflow(place, config, directory, RunDirectory(target))
    except BaseException:
        _rename(target, directory.path)
        if before is not None:
            with replacing(known) as part:
                part.write_bytes(before)
        raise
    return target


def _mlflow_of(directory: RunDirectory, config: Config | None) -> _Place | None:
    """The MLflow run of a directory; ``None`` if it never had one, or its database is missing."""
    if config is None or not read_run_file(directory):
        return None
    options = config.logging.mlflow
    uri = find_store(options.tracking_uri, directory.parent, is_new=False).uri
    database = database_of(uri)
    if database is not None and not database.is_file():
        return None
    experiment = find_experiment(options.experiment, config.common.experiment_name, is_new=False)
    client = _call(uri, lambda: connect(uri))
    finder = RunFinder(client, uri, experiment, directory)
    try:
        return _Place(client, uri, _call(uri, finder.find))
    except RunError as error:
        if "was deleted" not in str(error):
            raise
        return _Place(client, uri, None)


def _call(uri: str, function: Callable[[], Any]) -> Any:
    """Calls MLflow; raises `RunError` if the call fails."""
    try:
        return function()
    except RunError:
        raise
    except Exception as error:
        # MLflow, its database driver and its network may raise anything.
        reason = without_credentials(one_line(error))[:300]
        raise RunError(
            f"MLflow at '{public_address(uri)}' failed: {reason}; nothing was changed."
        ) from None


def _move_in_mlflow(place: _Place, config: Config, old: RunDirectory, new: RunDirectory) -> None:
    named = config.logging.mlflow.tracking_uri
    run_id, name = place.run.info.run_id, place.run.info.run_name
    if find_store(named, new.parent, is_new=False).uri != place.uri:
        # Another database: everything is sent to it, and the run in the old one is deleted.
        synchronize(new, with_own=False)
        _call(place.uri, lambda: place.client.delete_run(run_id))
        return
    if name == old.name:
        _call(place.uri, lambda: place.client.update_run(run_id, name=new.name))
    try:
        _call(place.uri, lambda: place.client.set_tag(run_id, RUN_DIRECTORY, str(new)))
    except RunError:
        place.client.update_run(run_id, name=name)
        raise


def _rename(old: Path, new: Path) -> None:
    try:
        try:
            old.rename(new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(old, new)
    except OSError as error:
        raise RunError(f"'{old}' cannot be moved to '{new}': {error.strerror}.") from None


def _copy(old: Path, new: Path) -> None:
    """Moves a directory to another file system; if this fails, nothing is changed."""
    part = new.with_name(f".{new.name}.{secrets.token_hex(4)}.part")
    try:
        shutil.copytree(old, part, symlinks=True)
        part.rename(new)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old)
