"""`Trainer`: the only training loop."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from nectargan.build import Data, build_data
from nectargan.config.schema import Config
from nectargan.cpu import describe
from nectargan.errors import DataError
from nectargan.interrupts import uninterrupted
from nectargan.losses.loss_manager import LossManager
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.describe import describe_datasets
from nectargan.runs.environment import describe_environment
from nectargan.runs.open import Run, open_run
from nectargan.runs.resume import Resumption
from nectargan.runs.sinks import choose_store
from nectargan.shortage import no_worker
from nectargan.trainers.captured_step import graph_obstacle
from nectargan.trainers.cuda_graphs import GraphBackend
from nectargan.trainers.devices import (
    resolve_device,
    resolve_precision,
    seed_everything,
    use_threads,
)
from nectargan.trainers.doubts import doubts_about
from nectargan.trainers.explained import shortages_explained
from nectargan.trainers.memory import Need, check_memory
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.trainers.display import Display

log = logging.getLogger("nectargan")


class Trainer(ABC):
    """A training run: data, record and loop. A subclass brings the networks and the step.

    Everything is built and checked on construction; nothing is written before `train`.

    Args:
        config: The run; see `Config`.
        resumption: A run to go on with, from `resumption_of`; its config takes the place of
            ``config``.
        graphs: What captures the step; without one, `CudaGraphs` does where the config and the
            device allow it.

    Attributes:
        config: A copy of the config, with the run's place in MLflow.
        device: Where to compute.
        precision: "fp32", "bf16" or "fp16".
        store: Where the run goes in MLflow, if it does, and why there.
        graphs: What captures the step, if it was given.
        graph_obstacle: Why the step is not captured; ``None`` if it is.
        data: The images.
        datasets: What is known of their files.
        losses: The loss manager; it knows the epoch and the step.
        epoch: The current epoch, from 1, or the last one done; 0 before training.
        batch: Batches done in the current epoch; ``None`` between two epochs.
        step: Steps made so far.
        epoch_began: Steps made before the current epoch.
        bests: The best value so far of each metric of validation, and its epoch.
        networks: What learns, by name; a subclass puts its networks here.
        optimizers: The optimiser of each network, by the same names.
        scaler: The gradient scaler; it does nothing unless the precision is fp16.
        changes: Changes of the config on the way, by resuming.
        directory: The run directory; there is one once `train` has begun.

    Raises:
        NectarGANError: the config or the data cannot be used.
    """

    directory: RunDirectory

    def __init__(
        self,
        config: Config,
        resumption: Resumption | None = None,
        graphs: GraphBackend | None = None,
    ) -> None:
        no_worker()
        config = config if resumption is None else resumption.config
        self.config = config.model_copy(deep=True)
        self.store = choose_store(self.config, resumption)
        self.device = resolve_device(self.config.common.device)
        self.precision = resolve_precision(self.config.common.precision, self.device)
        self.graphs = graphs
        self.graph_obstacle: str | None = None
        if graphs is None:
            wanted = self.config.train.cuda_graph
            self.graph_obstacle = graph_obstacle(wanted, self.device, self.precision)
        self._need = self.needed_memory()
        check_memory(self._need, self.config, self.device)
        if self.device.type == "cpu":
            use_threads(self._need.flops)
        self._seed()
        with self.explaining_shortages():
            self.data: Data = build_data(self.config, self.device)
            self.datasets = describe_datasets(self.config.dataloader.dataroot, self.data.splits)
        self.losses = LossManager(config=self.config)
        self.epoch = 0
        self.batch: int | None = None
        self.step = 0
        self.epoch_began = 0
        self.bests: dict[str, tuple[float, int]] = {}
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self.scaler = GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.changes = resumption.history if resumption is not None else []
        self._resumption = resumption
        self._run: Run | None = None
        self._is_in_step = False
        if resumption is not None:
            resumption.state.check(self, resumption.directory)
        # What has not changed was told at the start of the run.
        if resumption is None or resumption.changes:
            for doubt in doubts_about(self.config):
                log.warning("%s", doubt)

    def explaining_shortages(
        self, directory: RunDirectory | None = None
    ) -> AbstractContextManager[None]:
        """For a ``with`` statement: too little memory, say, is told in one sentence."""
        return shortages_explained(self.config, self.device, self._need, directory)

    # --- what a subclass brings ----------------------------------------------------------------

    def needed_memory(self) -> Need:
        """What a step takes at least; called before anything is built."""
        return Need(0, 0, math.inf)

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

    def note_eager_step(self, reason: str) -> None:
        """Takes down that the step is not captured after all, where others read it."""
        self.graph_obstacle = reason
        if self._run is not None:
            self._run.tag("cuda_graph", "off")

    def on_epoch_end(self, epoch: int) -> Mapping[str, float]:
        """Called after the last step of each epoch; returns metrics to record."""
        return {}

    def on_resume(self) -> None:  # noqa: B027 - most have nothing to do
        """Called once networks, optimizers and counters are those of the checkpoint."""

    # --- the loop ------------------------------------------------------------------------------

    def train(self, display: Display | Literal["auto"] | None = "auto") -> RunDirectory:
        """Trains for as many epochs as the config says, or what is left of them.

        On Ctrl-C, SIGTERM and SIGHUP the run is saved as it is after the step at hand.

        Args:
            display: Shows the progress. "auto" draws a bar on a terminal, and else, as in a
                notebook, prints a line for each epoch; ``None`` is silent.

        Returns:
            The run directory. A run that is finished is left as it is.

        Raises:
            RunError: the run directory cannot be made or written, or is in use.
        """
        if self._resumption is not None and self._resumption.is_finished:
            return self._resumption.directory
        if display is not None:
            from nectargan.trainers.display import SafeDisplay, make_display

            display = SafeDisplay(make_display() if display == "auto" else display)
        # Once more: what was drawn since construction must not change the run.
        self._seed()
        with self.explaining_shortages():
            if self._resumption is not None:
                self._resumption.state.restore(self)
                self.on_resume()
            step = self.make_step()
        with open_run(
            self.config, self.losses, self._tags(), self.datasets, self._resumption
        ) as run:
            self.directory, self._run = run.directory, run
            if display:
                display.start(run.directory, self.config.train.epochs, len(self.data.train))
            with self.explaining_shortages(run.directory):
                try:
                    # Here, where Ctrl-C need not wait for the end of a step: it may take minutes.
                    self.data.train.prepare()
                    while self.epoch < self.config.train.epochs or self.batch is not None:
                        self._train_epoch(step, run, display)
                except (KeyboardInterrupt, SystemExit, DataError):
                    # A second Ctrl-C ends a step in its middle: that is no state to go on from. It
                    # ends this as well: what is written is whole at any moment.
                    if not self._is_in_step:
                        run.save(self)
                    raise
                finally:
                    if display:
                        display.stop()
                    run.wait()
        return run.directory

    def _train_epoch(
        self,
        step: Callable[[Tensor, Tensor], object],
        run: Run,
        display: Display | None,
    ) -> None:
        tracker = run.tracker

        # Learning rates of this epoch, on record before the first step. Signals wait wherever the
        # state and the record change together, so that a checkpoint never lies between the two.
        if self.batch is None:
            with uninterrupted():
                rates = self.on_epoch_start(self.epoch + 1)
                metrics = {"epoch": float(self.epoch + 1), **rates}
                tracker.log_metrics(self.step + 1, self.epoch + 1, metrics)
                self.epoch, self.batch = self.epoch + 1, 0
                self.epoch_began = self.step

        # One pass over the training images, in an order set by seed and epoch.
        began, skipped, total = time.perf_counter(), self.batch, len(self.data.train)
        batches = self.data.train.epoch(self.epoch, skip=skipped)
        while self.batch < total:
            with uninterrupted():
                source, target = next(batches)
                self._is_in_step = True
                self.batch += 1
                # All its images may have been bad, and are skipped then.
                if len(source):
                    self.step += 1
                    fraction = self.batch / total
                    self.losses.start_step(self.epoch, self.step, fraction=fraction)
                    step(source, target)
                self._is_in_step = False
            if display:
                display.step(self.epoch, self.step, tracker.last)
            run.meet_nonfinite()
            if run.is_time_to_save:
                run.save(self)

        # Everything computed so far onto the record; this waits for the device.
        tracker.flush()
        run.meet_nonfinite()
        seconds = time.perf_counter() - began

        # Validation and examples.
        images = self.data.train.images_per_epoch - skipped * self.data.train.batch_size
        metrics = {
            **self.on_epoch_end(self.epoch),
            **tracker.epoch_means(self.epoch_began + 1),
            "time/epoch_seconds": seconds,
            "time/images_per_second": max(images, 0) / seconds,
        }
        with uninterrupted():
            improved = self._note_bests(metrics)
            tracker.log_metrics(self.step, self.epoch, {**metrics, **self._best_series()})
            self.batch = None

        # The checkpoint.
        rate, last = self.config.save.model_save_rate, self.epoch >= self.config.train.epochs
        is_best = self.config.best_by in improved
        if is_best or last or self.epoch % rate == 0:
            run.save(self, is_best)
        if display:
            display.epoch_end(self.epoch, metrics)

    # --- checkpoints ---------------------------------------------------------------------------

    def _note_bests(self, metrics: Mapping[str, float]) -> set[str]:
        """Takes over what is better than ever; returns the names of those metrics."""
        improved = set()
        for name, value in metrics.items():
            if name.startswith("val/") and math.isfinite(value):
                sign = -1.0 if self.config.validation.is_lower_better(name) else 1.0
                if name not in self.bests or sign * value > sign * self.bests[name][0]:
                    self.bests[name] = (value, self.epoch)
                    improved.add(name)
        return improved

    def _best_series(self) -> dict[str, float]:
        """``best/<metric>`` and ``best/<metric>_epoch``, by which a table of runs can be sorted."""
        series: dict[str, float] = {}
        for name, (value, epoch) in self.bests.items():
            short = name.removeprefix("val/")
            series |= {f"best/{short}": value, f"best/{short}_epoch": float(epoch)}
        return series

    # --- the run directory ---------------------------------------------------------------------

    def describe(self) -> str:
        """In one line, how the run computes."""
        step = "captured step" if self.graph_obstacle is None else "eager step"
        reason = f" ({self.graph_obstacle})" if self.graph_obstacle else ""
        place = {"ram": "in RAM", "device": "on the device", "off": "read each time"}
        epochs = counted(self.config.train.epochs, "epoch")
        threads = f"{describe(torch.get_num_threads())}, " if self.device.type == "cpu" else ""
        return (
            f"{epochs} of {counted(len(self.data.train), 'step')} on {self.device} "
            f"in {self.precision}, {threads}{step}{reason}, images {place[self.data.train.cache]}."
        )

    def describe_store(self) -> str:
        """In one line, where the run goes in MLflow, and why there; empty if it does not."""
        options = self.config.logging.mlflow
        if not options.enable:
            return ""
        experiment = options.experiment or self.config.common.experiment_name
        return f"MLflow: experiment '{experiment}' in {self.store}."

    def _tags(self) -> dict[str, str]:
        return {
            **describe_environment(self.device),
            "precision": self.precision,
            "cuda_graph": "off" if self.graph_obstacle else "on",
            "objective": self.config.train.objective,
            "dataset": str(Path(self.config.dataloader.dataroot).resolve()),
        }

    def _seed(self) -> None:
        seed_everything(self.config.common.seed, self.config.common.deterministic)
