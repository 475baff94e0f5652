"""How the runs of an output directory stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nectargan.config.config_manager import ConfigManager
from nectargan.errors import NectarGANError, RunError
from nectargan.loggers.cursor import Cursor, cursor_names
from nectargan.loggers.ledger import LOSSES_FILE, METRICS_FILE, read_blocks
from nectargan.trainers.run_directory import CONFIG_FILE, locked, read_status
from nectargan.trainers.sinks import end_of

BEST_BY = "val/ssim"


class RunSummary(NamedTuple):
    """How one run stands.

    Attributes:
        directory: The run directory.
        status: "RUNNING", "FINISHED", "KILLED" or "FAILED".
        reason: Why it ended, if it was not finished.
        epoch: The last epoch on record; 0 for none.
        epochs: Epochs that it was to last.
        losses: The raw losses of the last step on record, by name.
        best: The best `BEST_BY` and its epoch; ``None`` without validation.
        behind: Names of the sinks that lack something.
    """

    directory: Path
    status: str
    reason: str
    epoch: int
    epochs: int
    losses: dict[str, float]
    best: tuple[float, int] | None
    behind: list[str]


def summarize_runs(output: Path) -> list[RunSummary]:
    """All runs in a directory, by name; one that died without a word is marked as killed.

    Raises:
        RunError: there is no such directory.
    """
    if not output.is_dir():
        raise RunError(f"'{output}' is no directory.")
    found = [path for path in sorted(output.iterdir()) if read_status(path)[0]]
    return [_summarize(path) for path in found]


def _summarize(directory: Path) -> RunSummary:
    status, reason = read_status(directory)
    if status == "RUNNING":
        try:
            with locked(directory):
                status, reason = end_of(directory)
        except RunError:
            pass  # somebody is at work in it
    epoch, losses = _last_step(directory / LOSSES_FILE)
    try:
        epochs = ConfigManager(directory / CONFIG_FILE).data.train.epochs
    except NectarGANError:
        epochs = 0
    names = cursor_names(directory)
    behind = [n for n in names if status != "RUNNING" and Cursor(directory, n).is_behind]
    best = _best(directory / METRICS_FILE)
    return RunSummary(directory, status, reason, epoch, epochs, losses, best, behind)


def _last_step(path: Path) -> tuple[int, dict[str, float]]:
    last: dict[str, float] = {}
    epoch = step = 0
    for fields in _rows(path, tail=1 << 16):
        if int(fields[0]) != step:
            step, epoch, last = int(fields[0]), int(fields[1]), {}
        last[fields[3]] = float(fields[4])
    return epoch, last


def _best(path: Path) -> tuple[float, int] | None:
    values = [(float(row[4]), int(row[1])) for row in _rows(path) if row[3] == BEST_BY]
    return max(values, key=lambda each: each[0], default=None)


def _rows(path: Path, tail: int | None = None) -> Iterator[list[str]]:
    """The fields of all rows, or of those in the last ``tail`` bytes."""
    if not path.exists():
        return
    begin = max(0, path.stat().st_size - tail) if tail else 0
    skip = True  # the header, or a row that begins before the tail
    for lines, _ in read_blocks(path, begin):
        for line in lines.decode("utf-8", errors="replace").splitlines()[skip:]:
            yield line.split(",")
        skip = False
