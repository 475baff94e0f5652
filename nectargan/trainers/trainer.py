"""`Trainer`: the only training loop."""

from __future__ import annotations

import functools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from nectargan.config.config_manager import save_config
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, DataError, NonFiniteError, RunError
from nectargan.interrupts import uninterrupted
from nectargan.loggers.ledger import LossRow
from nectargan.loggers.mlflow import MLflowSink, check_reachable, default_tracking_uri
from nectargan.loggers.tracking import Tracker, reason_of, status_of
from nectargan.losses.loss_manager import LossManager
from nectargan.trainers.captured_step import graph_obstacle
from nectargan.trainers.checkpoint import checkpoint_name, save_checkpoint
from nectargan.trainers.checkpoint_writer import CheckpointWriter, on_host
from nectargan.trainers.collapse import CollapseWatch
from nectargan.trainers.components import Data, build_data, resolve_losses
from nectargan.trainers.devices import resolve_device, resolve_precision, seed_everything
from nectargan.trainers.environment import describe_environment
from nectargan.trainers.random_state import random_state, set_random_state
from nectargan.trainers.resumption import Resumption, cut_record, record_resumption
from nectargan.trainers.run_directory import CONFIG_FILE, create_run_directory, locked, write_status
from nectargan.trainers.sinks import build_sinks, save_tags

LOWER_IS_BETTER = ("val/l1",)

