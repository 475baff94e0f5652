"""Resuming a run from one of its checkpoints."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from nectargan.analysis.run_changes import Change, changes_of, make_change
from nectargan.config.choices import INCIDENTAL
from nectargan.config.config_manager import ConfigManager
from nectargan.config.dotted import dotted
from nectargan.config.schema import Config
from nectargan.errors import PRUNED, CheckpointError, ConfigError, RunError
from nectargan.files import append_line, read_regular_text, remove_parts, replacing
from nectargan.record.output_directory import list_runs
from nectargan.record.rollback import check_ledger, cut_ledger
from nectargan.record.run_directory import (
    GRADIENTS_FILE,
    LOSSES_FILE,
    METRICS_FILE,
    RunDirectory,
    step_of,
)
from nectargan.runs.checkpoint import load_checkpoint
from nectargan.runs.checkpoint_writer import go_back
from nectargan.runs.training_state import TrainingState
from nectargan.shell import quoted
from nectargan.wording import counted

log = logging.getLogger("nectargan")

# Options that may change when a run is resumed; with other changes it would be another run.
_MAY_CHANGE = (
    *INCIDENTAL,
    "dataloader.dataroot",
    "train.balancer",
    "train.discriminator.learning_rate.",
    "train.generator.learning_rate.",
    "train.loss.",
    "train.separate_lr_schedules",
    "train.stop",
    "validation.",
)


class Resumption(NamedTuple):
    """A run to resume.

    Attributes:
        directory: The run directory.
        config: The resolved config, with the changes.
        state: The training state in the checkpoint.
        changes: Old and new value of each option that changed, by dotted key.
        file: The file of the checkpoint, if it may not be the newest one.
    """

    directory: RunDirectory
    config: Config
    state: TrainingState
    changes: dict[str, tuple[object, object]]
    file: Path | None = None

    @property
    def step(self) -> int:
        """Completed steps at the checkpoint. Records of later steps are removed."""
        return self.state.step

    @property
    def history(self) -> list[Change]:
        """All changes of the config since the start of the run, including this one."""
        return history_of(self.directory, self.state, self.changes)

    @property
    def is_finished(self) -> bool:
        """Whether the run has finished all epochs of the config, or was stopped early."""
        is_over = self.state.epoch >= self.config.train.epochs or self.stop_reason
        return bool(is_over) and self.directory.status == "FINISHED"

    @property
    def stop_reason(self) -> str:
        """Why ``train.stop`` ends the run at the checkpoint; empty if it does not."""
        return stop_reason_at(self.config, self.state)


def stop_reason_at(config: Config, state: TrainingState) -> str:
    """Why ``train.stop`` of a config ends a run at a checkpoint; empty if it does not."""
    stop, training = config.train.stop, state.training
    if stop is None or training.batch is not None or training.epoch >= config.train.epochs:
        return ""
    bests = {name: (value, int(epoch)) for name, (value, epoch) in training.bests.items()}
    return stop.reason(bests, training.epoch)


def history_of(
    directory: RunDirectory, state: TrainingState, changes: Mapping[str, tuple[object, object]]
) -> list[Change]:
    """The changes of the config up to a checkpoint, and the new ones.

    Args:
        directory: The run directory of the checkpoint.
        state: The training state in the checkpoint.
        changes: Old and new value of each option that changes now, by dotted key.
    """
    begins, known = state.epoch + 1, state.training.changes
    if known is None:  # a checkpoint of version 1.0
        before = [c for c in changes_of(directory) if c.epoch <= begins]
    else:
        before = [Change(c.epoch, c.options) for c in known]
    return before + make_change(begins, changes)


def resumption_of(
    directory: RunDirectory, checkpoint: dict[str, Any], wanted: Config, file: Path | None = None
) -> Resumption:
    """Prepares to resume a run from a checkpoint, possibly with a changed config.

    Args:
        directory: The run directory.
        checkpoint: Content of the checkpoint, from `load_last` or `load_checkpoint`.
        wanted: The config in the checkpoint, with changes.
        file: The file of the checkpoint, if it may not be the newest one; later checkpoints are
            then moved away.

    Raises:
        ConfigError: an option was changed that must not change, or the run has more epochs than
            ``wanted``.
        CheckpointError: the checkpoint cannot be resumed from.
        RunError: a ledger was changed by another program, or the run is in use.
    """
    state, config = TrainingState.read(checkpoint, file or directory.path), wanted
    training, before = state.training, ConfigManager(state.config).data
    config = config.model_copy(deep=True)
    if config.train.init_from == before.train.init_from and not config.train.init_from_digest:
        # The weights were taken when the run started; the file is not read again.
        config.train.init_from_digest = before.train.init_from_digest
    if config.train.fork_from is None:
        # A config given with -c need not repeat it.
        config.train.fork_from = before.train.fork_from
    changes = differences(before, config)
    refused = [key for key in changes if not key.startswith(_MAY_CHANGE) or key == "logging.csv"]
    if refused:
        listing = "; ".join(f"{k} from {changes[k][0]!r} to {changes[k][1]!r}" for k in refused)
        raise ConfigError(
            f"'{directory}' cannot be resumed with a change of {listing}: start a new run instead."
        )
    if training.epoch > config.train.epochs:
        how_far = "done" if training.batch is None else "begun"
        raise ConfigError(
            f"'{directory}' cannot be resumed with {counted(config.train.epochs, 'epoch')}: "
            f"{training.epoch} are {how_far}. To go back, resume "
            f"'{directory.checkpoints}/epoch_N.pt'."
        )
    if directory.is_locked:
        raise RunError(f"'{directory}' is in use by another process.")
    # Gradients may not be recorded, or not from the start of the run.
    ledgers = set(training.ledgers) - {GRADIENTS_FILE}
    if ledgers != ({LOSSES_FILE, METRICS_FILE} if config.logging.csv else set()):
        raise CheckpointError(f"The checkpoint in '{directory}' lacks the sizes of the CSV files.")
    try:
        check_ledgers(directory, state)
    except RunError as error:
        raise RunError(f"{error} {_way_out(directory)}") from None
    output = Path(config.common.output_directory)
    if "common.output_directory" in changes and not is_same(output, directory.parent):
        log.warning(
            "common.output_directory is '%s' and is not used: the run stays in '%s'.",
            output,
            directory,
        )
    return Resumption(directory, config, state, changes, file)


def check_ledgers(directory: RunDirectory, state: TrainingState) -> None:
    """Raises RunError if a ledger was changed before the position of the checkpoint."""
    digests = state.training.ledger_digests or {}
    for name, size in state.training.ledgers.items():
        # The learning rates of an epoch are recorded before its first step.
        last = state.step + (name == METRICS_FILE)
        check_ledger(directory / name, size, last, digests.get(name))


def _way_out(directory: RunDirectory) -> str:
    """A sentence that says how to continue a run whose ledger was changed."""
    for file in reversed(directory.list_checkpoints()):
        with suppress(CheckpointError, RunError):
            state = TrainingState.read(load_checkpoint(file), file)
            check_ledgers(directory, state)
            if state.training.ledger_digests is None:  # version 1.0 stored no hashes to compare
                break
            return (
                "Or resume from the newest checkpoint before the change, with --resume "
                f"{quoted(file)}."
            )
    return "There is no checkpoint from before the change; without the file, start a new run."


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same existing directory."""
    return one.exists() and one.samefile(other)


