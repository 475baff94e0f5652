"""`Trainer`: the only training loop."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from nectargan.build_data import Data, build_data
from nectargan.config.schema import Config
from nectargan.cpu import describe
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.shard_names import absolute
from nectargan.distributed import ALONE, World
from nectargan.errors import DataError, PrunedError
from nectargan.interrupts import HeldSignals, held_signals, uninterrupted
from nectargan.losses.loss_manager import LossManager
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.describe import describe_datasets
from nectargan.runs.environment import describe_environment
from nectargan.runs.fork import fork_of
from nectargan.runs.open import Run, open_run
from nectargan.runs.resume import Resumption
from nectargan.runs.sinks import choose_store
from nectargan.shortage import no_worker
from nectargan.trainers.captured_step import CapturedStep, graph_obstacle
from nectargan.trainers.cuda_graphs import GraphBackend
from nectargan.trainers.devices import (
    resolve_device,
    resolve_precision,
    seed_everything,
    seed_of,
    use_threads,
)
from nectargan.trainers.doubts import doubts_about
from nectargan.trainers.explained import shortages_explained
from nectargan.trainers.memory import Need, check_memory
from nectargan.trainers.turns import Turn, check_batch_size, fill_cache, interrupt, turns
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.trainers.display import Display

Judge = Callable[[int, Mapping[str, float]], str]

log = logging.getLogger("nectargan")


class Trainer(ABC):
    """The training loop with its data and record. A subclass defines the networks and the step.

    Everything is built and checked on construction; nothing is written before `train`.

    Args:
        config: The config of the run.
        resumption: The run to resume, from `resumption_of`; its config replaces ``config``.
        graphs: Captures the step; by default `CudaGraphs`, if config and device allow it.
        world: The processes that train this run together. Each has a trainer, and calls its methods
            in the same order; only the main one writes anything.

    Attributes:
        config: A copy of the config, with the run's place in MLflow.
        device: The device to train on.
        precision: "fp32", "bf16" or "fp16".
        store: The MLflow store of the run and why it was chosen.
        graphs: The argument ``graphs``.
        world: The argument ``world``.
        graph_obstacle: Why the step is not captured; ``None`` if it is.
        eager_steps: Which steps are eager although the step is captured, for the first line.
        judge: Called with each epoch and its metrics, except the last one. It returns why the run
            should end as pruned, or nothing.
        data: The loaders of training and validation images.
        datasets: Descriptions of the image files.
        losses: The loss manager; it knows the epoch and the step.
        epoch: The current epoch, from 1; between epochs the last completed one, 0 at the start.
        batch: Completed batches of the current epoch; ``None`` between epochs.
        step: Completed steps.
        epoch_began: Completed steps before the current epoch.
        bests: Best value of each validation metric so far, and its epoch.
        networks: The trained networks by name; a subclass adds them.
        optimizers: The optimizer of each network, by the same names.
        scaler: The gradient scaler; enabled only if the precision is fp16.
        changes: Changes of the config by the fork and by earlier resumes.
        directory: The run directory; set by `train`.

    Raises:
        NectarGANError: the config or the data cannot be used.
    """

    directory: RunDirectory

    def __init__(
        self,
        config: Config,
        resumption: Resumption | None = None,
        graphs: GraphBackend | None = None,
        world: World = ALONE,
    ) -> None:
        no_worker()
        config = config if resumption is None else resumption.config
        self.config = config.model_copy(deep=True)
        self.world = world
        check_batch_size(self.config, world.size)
        self.store = choose_store(self.config, resumption)
        self.device = resolve_device(world.choose_device(self.config.common.device))
        wanted = self.config.train.cuda_graph
        world.use(self.device, captured=wanted == "on")
        self.precision = resolve_precision(self.config.common.precision, self.device)
        self.graphs = graphs
        self.graph_obstacle: str | None = None
        self.eager_steps = ""
        self.judge: Judge | None = None
        if graphs is None:
            self.graph_obstacle = graph_obstacle(wanted, self.device, self.precision, world)
        self._need = self.needed_memory()
        check_memory(self._need, self.config, self.device)
        if self.device.type == "cpu":
            use_threads(self._need.flops, world.local_size)
        self._seed()
        is_fork = resumption is None and self.config.train.fork_from is not None
        self._resumption = resumption
        self._fork = world.from_main(lambda: fork_of(self.config)) if is_fork else None
        start = resumption if self._fork is None else self._fork
        known = None if start is None else start.state.mappings
        with self.explaining_shortages():
            self.data: Data = build_data(self.config, self.device, world, known)
            splits, root = self.data.splits, self.config.dataloader.dataroot
            self.datasets = world.from_main(lambda: describe_datasets(root, splits))
        self.losses = LossManager(config=self.config)
        self.losses.world = world
        self.epoch = 0
        self.batch: int | None = None
        self.step = 0
        self.epoch_began = 0
        self.bests: dict[str, tuple[float, int]] = {}
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self.scaler = GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.changes = [] if start is None else start.history
        self._run: Run | None = None
        self._is_in_step = False
        self._signals = HeldSignals()
        if start is not None:
            done = "resumed" if self._fork is None else "forked"
            start.state.check(self, f"'{start.directory}' cannot be {done}")
        # Without changes, the same warnings were logged when the run, or its parent, started.
        if start is None or start.changes:
            for doubt in doubts_about(self.config):
                log.warning("%s", doubt)

    def explaining_shortages(
        self, directory: RunDirectory | None = None
    ) -> AbstractContextManager[None]:
        """A context manager that turns errors such as out of memory into one clear sentence."""
        return shortages_explained(self.config, self.device, self._need, directory)

    # --- to override in a subclass -------------------------------------------------------------

    def needed_memory(self) -> Need:
        """The minimum memory of a step; called before anything is built."""
        return Need(0, 0, math.inf)

    def on_epoch_start(self, epoch: int) -> Mapping[str, float]:
        """Called before the first step of each epoch; returns metrics to record."""
        return {}

    @abstractmethod
    def train_step(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """One update of all networks.

        Args:
            source: Input images ``(N, C, H, W)``, float32 in [-1, 1], on the device.
            target: Target images, of the same height, width, dtype and range.
            mask: Where the pixels of both are valid, ``(N, 1, H, W)``, bool; ``None`` if they are
                everywhere. Both images are 0 elsewhere.
        """

    def make_step(self) -> Callable[..., object]:
        """The function that the loop calls for each step: `train_step` or a faster equivalent."""
        return self.train_step

    def note_eager_step(self, reason: str) -> None:
        """Records that the step could not be captured, here and as a tag of the run."""
        self.graph_obstacle = reason
        if self._run is not None:
            self._run.tag("cuda_graph", "off")

    def on_epoch_end(self, epoch: int) -> Mapping[str, float]:
        """Called after the last step of each epoch; returns metrics to record."""
        return {}

    def on_resume(self) -> None:  # noqa: B027 - most have nothing to do
        """Called after networks, optimizers and counters are restored from the checkpoint."""

    # --- the end -------------------------------------------------------------------------------

    @property
    def is_last_epoch(self) -> bool:
        """Whether the run ends with the current epoch, as far as it is known by now."""
        return self.epoch >= self.config.train.epochs or bool(self.stop_reason)

    @property
    def stop_reason(self) -> str:
        """Why the run ends with the current epoch before it made all its epochs; else empty."""
        stop = self.config.train.stop
        if stop is None or self.epoch >= self.config.train.epochs:
            return ""
        return stop.reason(self.bests, self.epoch)

    # --- the loop ------------------------------------------------------------------------------

    def train(self, display: Display | Literal["auto"] | None = "auto") -> RunDirectory:
        """Trains until the number of epochs in the config is reached, or ``train.stop`` ends it.

        After Ctrl-C, SIGTERM or SIGHUP the current step is completed and a checkpoint is saved.

        Args:
            display: Shows the progress. "auto" shows a progress bar on a terminal, and prints one
                line per epoch elsewhere, as in a notebook; ``None`` shows nothing. Of several
                processes, only the main one shows anything with "auto".

        Returns:
            The run directory. If the run is finished already, nothing is done.

        Raises:
            RunError: the run directory cannot be created or written, or is in use.
            KeyboardInterrupt: the training was interrupted.
            PrunedError: `judge` ended the run.
        """
        if self._resumption is not None and self._resumption.is_finished:
            return self._resumption.directory
        if display == "auto" and not self.world.is_main:
            display = None
        if display is not None:
            from nectargan.trainers.display import SafeDisplay, make_display

            display = SafeDisplay(make_display() if display == "auto" else display)
        # Seed again, because random numbers drawn since construction must not change the run. Each
        # process has dropout of its own.
        self._seed(self.world.rank)
        with self.explaining_shortages():
            start = self._resumption if self._fork is None else self._fork
            if start is not None:
                start.state.restore(self)
                self.on_resume()
            step = self.make_step()
        with ExitStack() as held:
            if isinstance(step, CapturedStep):
                held.callback(step.release)
            if self.world.size > 1:
                self._signals = held.enter_context(held_signals())
            held.enter_context(self.world.together())
            run = held.enter_context(
                open_run(
                    self.config,
                    self.losses,
                    self._tags(),
                    self.datasets,
                    self._resumption,
                    self._fork,
                    self.world,
                )
            )
            self.directory, self._run = run.directory, run
            if display:
                display.start(run.directory, self.config.train.epochs, len(self.data.train))
            with self.explaining_shortages(run.directory), self.world.together():
                try:
                    # May take minutes; outside of a step, so that Ctrl-C interrupts it at once.
                    fill_cache(self.data.train, self.world, self._signals)
                    while self.batch is not None or not self.is_last_epoch:
                        self._train_epoch(step, run, display)
                    run.tracker.reason = self.stop_reason
                    # Nothing is left to do together.
                    self._signals.release()
                    interrupt(ALONE, self._signals.number)
                except (KeyboardInterrupt, SystemExit, DataError, PrunedError) as error:
                    # A second Ctrl-C can interrupt mid-step; never save that state. It can also
                    # interrupt the save, which replaces files only when they are complete.
                    if not self._is_in_step and self.world.is_agreed(error):
                        run.save(self)
                    raise
                finally:
                    if display:
                        display.stop()
                    run.wait()
        return run.directory

    def _train_epoch(
        self,
        step: Callable[..., object],
        run: Run,
        display: Display | None,
    ) -> None:
        tracker = run.tracker

        # Record the learning rates before the first step. Signals are delayed while state and
        # record change together, so that a checkpoint always matches the record.
        if self.batch is None:
            with uninterrupted():
                rates = self.on_epoch_start(self.epoch + 1)
                metrics = {"epoch": float(self.epoch + 1), **rates}
                tracker.log_metrics(self.step + 1, self.epoch + 1, metrics)
                self.epoch, self.batch = self.epoch + 1, 0
                self.epoch_began = self.step

        # One pass over the training images, in an order set by seed and epoch.
        began, skipped, total = time.perf_counter(), self.batch, len(self.data.train)
        batches = self.turns(self.data.train, self.epoch, skipped, lambda: run.is_time_to_save)
        while self.batch < total:
            with uninterrupted():
                turn = next(batches)
                self._is_in_step = True
                self.batch += 1
                # The batch is empty if all its images were unreadable and were skipped.
                if turn.pairs:
                    self.step += 1
                    fraction = self.batch / total
                    self.losses.start_step(self.epoch, self.step, fraction=fraction)
                    step(*turn.images)
                self._is_in_step = False
            if display:
                display.step(self.epoch, self.step, tracker.last)
            run.check_finite()
            if turn.save:
                run.save(self)
            interrupt(self.world, turn.stop)

        # Write all losses of the epoch; this waits for the device.
        tracker.flush()
        run.check_finite()
        seconds = time.perf_counter() - began

        # Validation and examples.
        images = self.data.train.images_per_epoch - skipped * self.data.train.batch_size
        metrics = {
            **self.on_epoch_end(self.epoch),
            **tracker.mean_losses_since(self.epoch_began + 1),
            "time/epoch_seconds": seconds,
            "time/images_per_second": max(images, 0) / seconds,
        }
        with uninterrupted():
            self._note_bests(metrics)
            tracker.end_epoch(self.step, self.epoch, {**metrics, **self._best_series()})
            self.batch = None

        # The checkpoint.
        is_best = self.bests.get(self.config.best_by or "", (0.0, 0))[1] == self.epoch
        if is_best or self.is_last_epoch or self.epoch % self.config.save.model_save_rate == 0:
            run.save(self, is_best)
        if display:
            display.epoch_end(self.epoch, metrics)
        if self.judge is not None and not self.is_last_epoch:
            judge = self.judge
            reason = self.world.from_main(lambda: judge(self.epoch, metrics))
            if reason:
                raise self.world.agreed(PrunedError(reason))

    def turns(
        self,
        loader: PairLoader,
        epoch: int,
        skip: int = 0,
        wants_save: Callable[[], bool] = lambda: False,
    ) -> Iterator[Turn]:
        """The batches of an epoch, which the processes of the run share; see `turns`."""
        return turns(loader, epoch, skip, self.world, wants_save, lambda: self._signals.number)

    # --- checkpoints ---------------------------------------------------------------------------

    def _note_bests(self, metrics: Mapping[str, float]) -> None:
        """Updates `bests`; a second call with the same metrics changes nothing."""
        for name, value in metrics.items():
            if name.startswith("val/") and math.isfinite(value):
                sign = -1.0 if self.config.validation.is_lower_better(name) else 1.0
                if name not in self.bests or sign * value > sign * self.bests[name][0]:
                    self.bests[name] = (value, self.epoch)

    def _best_series(self) -> dict[str, float]:
        """``best/<metric>`` and ``best/<metric>_epoch``, which tables of runs can be sorted by."""
        series: dict[str, float] = {}
        for name, (value, epoch) in self.bests.items():
            short = name.removeprefix("val/")
            series |= {f"best/{short}": value, f"best/{short}_epoch": float(epoch)}
        return series

    # --- the run directory ---------------------------------------------------------------------

    def describe(self) -> str:
        """One line with epochs, steps, device, precision and how images are cached."""
        step = f"captured step{self.eager_steps}" if self.graph_obstacle is None else "eager step"
        reason = f" ({self.graph_obstacle})" if self.graph_obstacle else ""
        place = {
            "ram": "in RAM",
            "disk": "on disk",
            "device": "on the device",
            "off": "read each time",
        }
        epochs = counted(self.config.train.epochs, "epoch")
        threads = f"{describe(torch.get_num_threads())}, " if self.device.type == "cpu" else ""
        return (
            f"{epochs} of {counted(len(self.data.train), 'step')} on {self._where()} "
            f"in {self.precision}, {threads}{step}{reason}, images {place[self.data.train.cache]}."
        )

    def _where(self) -> str:
        if self.world.size == 1:
            return str(self.device)
        return f"{self.device.type}, {self.world.size} processes,"

    def describe_store(self) -> str:
        """One line with the MLflow experiment, its store and why it was chosen; empty if MLflow
        is off."""
        options = self.config.logging.mlflow
        if not options.enable:
            return ""
        experiment = options.experiment or self.config.common.experiment_name
        return f"MLflow: experiment '{experiment}' in {self.store}."

    def _tags(self) -> dict[str, str]:
        train = self.config.train
        start = {"init_from": train.init_from, "init_from_digest": train.init_from_digest}
        return {
            **{key: value for key, value in start.items() if value is not None},
            **describe_environment(self.device),
            "precision": self.precision,
            "cuda_graph": "off" if self.graph_obstacle else "on",
            **({"processes": str(self.world.size)} if self.world.size > 1 else {}),
            "objective": train.objective,
            "dataset": absolute(self.config.dataloader.dataroot),
        }

    def _seed(self, rank: int = 0) -> None:
        common = self.config.common
        seed_everything(seed_of(common.seed, rank), common.deterministic)
