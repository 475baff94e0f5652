"""`track`: the record of a training loop of your own, in TensorBoard and MLflow as well."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from typing import Any

from nectargan.defaults import MLFLOW_EVERY_N_STEPS, TENSORBOARD_EVERY_N_STEPS
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.mlflow.store import find_experiment, find_store
from nectargan.loggers.own_sinks import attach, make_sinks
from nectargan.loggers.tensorboard.sink import TensorBoardSink
from nectargan.record.follower import Sink
from nectargan.record.run_directory import RunDirectory
from nectargan.record.tracker import HasHooks, Tracker
from nectargan.shell import expanded

__all__ = ["Tracker", "track"]


def track(
    loss_manager: HasHooks,
    directory: str | PathLike[str],
    mlflow: bool | str = False,
    tensorboard: bool = False,
    mlflow_every_n_steps: int = MLFLOW_EVERY_N_STEPS,
    tensorboard_every_n_steps: int = TENSORBOARD_EVERY_N_STEPS,
    sinks: Mapping[str, Sink | Mapping[str, Any]] | None = None,
) -> Tracker:
    """Records every weighted loss of a training loop of your own, in a ``with`` statement.

    Args:
        loss_manager: The manager that computes the losses.
        directory: The run directory, made if need be: ``losses.csv`` and ``metrics.csv``.
        mlflow: A tracking URI, or ``True`` for that in ``MLFLOW_TRACKING_URI``, else for SQLite
            beside ``directory``, in ``mlflow.db``, where ``nectargan ui`` looks. The experiment is
            that in ``MLFLOW_EXPERIMENT_NAME``, else it has the directory's name.
        tensorboard: Whether to write event files to ``directory/tensorboard``. Losses that are
            registered by now with the tag "D" have charts of their own.
        mlflow_every_n_steps: Steps from one point of a loss to the next in MLflow.
        tensorboard_every_n_steps: The same in TensorBoard.
        sinks: Sinks of your own by any name: objects with the methods of
            `nectargan.record.follower.Sink`, or ``{"function": "my_package.MySink",
            "every_n_steps": 10, "arguments": {...}}`` as in a config.

    Returns:
        A context manager; see `Tracker`.

    Raises:
        ConfigError: a sink of your own cannot be made, or lacks a method.
    """
    directory = RunDirectory(expanded(os.fspath(directory)))
    own = make_sinks(sinks or {})
    built_in: list[Sink] = []
    if tensorboard:
        of_discriminator = loss_manager.get_registered_losses(["D"])
        built_in.append(
            TensorBoardSink(directory.tensorboard, tensorboard_every_n_steps, of_discriminator)
        )
    if mlflow:
        home = directory.resolve()
        store = find_store(mlflow if isinstance(mlflow, str) else None, home.parent)
        name = find_experiment(None, home.name)
        built_in.append(MLflowSink(store.uri, name, directory, every_n_steps=mlflow_every_n_steps))
    attached = [attach(each, directory) for each in own]
    return Tracker(loss_manager, directory, [*built_in, *attached], keeps_status=True)
