"""What a run says when it runs out of memory, room, open files or threads, and what to do then."""

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
    """Turns errors about too little of anything into a sentence, with the sizes of the run.

    Args:
        config: The run.
        device: Where it computes.
        need: What a step takes at least.
        directory: The run directory, once there is one.

    Raises:
        RunError: there was too little of something.
    """
    try:
        yield
    except Exception as error:
        found = shortage_of(error, directory)
        if found is not None:
            told, advice = found.told, _advice(found.kind, config, device, need)
        elif isinstance(error, OSError) and directory is not None:
            # Images that cannot be read are a DataError.
            place = error.filename or directory
            told, advice = f"'{place}' cannot be written: {error.strerror}", "put that right"
        else:
            raise
        again = ""
        if directory is not None:
            has_checkpoint = bool(directory.list_checkpoints())
            again = f"go on with --resume {quoted(directory)}" if has_checkpoint else "start again"
            again = f" and {again}"
        raise RunError(f"{told}; {advice}{again}.") from error


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
        "room": "make room",
        "files": f"allow more than {_most_files()} open files (ulimit -n)",
        "processes": "allow more of them (ulimit -u), lower dataloader.num_workers",
        "workers": "lower dataloader.num_workers",
        "guard": f"put what it does below {_GUARD}",
    }[kind]


def _most_files() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return "the present number of"
    return str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
