"""`track` records the losses of your own training loop."""

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
    gradients_every_n_steps: int | None = 1,
) -> Tracker:
    """Records every weighted loss of a training loop of your own, in a ``with`` statement.

    Args:
        loss_manager: The manager that computes the losses.
        directory: The run directory, created if it does not exist. It gets ``losses.csv``,
            ``metrics.csv``, and ``gradients.csv`` if the loop uses `LossManager.gradients_at`.
        mlflow: Whether to log to MLflow: a tracking URI, or ``True`` for the URI in
            ``MLFLOW_TRACKING_URI``. Without this variable, it is the SQLite file ``mlflow.db``
            beside ``directory``, which ``nectargan ui`` opens. The name of the experiment is
            ``MLFLOW_EXPERIMENT_NAME``, by default the name of the directory.
        tensorboard: Whether to write event files to ``directory/tensorboard``. Losses that are
            already registered with the tag "D" get separate charts.
        mlflow_every_n_steps: Steps between two points of a loss in MLflow.
        tensorboard_every_n_steps: Steps between two points of a loss in TensorBoard.
        sinks: Your own sinks by name: objects with the methods of
            `nectargan.record.follower.Sink`, or ``{"function": "my_package.MySink",
            "every_n_steps": 10, "arguments": {...}}`` as in a config.
        gradients_every_n_steps: Steps from one record of the gradients to the next; ``None`` for
            no gradients.

    Returns:
        A context manager; see `Tracker`.

    Raises:
        ConfigError: one of your own sinks cannot be created, or lacks a method.
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
    return Tracker(
        loss_manager,
        directory,
        [*built_in, *attached],
        keeps_status=True,
        gradients_every_n_steps=gradients_every_n_steps,
    )
