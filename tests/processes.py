"""What tests need that start processes: patience, and a clean end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

PATIENCE = 300.0
"""Seconds to wait for what must happen. A test that fails may take as long; a busy machine, too."""

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def wait_until(condition: Callable[[], object], alive: Callable[[], bool] = lambda: True) -> None:
    """Looks again and again until ``condition()`` is true.

    Args:
        condition: What must become true.
        alive: Whether it still can, such as ``lambda: process.poll() is None``.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert alive(), "the process ended before"
        assert time.monotonic() < deadline, f"it did not come true in {PATIENCE:.0f} s"
        time.sleep(0.05)


def handle_signals_by_default() -> None:
    """Handles SIGINT, SIGHUP and SIGQUIT here, so that child processes begin with the defaults.

    A process that was started in the background, or by ``nohup``, ignores them, and so would its
    children: a Ctrl-C that a test presses would never arrive.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            # Handled by doing nothing: exec() resets handlers, but keeps what is ignored.
            signal.signal(number, lambda *_: None)


def adopt_orphans() -> None:
    """Makes this process the parent of every orphan below it, on Linux, so that none gets lost."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[psutil.Process]:
    """All processes below this one, but for Python's own helper of shared memory."""
    return {each for each in psutil.Process().children(recursive=True) if not _is_helper(each)}


def started_since(before: set[psutil.Process]) -> set[psutil.Process]:
    """The processes below this one that are new, but for those of older ones: a browser that is
    shared by tests starts helpers when it likes."""
    new = set()
    for process in children() - before:
        with suppress(psutil.Error):
            if not before.intersection(process.parents()):
                new.add(process)
    return new


def _is_helper(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    return False


def end(processes: Iterable[psutil.Process], grace: float) -> list[str]:
    """Waits ``grace`` seconds for processes to end, then kills them.

    Returns:
        The command lines of those that had to be killed.
    """
    _, left = psutil.wait_procs(list(processes), grace)
    told = []
    for process in left:
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                told.append(" ".join(process.cmdline()) or process.name())
            process.kill()
    psutil.wait_procs(left, PATIENCE)
    _reap()
    return told


def _reap() -> None:
    """Takes leave of adopted orphans that have ended; subprocess knows nothing of them."""
    if os.name == "nt":
        return
    for process in psutil.Process().children():
        with suppress(psutil.Error, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