def run_directory_of(file: Path, wish: str = "resumed") -> RunDirectory:
    """The run directory that contains a checkpoint.

    Args:
        file: The checkpoint.
        wish: What cannot be done with it otherwise, for the error message.

    Raises:
        RunError: the checkpoint is not in a run directory.
    """
    folder = file.resolve().parent
    run = RunDirectory(folder.parent)
    if folder != run.checkpoints or not run.config.is_file():
        raise RunError(
            f"'{file}' cannot be {wish}: it is not in the folder '{run.checkpoints.name}' of a "
            "run directory."
        )
    return RunDirectory(file.parent.parent) if file.parent.name == folder.name else run


def find_unfinished(output: Path, experiment: str) -> RunDirectory | None:
    """The newest run of an experiment that is neither finished nor in use and has a checkpoint;
    ``None`` if there is none. Forks and runs that a sweep has pruned are ignored."""
    for directory in reversed(list_runs(output, experiment)):
        if directory.ancestors.exists():
            continue
        status, reason = directory.read_status()
        unfinished = status not in ("", "FINISHED") and not reason.startswith(PRUNED)
        if unfinished and directory.list_checkpoints() and not directory.is_locked:
            return directory
    return None


def record_resumption(resumption: Resumption, processes: int = 1) -> None:
    """Adds a line with time, epoch, step and changes to ``resumptions.jsonl``. At the first change,
    the original config is saved to ``config_original.json``; raises OSError.

    Args:
        resumption: The resumed run.
        processes: Number of processes that go on with it. If that changed, the line has the old and
            the new number.
    """
    directory = resumption.directory
    config, original = directory.config, directory.original_config
    if resumption.changes and not original.exists() and config.exists():
        with replacing(original) as part:
            part.write_text(read_regular_text(config), encoding="utf-8")
    line = {
        "time": time.time_ns() // 1_000_000,
        "epoch": resumption.state.epoch,
        "step": resumption.step,
        "changes": {key: list(pair) for key, pair in resumption.changes.items()},
        "history": [change._asdict() for change in resumption.history],
    }
    before = 1 + len(resumption.state.training.random_of_others)
    if before != processes:
        line["processes"] = [before, processes]
    append_line(directory.resumptions, json.dumps(line))


