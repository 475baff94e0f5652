"""`Run`: record and checkpoints of a run during training."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from nectargan.config.config_manager import save_config
from nectargan.config.schema import Config
from nectargan.distributed import ALONE, World
from nectargan.errors import NonFiniteError, RunError
from nectargan.loggers.mlflow.metadata import DatasetMetadata
from nectargan.loggers.sinks_log import sinks_logged
from nectargan.losses.loss_manager import LossManager
from nectargan.output import printable
from nectargan.record.follower import Sink
from nectargan.record.ledger import LossRow
from nectargan.record.lineage import read_ancestors
from nectargan.record.output_directory import create_run_directory
from nectargan.record.run_directory import RunDirectory
from nectargan.record.tracker import Tracker, reason_of, status_of
from nectargan.record.watchers import CollapseWatch
from nectargan.runs.checkpoint_writer import CheckpointWriter
from nectargan.runs.describe import change_tag, save_metadata
from nectargan.runs.fork import Fork
from nectargan.runs.random_state import random_state
from nectargan.runs.report import make_report
from nectargan.runs.resume import Resumption, cut_record, record_resumption
from nectargan.runs.sinks import build_sinks, check_sinks, output_of, own_sinks, remember_sinks
from nectargan.runs.training_state import TrainerLike, TrainingState
from nectargan.runs.trust import vouch_for

log = logging.getLogger("nectargan")

_SPARE = 2  # the temporary file of the status, and what else opens a file at that moment


class Run:
    """Record and checkpoints of a run during training; see `open_run`.

    Attributes:
        directory: The run directory.
        tracker: Records losses and metrics.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        losses: LossManager,
        sinks: list[Sink],
        resume: bool,
        world: World = ALONE,
    ) -> None:
        options = config.logging
        self.directory = directory
        self.tracker = Tracker(
            losses,
            directory,
            sinks,
            csv=options.csv,
            window_steps=options.window_steps,
            window_seconds=options.window_seconds,
            resume=resume,
            drain_seconds=options.drain_seconds,
            watchers=[self._look_for_a_collapse],
            gradients_every_n_steps=options.gradients_every_n_steps,
            world=world,
        )
        self._world = world
        self._config = config
        self._writer = CheckpointWriter(directory, config.save.keep_last)
        self._saved_at = time.monotonic()
        self._collapse = CollapseWatch(("D_real", "D_fake"))
        self._said_nonfinite = False

    @property
    def is_time_to_save(self) -> bool:
        """Whether ``save.every_minutes`` have passed since the last checkpoint."""
        minutes = self._config.save.every_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def save(self, trainer: TrainerLike, is_best: bool = False) -> None:
        """Writes a checkpoint in the background. Only the copy from the device is waited for.

        Args:
            trainer: The trainer, between two steps.
            is_best: Whether it becomes the best checkpoint.

        Raises:
            NonFiniteError: a loss is not finite, and ``train.on_nonfinite`` is "stop".
            RunError: the previous checkpoint could not be written.
        """
        if not self._config.save.save_model:
            return
        self.tracker.flush()
        # Save no checkpoint after a loss became NaN, so that the last one is usable.
        self.check_finite()
        tracker = self.tracker
        generators = self._world.gather(random_state(trainer.device))
        if not self._world.is_main:
            return
        state = TrainingState.of(
            trainer,
            tracker.sizes(),
            tracker.digests(),
            tracker.reference("MLflow"),
            tracker.means.state(),
            generators,
        )
        step = None if trainer.batch is None else trainer.step
        self._writer.save(self.directory.checkpoint(trainer.epoch, step), state.save, is_best)
        self._saved_at = time.monotonic()

    def wait(self) -> None:
        """Waits until the last checkpoint is written; raises RunError if it cannot be written."""
        self._writer.wait()

    def tag(self, key: str, value: str) -> None:
        """Changes one of the tags passed to `open_run`; raises OSError."""
        if self._world.is_main:
            change_tag(self.directory, key, value)
        self.tracker.tag(key, value)

    def check_finite(self) -> None:
        """If a recorded loss is NaN or infinite, stops or warns as ``train.on_nonfinite`` says.

        Raises:
            NonFiniteError: there is such a loss, and ``train.on_nonfinite`` is "stop".
        """
        watch = self.tracker.watch
        if watch.found is None or self._said_nonfinite:
            return
        if self._config.train.on_nonfinite == "stop":
            self._writer.wait()
            saved = bool(self.directory.list_checkpoints())
            where = f"The last checkpoint before is in '{self.directory}'."
            error = NonFiniteError(
                f"{watch.describe()} {where if saved else 'No checkpoint was made before.'}"
            )
            raise self._world.agreed(error)  # all processes have the same rows
        self._said_nonfinite = True
        log.warning("%s", watch.describe())

    def _look_for_a_collapse(self, rows: list[LossRow]) -> None:
        if self._collapse.found is not None:
            return
        self._collapse.look(rows)
        if self._collapse.found is not None:
            log.warning("%s", self._collapse.describe())
            self.tracker.tag("collapse", self._collapse.describe())


