"""The lines that a run prints at its end: its duration, its best result and what to do next."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nectargan.credentials import public_address
from nectargan.errors import NectarGANError
from nectargan.shell import quoted
from nectargan.trainers.lines import duration

if TYPE_CHECKING:
    from nectargan.record.run_directory import RunDirectory
    from nectargan.trainers.trainer import Trainer


def explanation(directory: RunDirectory) -> Iterator[str]:
    """What `explain_run` says of a run that is finished; nothing if there is no record to read."""
    from nectargan.analysis.explain import explain_run, explanation_lines

    if directory.status != "FINISHED" or not directory.losses.exists():
        return
    try:
        lines = explanation_lines(explain_run(directory))
    except NectarGANError:
        return  # the run itself is what counts here
    if lines:
        yield "What the record shows:"
        yield from lines


def closing_lines(trainer: Trainer, seconds: float) -> Iterator[str]:
    """The lines to print when a run has ended, with any status. Commands can be copied as they are.

    Args:
        trainer: The trainer of the run, which has created its directory.
        seconds: Duration of the training in seconds.
    """
    directory, config = trainer.directory, trainer.config
    done = f"epoch {trainer.epoch} of {config.train.epochs}, {duration(seconds)}"
    yield _labelled_line("Run", f"{directory} ({done})")
    status, reason = directory.read_status()
    if status == "FINISHED" and reason:
        yield _labelled_line("Ended", reason)
    usable = directory.last_checkpoint
    if status != "FINISHED" and usable.is_file():
        yield _labelled_line("Resume", f"{program('nectargan-train')} --resume {quoted(directory)}")
    metric = config.best_by or config.judged_by
    if metric in trainer.bests:
        value, epoch = trainer.bests[metric]
        best = _checkpoint_of(epoch, trainer)
        usable = best or usable
        place = best or f"its checkpoint was not kept (save.keep_best={metric} keeps it)"
        yield _labelled_line("Best", f"{metric} {value:.4g} in epoch {epoch}: {place}")
    if usable.is_file():
        used = f"{program('nectargan')} apply {quoted(usable)} IMAGE... -o OUT"
        yield _labelled_line("Use", used)
        yield _labelled_line("Python", f"nectargan.load_model({_quoted_path(usable)})")
    if config.save.report and directory.report.is_file():
        yield _labelled_line("Report", str(directory.report))
    logging = config.logging
    if logging.tensorboard.enable or logging.mlflow.enable:
        yield _labelled_line("View", f"{program('nectargan')} ui {quoted(directory.path.parent)}")
    if logging.mlflow.enable and logging.mlflow.tracking_uri is not None:
        uri = public_address(trainer.store.uri)
        command = f"{program('mlflow')} ui --backend-store-uri {quoted(uri)}"
        yield _labelled_line("MLflow", uri if uri.startswith("http") else command)
    if logging.csv:
        yield _labelled_line("pandas", f"pandas.read_csv({_quoted_path(directory.losses)})")


def _labelled_line(label: str, text: str) -> str:
    return f"{label + ':' if label else '':<8} {text}"


def _quoted_path(path: Path) -> str:
    """A path as a Python string literal, with forward slashes on Windows as well."""
    return json.dumps(path.as_posix(), ensure_ascii=False)


def _checkpoint_of(epoch: int, trainer: Trainer) -> Path | None:
    """The checkpoint of the best epoch, if it was kept."""
    run = trainer.directory
    best = run.best_checkpoint if trainer.config.best_by else run.checkpoint(epoch)
    return best if best.is_file() else None


def program(name: str) -> str:
    """The command for a program of this environment; its full path if it is not on the PATH."""
    path = name if shutil.which(name) else str(Path(sys.executable).with_name(name))
    return quoted(path)
