"""The lineage of a run: the checkpoints that it descends from, and the rows of its ancestors.

A fork keeps a copy of the rows of its parent up to the checkpoint. So its whole history stays on
record when the parent is resumed from an earlier checkpoint, moved or removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nectargan.files import open_regular, read_regular_text, replacing
from nectargan.record.rollback import first_bytes
from nectargan.record.run_directory import RunDirectory


class Ancestor(NamedTuple):
    """A checkpoint that a run descends from.

    Attributes:
        checkpoint: The absolute path of the file, when the run was forked.
        epoch: Completed epochs.
        step: Completed steps.
        is_mid_epoch: Whether it was made in mid-epoch.
    """

    checkpoint: str
    epoch: int
    step: int
    is_mid_epoch: bool

    @property
    def directory(self) -> RunDirectory:
        """The run directory that the checkpoint was in."""
        return RunDirectory(Path(self.checkpoint).parent.parent)

    def __str__(self) -> str:
        place = f"step {self.step}" if self.is_mid_epoch else f"epoch {self.epoch}"
        return f"{self.directory.name}, {place}"


def read_ancestors(directory: RunDirectory) -> list[Ancestor]:
    """The checkpoints that a run descends from, the oldest first; none if it is not a fork."""
    return [Ancestor(**each) for each in _read(directory).get("ancestors", ())]


def read_changes(directory: RunDirectory) -> list[Mapping[str, Any]]:
    """The changes of the config up to the fork, that of the fork included; none otherwise."""
    return list(_read(directory).get("changes", ()))


def _read(directory: RunDirectory) -> dict[str, Any]:
    try:
        content = json.loads(read_regular_text(directory.ancestors))
        for each in content["ancestors"]:
            Ancestor(**each)
        return {"ancestors": list(content["ancestors"]), "changes": list(content["changes"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def write_lineage(
    directory: RunDirectory,
    parent: RunDirectory,
    ancestor: Ancestor,
    changes: Sequence[Mapping[str, Any]],
    ledgers: Mapping[str, int],
) -> None:
    """Writes the lineage of a fork into its new directory.

    Args:
        directory: The directory of the fork.
        parent: The run that it is forked from.
        ancestor: The checkpoint.
        changes: What `read_changes` is to return.
        ledgers: Bytes of each ledger of the parent up to the checkpoint, by file name.

    Raises:
        OSError: a file cannot be read or written.
    """
    directory.lineage.mkdir()
    for file, size in ledgers.items():
        _inherit(parent.inherited(file), parent / file, size, directory.inherited(file))
    content = {
        "ancestors": [each._asdict() for each in [*read_ancestors(parent), ancestor]],
        "changes": list(changes),
    }
    with replacing(directory.ancestors) as part:
        part.write_text(json.dumps(content, indent=4), encoding="utf-8")


def _inherit(before: Path, own: Path, size: int, target: Path) -> None:
    """Writes the rows that a parent inherited itself, and the first ``size`` bytes of its own."""
    with replacing(target) as part, part.open("wb") as kept, open_regular(own) as rows:
        header = rows.readline()
        if before.exists():
            with open_regular(before) as older:
                kept.writelines(first_bytes(older, before.stat().st_size))
        else:
            kept.write(header)
        kept.writelines(first_bytes(rows, max(0, size - len(header))))


def ledgers_of(directory: RunDirectory, file: str) -> list[Path]:
    """The files with all rows of a ledger: those from before the run was forked, and its own.

    A fork without a step of its own need not have a file of its own; otherwise that is named
    whether it exists or not.
    """
    inherited, own = directory.inherited(file), directory / file
    if not inherited.exists():
        return [own]
    return [inherited, own] if own.exists() else [inherited]
