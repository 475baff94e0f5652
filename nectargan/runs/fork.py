"""Forking a run: a new run that goes on from a checkpoint of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nectargan.analysis.run_changes import Change
from nectargan.analysis.sources import one_run
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ConfigError, RunError
from nectargan.record.lineage import Ancestor, write_lineage
from nectargan.record.output_directory import require_status
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint, newest_checkpoint
from nectargan.runs.checkpoint_writer import also_known_as
from nectargan.runs.resume import (
    check_ledgers,
    differences,
    history_of,
    run_directory_of,
    stop_reason_at,
)
from nectargan.runs.training_state import TrainingState
from nectargan.wording import counted

# With these, the networks, the images or the counters of the checkpoint would not fit ...
_FIXED = ("dataloader.", "train.discriminator.", "train.generator.", "train.init_from")
# ... but with these they do.
_FREE = (
    "dataloader.augmentations.",
    "dataloader.cache",
    "dataloader.dataroot",  # with the same images in it
    "dataloader.num_workers",
    "dataloader.on_bad_image",
    *(
        f"train.{network}.{option}"
        for network in ("discriminator", "generator")
        for option in ("dropout", "learning_rate.", "optimizer.")
    ),
)
# They say where a run is, and not what it is.
_PLACES = ("common.experiment_name", "train.fork_from")


class Fork(NamedTuple):
    """A checkpoint that a new run goes on from.

    Attributes:
        directory: The run directory of the parent.
        file: The checkpoint.
        state: The training state in it.
        changes: Old and new value of each option that changed, by dotted key.
    """

    directory: RunDirectory
    file: Path
    state: TrainingState
    changes: dict[str, tuple[object, object]]

    @property
    def history(self) -> list[Change]:
        """All changes of the config since the start of the oldest ancestor, with this one."""
        return history_of(self.directory, self.state, self.changes)

    def begin(self, directory: RunDirectory, best_by: str | None) -> None:
        """Writes into the new run directory what the fork has from its parent: its lineage, and the
        best checkpoint until then, if it is still there; raises OSError.

        Args:
            directory: The new run directory.
            best_by: The metric that selects the best checkpoint.
        """
        training = self.state.training
        ancestor = Ancestor(
            str(self.file), self.state.epoch, self.state.step, training.batch is not None
        )
        changes = [change._asdict() for change in self.history]
        sizes = {str(file): size for file, size in training.ledgers.items()}
        write_lineage(directory, self.directory, ancestor, changes, sizes)
        if best_by in training.bests:
            best = _checkpoint_of(self.directory, int(training.bests[best_by][1]))
            if best is not None:
                directory.checkpoints.mkdir(exist_ok=True)
                also_known_as(best, directory.best_checkpoint)


def fork_of(config: Config) -> Fork:
    """Prepares a fork from the checkpoint that ``train.fork_from`` of its config names.

    Raises:
        ConfigError: an option differs from that of the checkpoint though it must not, or the run
            would have no epoch left to train.
        CheckpointError: the checkpoint cannot be read, or holds nothing to go on from.
        RunError: it is not in a run directory, or the ledger of the parent was changed by another
            program.
    """
    directory, file, content = find_checkpoint(str(config.train.fork_from))
    state = TrainingState.read(content, file)
    before = ConfigManager(state.config).data
    found = differences(before, config)
    changes = {key: pair for key, pair in found.items() if key not in _PLACES}
    # The order of the images follows from the seed and the epoch.
    fixed = (*_FIXED, "common.seed") if state.training.batch is not None else _FIXED
    refused = [key for key in changes if key.startswith(fixed) and not key.startswith(_FREE)]
    if refused:
        told = "; ".join(f"{k} from {changes[k][0]!r} to {changes[k][1]!r}" for k in refused)
        raise ConfigError(
            f"'{directory}' cannot be forked with a change of {told}: the checkpoint would not fit."
        )
    _check_length(directory, file, state, config)
    if set(config.train.loss) != set(before.train.loss):
        # The state of a balancer has an element for each loss, so it starts without state.
        state.training.balancer = None
    check_ledgers(directory, state)
    return Fork(directory, file, state, changes)


def _check_length(
    directory: RunDirectory, file: Path, state: TrainingState, config: Config
) -> None:
    training, epochs = state.training, config.train.epochs
    if reason := stop_reason_at(config, state):
        raise ConfigError(
            f"A fork of '{file}' has nothing to train, because it is {reason}. Change train.stop, "
            "or turn it off with --set train.stop=null."
        )
    if training.epoch < epochs or (training.epoch == epochs and training.batch is not None):
        return
    told = "done" if training.batch is None else "begun"
    earlier = [epoch for epoch in _epochs_of(directory) if epoch < epochs]
    way_out = f", or fork an earlier checkpoint, '{directory}@{earlier[-1]}'" if earlier else ""
    raise ConfigError(
        f"A fork of '{file}' with {counted(epochs, 'epoch')} has nothing to train: "
        f"{training.epoch} are {told}. Add --epochs N for a longer one{way_out}."
    )


def find_checkpoint(place: str) -> tuple[RunDirectory, Path, dict[str, Any]]:
    """The checkpoint that ``RUN``, ``RUN@EPOCH`` or ``FILE`` stands for.

    Args:
        place: A run directory, for its newest checkpoint; a run directory and an epoch, for the
            checkpoint of its end; or the file of a checkpoint in a run directory.

    Returns:
        The run directory, the absolute path of the checkpoint and its content.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
        RunError: there is no such run.
    """
    run, at, epoch = place.rpartition("@")
    if not at or one_run(place).path.exists():
        run, epoch = place, ""
    directory = one_run(run)
    if directory.path.is_file():
        if epoch:
            raise RunError(f"'{run}' is a file; @{epoch} needs a run directory before it.")
        file = directory.path.resolve()
        directory = run_directory_of(file, "forked")
        return directory, file, load_checkpoint(file)
    require_status(directory)
    if not epoch:
        file, content = newest_checkpoint(directory)
        return directory, file.resolve(), content
    if not (epoch.isascii() and epoch.isdigit()):
        raise RunError(f"'{place}': the epoch after @ must be a whole number, not '{epoch}'.")
    found = _checkpoint_of(directory, int(epoch))
    if found is None:
        raise CheckpointError(
            f"'{directory}' has no checkpoint of epoch {epoch}: {_those(directory)}"
        )
    return directory, found.resolve(), load_checkpoint(found)


def _checkpoint_of(directory: RunDirectory, epoch: int) -> Path | None:
    """The checkpoint of the end of an epoch, under whatever name it was kept."""
    file = directory.checkpoint(epoch)
    if file.is_file():
        return file
    best = directory.best_checkpoint
    try:
        return best if best.is_file() and load_checkpoint(best)["epoch"] == epoch else None
    except CheckpointError:
        return None


def _epochs_of(directory: RunDirectory) -> list[int]:
    """The epochs whose ends have a checkpoint, best.pt aside."""
    files = directory.list_checkpoints()
    return [int(file.stem.removeprefix("epoch_")) for file in files if "_step_" not in file.name]


def _those(directory: RunDirectory) -> str:
    """What checkpoints there are, as the end of a sentence."""
    epochs = _epochs_of(directory)
    told = [f"epoch {epoch}" for epoch in epochs]
    if directory.best_checkpoint.is_file():
        best = load_checkpoint(directory.best_checkpoint)["epoch"]
        told += [] if best in epochs else [f"epoch {best} (best.pt)"]
    told += [file.name for file in directory.list_checkpoints() if "_step_" in file.name]
    return f"there are those of {', '.join(told)}." if told else "there are none."
