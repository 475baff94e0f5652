"""`joined`: connects the processes that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from nectargan.distributed.processes import VARIABLES, Processes
from nectargan.distributed.world import ALONE, World
from nectargan.errors import RunError
from nectargan.interrupts import stop_with_parent

# How long a process waits for another one. Only a process that hangs, or a lost network, takes so
# long: a connection to a process that ends is closed at once.
_TIMEOUT = timedelta(minutes=30)


@contextmanager
def joined(timeout: timedelta = _TIMEOUT) -> Iterator[World]:
    """A context manager that connects this process with those that torchrun started with it.

    In a process that is not the main one, an error that the main process reports ends in
    SystemExit.

    Args:
        timeout: How long to wait for another process.

    Yields:
        `ALONE` for a single process.

    Raises:
        RunError: The processes cannot be connected.
    """
    if os.environ.get("WORLD_SIZE", "") in ("", "1"):
        yield ALONE
        return
    missing = [name for name in VARIABLES if not os.environ.get(name, "").isdigit()]
    if missing:
        raise RunError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, but {missing[0]} is not a number: start "
            "several processes with torchrun."
        )
    if "TORCHELASTIC_RUN_ID" in os.environ:  # set by torchrun, which watches over its processes
        stop_with_parent()
    world = Processes(timeout)
    try:
        with world.together():
            yield world
    except BaseException as error:
        if world.is_main or not world.is_told_by_main(error):
            raise
        code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        code = error.code if isinstance(error, SystemExit) else code
        raise SystemExit(code) from None
    finally:
        world.close()
