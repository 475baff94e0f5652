"""What was changed of a run on its way, when it was resumed with other options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nectargan.config.choices import INCIDENTAL
from nectargan.files import read_regular_text
from nectargan.record.run_directory import RunDirectory

# Of a run whose images are the same, wherever they are.
_PLACE = "dataloader.dataroot"


class Change(NamedTuple):
    """A change that is in force in the record of a run.

    Attributes:
        epoch: The first epoch with it.
        options: Old and new value by dotted key.
    """

    epoch: int
    options: Mapping[str, Sequence[Any]]

    def __str__(self) -> str:
        told = (f"{key.removeprefix('train.')} {o} to {n}" for key, (o, n) in self.options.items())
        return f"epoch {self.epoch}: {', '.join(told)}"


def make_change(epoch: int, options: Mapping[str, Sequence[Any]]) -> list[Change]:
    """The change that other options make from an epoch on; none if they say only where and how a
    run computes."""
    real = {k: v for k, v in options.items() if not k.startswith(INCIDENTAL) and k != _PLACE}
    return [Change(epoch, real)] if real else []


def changes_of(directory: RunDirectory) -> list[Change]:
    """The changes of a run, in their order; none where nothing is known."""
    found: list[Change] = []
    try:
        for line in map(json.loads, read_regular_text(directory.resumptions).splitlines()):
            if "history" in line:
                found = [Change(int(c["epoch"]), dict(c["options"])) for c in line["history"]]
            else:  # of version 1.0
                found += make_change(int(line["epoch"]) + 1, line["changes"])
        return [change for change in found if str(change)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
