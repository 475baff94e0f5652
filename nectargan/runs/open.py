"""`Run`: the directory of a run while it is trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from nectargan.config.config_manager import save_config
from nectargan.config.schema import Config
from nectargan.errors import NonFiniteError, RunError
from nectargan.loggers.mlflow.metadata import DatasetFacts
from nectargan.loggers.sinks_log import sinks_logged
from nectargan.losses.loss_manager import LossManager
from nectargan.output import printable
from nectargan.record.follower import Sink
from nectargan.record.ledger import LossRow
from nectargan.record.run_directory import RunDirectory, create_run_directory
from nectargan.record.tracker import Tracker, reason_of, status_of
from nectargan.record.watchers import CollapseWatch
from nectargan.runs.checkpoint_writer import CheckpointWriter
from nectargan.runs.describe import change_tag, save_facts
from nectargan.runs.resume import Resumption, cut_record, record_resumption
from nectargan.runs.sinks import build_sinks, check_sinks, output_of, own_sinks, remember_sinks
from nectargan.runs.training_state import TrainerLike, TrainingState
from nectargan.runs.trust import vouch_for

log = logging.getLogger("nectargan")


class Run:
    """Record and checkpoints of a run, for as long as `open_run` keeps it open.

    Attributes:
        directory: The run directory.
        tracker: The record.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        losses: LossManager,
        sinks: list[Sink],
        go_on: bool,
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
            go_on=go_on,
            drain_seconds=options.drain_seconds,
            watchers=[self._look_for_a_collapse],
        )
        self._config = config
        self._writer = CheckpointWriter(directory, config.save.keep_last)
        self._saved_at = time.monotonic()
        self._collapse = CollapseWatch(("D_real", "D_fake"))
        self._said_nonfinite = False

    @property
    def is_time_to_save(self) -> bool:
        """Whether ``save.every_minutes`` have passed."""
        minutes = self._config.save.every_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def save(self, trainer: TrainerLike, is_best: bool = False) -> None:
        """Writes a checkpoint in the background; waits only for the copy from the device.

        Args:
            trainer: The trainer, between two steps.
            is_best: Whether it becomes the best one.

        Raises:
            NonFiniteError: a loss is not finite, and the run is to stop then.
            RunError: the checkpoint before could not be written.
        """
        if not self._config.save.save_model:
            return
        self.tracker.flush()
        # The last checkpoint before a loss went bad is to stay the last one.
        self.meet_nonfinite()
        tracker = self.tracker
        state = TrainingState.of(
            trainer, tracker.sizes(), tracker.digests(), tracker.reference("MLflow")
        )
        step = None if trainer.batch is None else trainer.step
        self._writer.save(self.directory.checkpoint(trainer.epoch, step), state.save, is_best)
        self._saved_at = time.monotonic()

    def wait(self) -> None:
        """Waits for the checkpoint that is being written; raises RunError if it cannot be."""
        self._writer.wait()

    def tag(self, key: str, value: str) -> None:
        """Changes one of the tags that the run was opened with; raises OSError."""
        change_tag(self.directory, key, value)
        self.tracker.tag(key, value)

    def meet_nonfinite(self) -> None:
        """Does what ``train.on_nonfinite`` says if a loss on record is not finite.

        Raises:
            NonFiniteError: the run is to stop.
        """
        watch = self.tracker.watch
        if watch.found is None or self._said_nonfinite:
            return
        if self._config.train.on_nonfinite == "stop":
            self._writer.wait()
            saved = bool(self.directory.list_checkpoints())
            where = f"The last checkpoint before is in '{self.directory}'."
            raise NonFiniteError(
                f"{watch.describe()} {where if saved else 'No checkpoint was made before.'}"
            )
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
    datasets: list[DatasetFacts],
    resumption: Resumption | None = None,
) -> Iterator[Run]:
    """Makes the directory of a run, or goes on with one, for the time of a ``with`` statement.

    Args:
        config: The resolved config.
        losses: The manager whose losses are recorded.
        tags: What MLflow is to know beside the config.
        datasets: The data sets of the run.
        resumption: A run to go on with.

    Raises:
        RunError: the directory cannot be made or written or is in use, or MLflow is required and
            cannot be reached, or lacks the experiment or the run because somebody deleted it.
    """
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
    if resumption is not None and resumption.history:
        tags["changes"] = "; ".join(map(str, resumption.history))
    losses.experiment_directory = directory.path
    with directory.lock(), sinks_logged(directory):
        try:
            if resumption is not None:
                cut_record(resumption)
                remember_sinks(directory, resumption.state.training)
                record_resumption(resumption)
            save_facts(directory, tags, datasets)
            save_config(config, directory.config)
            vouch_for(directory, config.model_dump(mode="json"))
            directory.write_status("RUNNING")
        except OSError as error:
            place = error.filename or directory
            raise RunError(f"'{place}' cannot be written: {error.strerror}.") from None
        try:
            sinks = build_sinks(config, directory, output_of(config, resumption), True, own)
            run = Run(config, directory, losses, sinks, go_on=resumption is not None)
            with run.tracker:
                yield run
        except BaseException as error:
            with suppress(OSError):
                directory.write_status(status_of(error), reason_of(error))
            raise
        directory.write_status("FINISHED")