@contextmanager
def open_run(
    config: Config,
    losses: LossManager,
    tags: Mapping[str, str],
    datasets: list[DatasetMetadata],
    resumption: Resumption | None = None,
    fork: Fork | None = None,
    world: World = ALONE,
) -> Iterator[Run]:
    """A context manager that creates the directory of a new run, or opens that of a resumed one.

    Args:
        config: The resolved config.
        losses: The manager whose losses are recorded.
        tags: Tags of the MLflow run.
        datasets: The data sets of the run.
        resumption: The run to resume; ``None`` for a new run.
        fork: What the new run is a fork of.
        world: The processes that train the run. Only the main one writes; the others learn the
            directory, once everything is open.

    Raises:
        RunError: the directory cannot be created or written or is in use; or MLflow is required but
            cannot be reached, or its experiment or run was deleted.
    """
    if not world.is_main:
        directory = RunDirectory(world.from_main(Path))
        losses.experiment_directory = directory.path
        run = Run(config, directory, losses, [], resume=False, world=world)
        _go_on_from(run, resumption if fork is None else fork)
        with run.tracker:
            yield run
        return
    check_sinks(config, resumption)
    own = own_sinks(config)
    if resumption is not None:
        directory = resumption.directory
    else:
        common = config.common
        directory = create_run_directory(
            Path(common.output_directory),
            common.experiment_name,
            common.experiment_version,
            config.save.auto_increment_version,
        )
    tags = {**tags, "run_directory": printable(str(directory.resolve()))}
    start = fork if resumption is None else resumption
    if start is not None and start.history:
        tags["changes"] = "; ".join(map(str, start.history))
    losses.experiment_directory = directory.path
    with directory.lock(), sinks_logged(directory):
        try:
            if resumption is not None:
                cut_record(resumption)
                remember_sinks(directory, resumption.state.training)
                record_resumption(resumption, world.size)
            if fork is not None:
                fork.begin(directory, config.best_by)
            for ancestor in read_ancestors(directory)[-1:]:
                tags["parent checkpoint"] = printable(ancestor.checkpoint)
            save_metadata(directory, tags, datasets)
            save_config(config, directory.config)
            vouch_for(directory, config.model_dump(mode="json"))
            directory.write_status("RUNNING", parent=fork.file if fork is not None else None)
        except OSError as error:
            place = error.filename or directory
            raise RunError(f"'{place}' cannot be written: {error.strerror}.") from None
        spare = list[int]()
        try:
            sinks = build_sinks(config, directory, output_of(config, resumption), True, own)
            run = Run(config, directory, losses, sinks, resumption is not None, world)
            _go_on_from(run, start)
            with run.tracker:
                _reserve(spare)
                world.from_main(lambda: directory.path)
                yield run
        except BaseException as error:
            _close(spare)
            with suppress(OSError):
                directory.write_status(status_of(error), reason_of(error))
            raise
        _close(spare)
        directory.write_status("FINISHED", run.tracker.reason)
        if config.save.report:
            make_report(directory, config)


def _reserve(files: list[int]) -> None:
    """Opens descriptors that are closed before the final status is written, which a run that has
    run out of them could not write otherwise."""
    with suppress(OSError):
        while len(files) < _SPARE:
            files.append(os.open(os.devnull, os.O_RDONLY))


def _close(files: list[int]) -> None:
    while files:
        os.close(files.pop())


def _go_on_from(run: Run, start: Resumption | Fork | None) -> None:
    if start is not None and start.state.training.means is not None:
        run.tracker.means.restore(start.state.training.means)
