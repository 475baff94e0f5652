"""Error messages for a run that lacks memory, disk space, open files or threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.record.run_directory import RunDirectory
from nectargan.shell import quoted
from nectargan.shortage import Kind, shortage_of
from nectargan.trainers.memory import WHAT_TO_LOWER, Need, gib, sizes_of

_GUARD = "'if __name__ == \"__main__\":'"


@contextmanager
def shortages_explained(
    config: Config, device: torch.device, need: Need, directory: RunDirectory | None = None
) -> Iterator[None]:
    """A context manager that turns errors about a lack of resources into a `RunError` with advice.

    Args:
        config: The config of the run.
        device: The device of the run.
        need: The minimum memory of a step.
        directory: The run directory; ``None`` if it does not exist yet.

    Raises:
        RunError: a resource ran out.
    """
    try:
        yield
    # Each library has an exception of its own for a shortage.
    except Exception as error:
        found = shortage_of(error, directory)
        if found is not None:
            problem, advice = found.text, _advice(found.kind, config, device, need)
        elif isinstance(error, OSError) and directory is not None:
            # Not about an image, because an unreadable image raises DataError.
            place = error.filename or directory
            problem, advice = f"'{place}' cannot be written: {error.strerror}", "correct this"
        else:
            raise
        again = ""
        if directory is not None:
            has_checkpoint = bool(directory.list_checkpoints())
            again = f"resume with --resume {quoted(directory)}" if has_checkpoint else "start again"
            again = f" and {again}"
        raise RunError(f"{problem}; {advice}{again}.") from error


def _advice(kind: Kind, config: Config, device: torch.device, need: Need) -> str:
    if kind == "memory":
        if device.type == "cuda":
            used = torch.cuda.memory_allocated(device)
        else:
            used = psutil.Process().memory_info().rss
        return (
            f"{gib(used)} were in use on {device} ({sizes_of(need, config)}); lower {WHAT_TO_LOWER}"
        )
    return {
        "room": "free some space",
        "files": f"allow more than {_most_files()} open files (ulimit -n)",
        "processes": "allow more of them (ulimit -u), lower dataloader.num_workers",
        "workers": "lower dataloader.num_workers",
        "guard": f"put the code of the script below {_GUARD}",
    }[kind]


def _most_files() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return "the current number of"
    return str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
