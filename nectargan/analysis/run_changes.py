"""The changes of the config when a run was resumed or forked with other options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nectargan.config.choices import INCIDENTAL
from nectargan.files import read_regular_text
from nectargan.record.lineage import read_changes
from nectargan.record.run_directory import RunDirectory

# The images are the same, even if their folder was moved.
_PLACE = "dataloader.dataroot"


class Change(NamedTuple):
    """A change of the config during a run.

    Attributes:
        epoch: The first epoch with the new values.
        options: Old and new value by dotted key.
    """

    epoch: int
    options: Mapping[str, Sequence[Any]]

    def __str__(self) -> str:
        pairs = (f"{key.removeprefix('train.')} {o} to {n}" for key, (o, n) in self.options.items())
        return f"epoch {self.epoch}: {', '.join(pairs)}"


def make_change(epoch: int, options: Mapping[str, Sequence[Any]]) -> list[Change]:
    """A list with the change; empty if the options do not affect the result of the training."""
    real = {k: v for k, v in options.items() if not k.startswith(INCIDENTAL) and k != _PLACE}
    return [Change(epoch, real)] if real else []


def _lines(path: Path) -> list[str]:
    return read_regular_text(path).splitlines() if path.exists() else []


def changes_of(directory: RunDirectory) -> list[Change]:
    """The changes of a run in their order; empty if none are known."""
    found: list[Change] = []
    try:
        found = [Change(int(c["epoch"]), dict(c["options"])) for c in read_changes(directory)]
        for line in map(json.loads, _lines(directory.resumptions)):
            if "history" in line:
                found = [Change(int(c["epoch"]), dict(c["options"])) for c in line["history"]]
            else:  # written by version 1.0
                found += make_change(int(line["epoch"]) + 1, line["changes"])
        return [change for change in found if str(change)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
