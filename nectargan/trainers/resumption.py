"""Going on with a run that ended early."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.files import read_regular_text, remove_parts
from nectargan.loggers.epoch_files import list_epoch_files, step_of
from nectargan.loggers.ledger import LOSSES_FILE, cut_ledger
from nectargan.loggers.run_directory import is_locked, list_runs, read_status
from nectargan.trainers.checkpoint import list_checkpoints
from nectargan.trainers.components import resolve_losses

LOG_FILE = "resumptions.jsonl"

# Where and how a run computes, and what it leaves behind; not what it is.
INCIDENTAL = (
    "common.device",
    "common.experiment_version",
    "common.output_directory",
    "dataloader.cache",
    "dataloader.num_workers",
    "logging.",
    "save.",
    "train.compile",
    "train.cuda_graph",
    "train.vgg_weights",
)

# What may differ from the run so far. Anything else would make it another run.
_MAY_CHANGE = (
    *INCIDENTAL,
    "dataloader.dataroot",
    "train.discriminator.learning_rate.",
    "train.generator.learning_rate.",
    "train.loss.",
    "train.separate_lr_schedules",
)


class Resumption(NamedTuple):
    """Where and how to go on.

    Attributes:
        directory: The run directory.
        config: The resolved config, with the changes.
        checkpoint: The content of the checkpoint.
        changes: Old and new value of each option that changed, by dotted key.
    """

    directory: Path
    config: Config
    checkpoint: dict[str, Any]
    changes: dict[str, tuple[object, object]]


def resumption_of(directory: Path, checkpoint: dict[str, Any], wanted: Config) -> Resumption:
    """Goes on with a run from a checkpoint of it, under a config that may differ.

    Args:
        directory: The run directory.
        checkpoint: From `load_last`.
        wanted: The config; the one in the checkpoint, with changes.

    Raises:
        ConfigError: an option may not change.
    """
    before = resolve_losses(ConfigManager(checkpoint["config"]).data)
    config = resolve_losses(wanted)
    changes = _differences(before, config)
    refused = [key for key in changes if not key.startswith(_MAY_CHANGE)]
    if refused:
        told = "; ".join(f"{k} from {changes[k][0]!r} to {changes[k][1]!r}" for k in refused)
        raise ConfigError(
            f"'{directory}' cannot be resumed with a change of {told}: that would be another run."
        )
    return Resumption(directory, config, checkpoint, changes)


def find_unfinished(output: Path, experiment: str) -> Path | None:
    """The newest run of an experiment that is neither finished nor at work, and has a checkpoint
    to go on from."""
    for directory in reversed(list_runs(output, experiment)):
        unfinished = read_status(directory)[0] not in ("", "FINISHED")
        if unfinished and list_checkpoints(directory) and not is_locked(directory):
            return directory
    return None


def record_resumption(resumption: Resumption) -> None:
    """Adds a line to ``resumptions.jsonl``: when, from where, what changed."""
    line = {
        "time": time.time_ns() // 1_000_000,
        "epoch": resumption.checkpoint["epoch"],
        "step": resumption.checkpoint["step"],
        "changes": {key: list(pair) for key, pair in resumption.changes.items()},
    }
    with (resumption.directory / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def changes_on_the_way(directory: Path) -> set[str]:
    """The options, by dotted key, that a run did not have from its beginning."""
    try:
        lines = read_regular_text(directory / LOG_FILE).splitlines()
        return {key for line in lines for key in json.loads(line)["changes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def cut_record(directory: Path, step: int, sizes: Mapping[str, int]) -> None:
    """Brings the record back to a checkpoint: files that were half written, pictures and histograms
    past ``step`` go, ledgers get the sizes (bytes, by file name) that they had then, and rows past
    them move to ``orphaned/``, under the number of the attempt that made them.

    Raises:
        RunError: a ledger is shorter than it was.
        OSError: a file cannot be written.
    """
    # A checkpoint that was being written when its process was killed is large.
    remove_parts(directory)
    folder = directory / "orphaned"
    attempt = 1
    while any(folder.glob(f"attempt-{attempt}.*")):
        attempt += 1
    for name in list_epoch_files(directory):
        if (step_of(name) or 0) > step:
            (directory / name).unlink()
    for file, size in sizes.items():
        suffix = ".csv" if file == LOSSES_FILE else f".{file}"
        cut_ledger(directory / file, size, folder / f"attempt-{attempt}{suffix}")


def _differences(before: Config, after: Config) -> dict[str, tuple[object, object]]:
    old, new = (flatten(config.model_dump(mode="json")) for config in (before, after))
    keys = dict.fromkeys([*old, *new])
    return {k: (old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)}


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested options by dotted key."""
    flat: dict[str, object] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
