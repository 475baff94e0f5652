"""Commands in forks of the test's process: as alone as a process, without starting Python anew."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

# What no command of the tests may exceed, beyond what the process has already.
SECONDS = 120
MEMORY = 1 << 30


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: Its exit code; negative for the signal that killed it.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
        memory: Bytes by which its memory grew at most.
    """

    code: int
    out: str
    err: str
    memory: int


def run_forked(arguments: Sequence[str], folder: Path) -> Ended:
    """Runs ``nectargan ARGUMENTS`` in ``folder``; kills it after `SECONDS`."""
    before = _resident()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _run(arguments, folder, out.fileno(), err.fileno())
        _, status, usage = os.wait4(child, 0)
        out.seek(0)
        err.seek(0)
        return Ended(
            os.waitstatus_to_exitcode(status),
            out.read().decode("utf-8", "replace"),
            err.read().decode("utf-8", "replace"),
            max(0, usage.ru_maxrss * 1024 - before),
        )


def _run(arguments: Sequence[str], folder: Path, out: int, err: int) -> NoReturn:
    code = 99
    # Nothing of pytest's may run here, whatever happens.
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # its default action ends the process
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        from nectargan.cli.main import main

        try:
            main(list(arguments), prog_name="nectargan")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(code)


def _resident() -> int:
    """Bytes of memory of this process, from which a fork begins to count."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
