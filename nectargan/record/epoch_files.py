"""Files that a run makes once an epoch, beside the ledger: where they are, what their names say."""

from __future__ import annotations

import re
from pathlib import Path

EXAMPLES, LOSS_MAPS, HISTOGRAMS = "examples", "loss_maps", "histograms"
FOLDERS = (EXAMPLES, LOSS_MAPS, HISTOGRAMS)

_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.(png|npz)")


def epoch_file(folder: str, epoch: int, step: int, suffix: str = ".png") -> str:
    """Path, relative to the run directory, of a file made after ``step``, which ended ``epoch``.

    Args:
        folder: One of `FOLDERS`: pictures, or histograms (NPZ).
    """
    return f"{folder}/epoch_{epoch:04d}_step_{step:08d}{suffix}"


def step_of(name: str) -> int | None:
    """The step in the name of such a file; ``None`` for any other name."""
    match = _NAME.fullmatch(name.rpartition("/")[2])
    return int(match[2]) if match else None


def list_epoch_files(directory: Path) -> list[str]:
    """All of them in a run directory, relative to it, folder by folder in the order of steps."""
    return [
        f"{folder}/{path.name}"
        for folder in FOLDERS
        for path in sorted((directory / folder).glob("epoch_*"))
        if step_of(path.name) is not None
    ]
