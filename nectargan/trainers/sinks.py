"""The sinks of a run, from its config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nectargan.loggers.base import Sink
from nectargan.loggers.mlflow import MLflowSink
from nectargan.loggers.tensorboard import TensorBoardSink
from nectargan.trainers.environment import describe_environment
from nectargan.trainers.resumption import flatten

if TYPE_CHECKING:
    from nectargan.trainers.trainer import Trainer


def build_sinks(trainer: Trainer) -> list[Sink]:
    """TensorBoard and MLflow, as far as they are enabled, for the trainer's run directory."""
    config, directory = trainer.config, trainer.directory
    logging = config.logging
    sinks: list[Sink] = []
    if logging.tensorboard.enable:
        every = logging.tensorboard.every_n_steps
        sinks.append(TensorBoardSink(directory / "tensorboard", every))
    if logging.mlflow.enable:
        sinks.append(
            MLflowSink(
                trainer.tracking_uri,
                config.common.experiment_name,
                directory,
                params=flatten(config.model_dump(mode="json", exclude_none=True)),
                tags={
                    **describe_environment(trainer.device),
                    "precision": trainer.precision,
                    "cuda_graph": "off" if trainer.graph_obstacle else "on",
                    "objective": config.train.objective,
                    "dataset": str(Path(config.dataloader.dataroot).resolve()),
                    "run_directory": str(directory.resolve()),
                },
                every_n_steps=logging.mlflow.every_n_steps,
            )
        )
    return sinks