log = logging.getLogger("nectargan")


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
        config: The run; see `Config`.
        resumption: A run to go on with, from `find_resumption`; its config takes the place of
            ``config``.

    Attributes:
        config: The resolved config, with the weight of every loss in it.
        device: Where to compute.
        precision: "fp32", "bf16" or "fp16".
        graph_obstacle: Why the step is not captured in a CUDA graph; ``None`` if it is.
        data: The images.
        losses: The loss manager; it knows the epoch and the step.
        epoch: The current epoch, from 1, or the last one done; 0 before training.
        batch: Batches done in the current epoch; ``None`` between two epochs.
        step: Steps made so far.
        best: Metric, value and epoch of the best epoch so far, by ``save.keep_best``.
        directory: The run directory; there is one once `train` has begun.

    Raises:
        NectarGANError: the config or the data cannot be used.
    """

    directory: Path

    def __init__(self, config: Config, resumption: Resumption | None = None) -> None:
        self.config = resolve_losses(config if resumption is None else resumption.config)
        self.device = resolve_device(self.config.common.device)
        self.precision = resolve_precision(self.config.common.precision, self.device)
        self.graph_obstacle = graph_obstacle(
            self.config.train.cuda_graph, self.device, self.precision
        )
        self._seed()
        self.data: Data = build_data(self.config, self.device)
        self.losses = LossManager(config=self.config)
        self.epoch = 0
        self.batch: int | None = None
        self.step = 0
        self.best: dict[str, Any] | None = None
        self._resumption = resumption
        self._said_nonfinite = False
        self._collapse = CollapseWatch(("D_real", "D_fake"))

    # --- what a subclass brings ----------------------------------------------------------------

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

    def state(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint must hold: "networks" by name, and any other sections."""
        return {"networks": {}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` returned; `epoch` and `batch` are set already."""
        if state["networks"]:
            raise CheckpointError("The checkpoint has networks, and this trainer has none.")

    # --- the loop ------------------------------------------------------------------------------

    def train(self, display: Display | None = None) -> Path:
        """Trains for as many epochs as the config says, or what is left of them.

        On Ctrl-C and SIGTERM the run is saved as it is after the step at hand.

        Args:
            display: Shows the progress; ``None`` for silence.

        Returns:
            The run directory.

        Raises:
            RunError: the run directory cannot be made or written, or is in use.
        """
        # Once more: what was drawn since construction must not change the run.
        self._seed()
        if self._resumption is not None:
            self._go_on_from(self._resumption.checkpoint)
        step = self.make_step()
        with self._open_run(), self._tracker as tracker:
            if display:
                display.start(self.directory, self.config.train.epochs, len(self.data.train))
            try:
                while self.epoch < self.config.train.epochs or self.batch is not None:
                    self._train_epoch(step, tracker, display)
            except (KeyboardInterrupt, SystemExit, DataError):
                with uninterrupted():
                    self._save(tracker)
                raise
            except OSError as error:
                # Images that cannot be read are a DataError.
                raise RunError(
                    f"'{error.filename or self.directory}' cannot be written: {error.strerror}; "
                    f"make room and go on with --resume '{self.directory}'."
                ) from error
            finally:
                if display:
                    display.stop()
                self._writer.wait()
        return self.directory

    def _train_epoch(
        self,
        step: Callable[[Tensor, Tensor], object],
        tracker: Tracker,
        display: Display | None,
    ) -> None:
        # Learning rates of this epoch, on record before the first step. Signals wait wherever the
        # state and the record change together, so that a checkpoint never lies between the two.
        if self.batch is None:
            with uninterrupted():
                rates = self.on_epoch_start(self.epoch + 1)
                tracker.log_metrics(self.step + 1, self.epoch + 1, rates)
                self.epoch, self.batch = self.epoch + 1, 0

        # One pass over the training images, in an order set by seed and epoch.
        began, skipped, total = time.perf_counter(), self.batch, len(self.data.train)
        batches = self.data.train.epoch(self.epoch, skip=skipped)
        while self.batch < total:
            with uninterrupted():
                source, target = next(batches)
                self.batch += 1
                if not len(source):
                    continue  # all its images were bad, and are skipped
                self.step += 1
                fraction = self.batch / total
                self.losses.start_step(self.epoch, self.step, fraction=fraction)
                step(source, target)
            if display:
                display.step(self.epoch, self.step, tracker.last)
            if tracker.watch.found is not None:
                self._meet_nonfinite(tracker)
            if self._is_time_to_save():
                self._save(tracker)

        # Everything computed so far onto the record; this waits for the device.
        tracker.flush()
        self._meet_nonfinite(tracker)
        seconds = time.perf_counter() - began

        # Validation and examples.
        images = self.data.train.images_per_epoch - skipped * self.data.train.batch_size
        metrics = {
            **self.on_epoch_end(self.epoch),
            "time/epoch_seconds": seconds,
            "time/images_per_second": max(images, 0) / seconds,
        }
        with uninterrupted():
            tracker.log_metrics(self.step, self.epoch, metrics)
            self.batch = None
            is_best = self._note_best(metrics)

        # The checkpoint.
        rate, last = self.config.save.model_save_rate, self.epoch >= self.config.train.epochs
        if is_best or last or self.epoch % rate == 0:
            self._save(tracker, is_best)
        if display:
            display.epoch_end(self.epoch, metrics)

    # --- checkpoints ---------------------------------------------------------------------------

    def _save(self, tracker: Tracker, is_best: bool = False) -> None:
        """Writes a checkpoint; the step is held up for a copy from the device only."""
        if not self.config.save.save_model:
            return
        tracker.flush()
        # The last checkpoint before a loss went bad is to stay the last one.
        self._meet_nonfinite(tracker)
        state = on_host(self.state())
        training = {
            **{section: content for section, content in state.items() if section != "networks"},
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "random": random_state(self.device),
            "ledgers": tracker.sizes(),
        }
        done = self.epoch if self.batch is None else self.epoch - 1
        name = checkpoint_name(self.epoch, None if self.batch is None else self.step)
        write = functools.partial(
            save_checkpoint,
            config=self.config.model_copy(deep=True),
            epoch=done,
            step=self.step,
            networks=state["networks"],
            training=training,
        )
        self._writer.save(name, write, is_best)
        self._saved_at = time.monotonic()

    def _meet_nonfinite(self, tracker: Tracker) -> None:
        """Raises NonFiniteError if a loss on record is not finite, or says so once."""
        if tracker.watch.found is None or self._said_nonfinite:
            return
        if self.config.train.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{tracker.watch.describe()} The last checkpoint before is in '{self.directory}'."
            )
        self._said_nonfinite = True
        log.warning("%s", tracker.watch.describe())

    def _look_for_a_collapse(self, rows: list[LossRow]) -> None:
        if self._collapse.found is not None:
            return
        self._collapse.look(rows)
        if self._collapse.found is not None:
            log.warning("%s", self._collapse.describe())
            for sink in self._tracker.sinks:
                if isinstance(sink, MLflowSink):
                    sink.tag("collapse", self._collapse.describe())

    def _is_time_to_save(self) -> bool:
        minutes = self.config.save.every_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def _note_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether this epoch is the best so far, by the metric of ``save.keep_best``."""
        metric = self.config.save.keep_best
        if metric is None or metric not in metrics:
            return False
        value, sign = metrics[metric], -1.0 if metric in LOWER_IS_BETTER else 1.0
        comparable = self.best is not None and self.best["metric"] == metric
        if self.best is not None and comparable and sign * value <= sign * self.best["value"]:
            return False
        self.best = {"metric": metric, "value": value, "epoch": self.epoch}
        return True

    def _go_on_from(self, checkpoint: Mapping[str, Any]) -> None:
        training = checkpoint["training"]
        self.epoch, self.batch = training["epoch"], training["batch"]
        self.step, self.best = checkpoint["step"], training["best"]
        self.restore({"networks": checkpoint["networks"], **training})
        set_random_state(training["random"], self.device)

    # --- the run directory ---------------------------------------------------------------------

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
        return uri or default_tracking_uri(self._output)

    @property
    def _output(self) -> Path:
        if self._resumption is not None:
            return self._resumption.directory.parent
        return Path(self.config.common.output_directory)

    def _tags(self) -> dict[str, str]:
        return {
            **describe_environment(self.device),
            "precision": self.precision,
            "cuda_graph": "off" if self.graph_obstacle else "on",
            "objective": self.config.train.objective,
            "dataset": str(Path(self.config.dataloader.dataroot).resolve()),
            "run_directory": str(self.directory.resolve()),
        }

    def _seed(self) -> None:
        seed_everything(self.config.common.seed, self.config.common.deterministic)

    @contextmanager
    def _open_run(self) -> Iterator[None]:
        """Makes the run directory, or goes on with the one to resume, and locks it."""
        resumption, save = self._resumption, self.config.save
        mlflow = self.config.logging.mlflow
        if mlflow.enable and mlflow.required:
            check_reachable(self.tracking_uri)
        if resumption is None:
            common = self.config.common
            self.directory = create_run_directory(
                Path(common.output_directory),
                common.experiment_name,
                common.experiment_version,
                save.auto_increment_version,
            )
        else:
            self.directory = resumption.directory
        self.losses.experiment_directory = self.directory
        with locked(self.directory):
            try:
                if resumption is not None:
                    sizes = resumption.checkpoint["training"]["ledgers"]
                    cut_record(self.directory, resumption.checkpoint["step"], sizes)
                    record_resumption(resumption)
                tags = self._tags()
                save_tags(self.directory, tags)
                save_config(self.config, self.directory / CONFIG_FILE)
                write_status(self.directory, "RUNNING")
            except OSError as error:
                raise RunError(f"'{self.directory}' cannot be written: {error.strerror}.") from None
            self._writer = CheckpointWriter(self.directory, save.keep_last)
            self._saved_at = time.monotonic()
            options = self.config.logging
            self._tracker = Tracker(
                self.losses,
                self.directory,
                build_sinks(self.config, self.directory, self._output, tags),
                csv=options.csv,
                window_steps=options.window_steps,
                window_seconds=options.window_seconds,
                go_on=resumption is not None,
                drain_seconds=options.drain_seconds,
                watchers=[self._look_for_a_collapse],
            )
            try:
                yield
            except BaseException as error:
                with suppress(OSError):
                    write_status(self.directory, status_of(error), reason_of(error))
                raise
            write_status(self.directory, "FINISHED")