def changes_on_the_way(directory: RunDirectory) -> set[str]:
    """Dotted keys of the options that were changed by resumes of the run."""
    try:
        lines = read_regular_text(directory.resumptions).splitlines()
        return {key for line in lines for key in json.loads(line)["changes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def cut_record(resumption: Resumption) -> None:
    """Brings the run directory back to the state at the checkpoint; raises OSError.

    Incomplete files, and images and histograms of later steps, are deleted. Rows and checkpoints of
    later steps are moved to ``orphaned/attempt-N.*``.
    """
    directory, training = resumption.directory, resumption.state.training
    # Incomplete checkpoints of a killed process take much space.
    remove_parts(directory.path)
    folder = directory.orphaned
    attempt = 1
    while any(folder.glob(f"attempt-{attempt}.*")):
        attempt += 1
    # Checkpoints first: if the process is killed here, none is left whose rows were removed.
    best = training.bests.get(resumption.config.best_by or "", [0.0, 0])[1]
    step = None if training.batch is None else resumption.step
    aside = folder / f"attempt-{attempt}"
    go_back(directory, training.epoch, step, int(best), resumption.file, aside)
    for name in directory.epoch_files():
        if (step_of(name) or 0) > resumption.step:
            (directory / name).unlink()
    for file, size in training.ledgers.items():
        suffix = ".csv" if file == LOSSES_FILE else f".{file}"
        cut_ledger(directory / file, size, folder / f"attempt-{attempt}{suffix}")
    if GRADIENTS_FILE not in training.ledgers and directory.gradients.exists():
        # They were turned on after the checkpoint was written.
        aside.parent.mkdir(exist_ok=True)
        directory.gradients.replace(folder / f"attempt-{attempt}.{GRADIENTS_FILE}")


def differences(before: Config, after: Config) -> dict[str, tuple[object, object]]:
    """Old and new value of each option in which two configs differ, by dotted key."""
    old, new = _options_of(before), _options_of(after)
    keys = dict.fromkeys([*old, *new])
    return {k: (old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)}


def _options_of(config: Config) -> dict[str, object]:
    """All options by dotted key; schedules and shares in their one-line notation."""
    flat = flatten(config.model_dump(mode="json"))
    for key, value in dotted(config).items():
        if key not in flat:
            flat = {k: v for k, v in flat.items() if not k.startswith(f"{key}.")} | {key: value}
    return flat


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested options by dotted key."""
    flat: dict[str, object] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
