"""`Trainer`: the only training loop."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from nectargan.config.config_manager import save_config
from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.interrupts import uninterrupted
from nectargan.loggers.base import Sink
from nectargan.loggers.ledger import LossRow
from nectargan.loggers.mlflow import MLflowSink, default_tracking_uri
from nectargan.loggers.tensorboard import TensorBoardSink
from nectargan.loggers.tracking import Tracker
from nectargan.losses.loss_manager import LossManager
from nectargan.trainers.captured_step import graph_obstacle
from nectargan.trainers.components import Data, build_data, resolve_losses
from nectargan.trainers.devices import resolve_device, resolve_precision, seed_everything
from nectargan.trainers.environment import describe_environment
from nectargan.trainers.run_directory import create_run_directory

CONFIG_FILE = "config.json"


class Display(Protocol):
    """Shows a run to the person who started it."""

    def start(self, directory: Path, epochs: int, steps_per_epoch: int) -> None:
        """The run begins."""

    def step(self, epoch: int, step: int, losses: Mapping[str, LossRow]) -> None:
        """A step was made; ``losses`` are the newest rows on record, free to read."""

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch is over."""

    def stop(self) -> None:
        """The run is over, however it ended."""


class Trainer(ABC):
    """A training run: data, record and loop. A subclass brings the networks and the step.

    Everything is built and checked on construction; nothing is written before `train`.

    Args:
        config: The run; see `Config`. Use a copy if it must stay as it is.

    Attributes:
        config: The resolved config, with the weight of every loss in it.
        device: Where to compute.
        precision: "fp32", "bf16" or "fp16".
        graph_obstacle: Why the step is not captured in a CUDA graph; ``None`` if it is.
        data: The images.
        losses: The loss manager; it knows the epoch and the step.
        epoch: The current epoch, from 1; 0 before training.
        step: Steps made so far.
        directory: The run directory; there is one once `train` has begun.

    Raises:
        NectarGANError: the config or the data cannot be used.
    """

    directory: Path

    def __init__(self, config: Config) -> None:
        self.config = resolve_losses(config)
        self.device = resolve_device(config.common.device)
        self.precision = resolve_precision(config.common.precision, self.device)
        self.graph_obstacle = graph_obstacle(
            self.config.train.cuda_graph, self.device, self.precision
        )
        self._seed()
        self.data: Data = build_data(self.config, self.device)
        self.losses = LossManager(config=self.config)
        self.epoch = 0
        self.step = 0

    def on_epoch_start(self, epoch: int) -> Mapping[str, float]:
        """Called before the first step of each epoch; returns metrics to record."""
        return {}

    @abstractmethod
    def train_step(self, source: Tensor, target: Tensor) -> None:
        """One update of all networks.

        Args:
            source: Input images ``(N, C, H, W)``, float32 in [-1, 1], on the device.
            target: Target images alike.
        """

    def make_step(self) -> Callable[[Tensor, Tensor], object]:
        """The step as the loop calls it: `train_step`, or something that does the same faster."""
        return self.train_step

    def on_epoch_end(self, epoch: int) -> Mapping[str, float]:
        """Called after the last step of each epoch; returns metrics to record."""
        return {}

    def train(self, display: Display | None = None) -> Path:
        """Trains for as many epochs as the config says.

        Args:
            display: Shows the progress; ``None`` for silence.

        Returns:
            The run directory.

        Raises:
            RunError: the run directory cannot be made or written.
        """
        # Once more: what was drawn since construction must not change the run.
        self._seed()
        step = self.make_step()
        epochs, steps_per_epoch = self.config.train.epochs, len(self.data.train)
        with self._open_run() as tracker:
            if display:
                display.start(tracker.directory, epochs, steps_per_epoch)
            try:
                for epoch in range(self.epoch + 1, epochs + 1):
                    self.epoch = epoch
                    began = time.perf_counter()

                    # Learning rates of this epoch, on record before the first step.
                    rates = self.on_epoch_start(epoch)
                    tracker.log_metrics(self.step + 1, epoch, rates)

                    # One pass over the training images, in an order set by seed and epoch.
                    batches = self.data.train.epoch(epoch)
                    for i, (source, target) in enumerate(batches, start=1):
                        self.step += 1
                        self.losses.start_step(epoch, self.step, fraction=i / steps_per_epoch)
                        with uninterrupted():
                            step(source, target)
                        if display:
                            display.step(epoch, self.step, tracker.last)

                    # Everything computed so far onto the record; this waits for the device.
                    tracker.flush()
                    seconds = time.perf_counter() - began

                    # Validation, examples, checkpoint.
                    metrics = {
                        **self.on_epoch_end(epoch),
                        "time/epoch_seconds": seconds,
                        "time/images_per_second": self.data.train.images_per_epoch / seconds,
                    }
                    tracker.log_metrics(self.step, epoch, metrics)
                    if display:
                        display.epoch_end(epoch, metrics)
            finally:
                if display:
                    display.stop()
        return tracker.directory

    def describe(self) -> str:
        """In one line, how the run computes."""
        step = "captured step" if self.graph_obstacle is None else "eager step"
        reason = f" ({self.graph_obstacle})" if self.graph_obstacle else ""
        place = {"ram": "in RAM", "device": "on the device", "off": "read each time"}
        return (
            f"{self.config.train.epochs} epochs of {len(self.data.train)} steps on {self.device} "
            f"in {self.precision}, {step}{reason}, images {place[self.data.train.cache]}."
        )

    @property
    def tracking_uri(self) -> str:
        """The MLflow server or database."""
        uri = self.config.logging.mlflow.tracking_uri
        return uri or default_tracking_uri(Path(self.config.common.output_directory))

    def _seed(self) -> None:
        seed_everything(self.config.common.seed, self.config.common.deterministic)

    def _open_run(self) -> Tracker:
        common, logging = self.config.common, self.config.logging
        self.directory = create_run_directory(
            Path(common.output_directory),
            common.experiment_name,
            common.experiment_version,
            self.config.save.auto_increment_version,
        )
        try:
            save_config(self.config, self.directory / CONFIG_FILE)
        except OSError as error:
            raise RunError(f"'{self.directory}' cannot be written: {error.strerror}.") from None
        self.losses.experiment_directory = self.directory
        return Tracker(
            self.losses,
            self.directory,
            self._build_sinks(self.directory),
            csv=logging.csv,
            window_steps=logging.window_steps,
            window_seconds=logging.window_seconds,
        )

    def _build_sinks(self, directory: Path) -> list[Sink]:
        logging = self.config.logging
        sinks: list[Sink] = []
        if logging.tensorboard.enable:
            every = logging.tensorboard.every_n_steps
            sinks.append(TensorBoardSink(directory / "tensorboard", every))
        if logging.mlflow.enable:
            sinks.append(
                MLflowSink(
                    self.tracking_uri,
                    self.config.common.experiment_name,
                    directory,
                    params=_flatten(self.config.model_dump(mode="json", exclude_none=True)),
                    tags={
                        **describe_environment(self.device),
                        "precision": self.precision,
                        "cuda_graph": "off" if self.graph_obstacle else "on",
                        "objective": self.config.train.objective,
                        "dataset": str(Path(self.config.dataloader.dataroot).resolve()),
                        "run_directory": str(directory.resolve()),
                    },
                    every_n_steps=logging.mlflow.every_n_steps,
                )
            )
        return sinks


def _flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested options by dotted key."""
    flat: dict[str, object] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
