"""Worker processes that read images: how they begin, and how they end."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import queues, util
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from nectargan.interrupts import ignore_signals

_Started = TypeVar("_Started")
_LAST_SECONDS = 1.0  # from the end of a worker's connection to that of the worker


def init_worker(worker_id: int) -> None:
    """A `worker_init_fn`: signals are the main process's business, which then ends its workers.

    So are errors: those of the data are raised there. Needs no seeding: the workers draw nothing.
    """
    ignore_signals()
    torch.set_num_threads(1)
    sys.stderr = _Silence()
    queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


class Workers:
    """The processes that one loader started.

    torch would raise an error of theirs anywhere, whatever the main process is doing. Here it is
    raised where a batch is waited for.
    """

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []

    def start(self, start: Callable[[], _Started]) -> _Started:
        """Returns what ``start()`` returns, which may start processes.

        They are killed if not all can be started, and when this process exits: one that is stuck
        ignores what multiprocessing would end it with, and then waits for.
        """
        before = set(multiprocessing.active_children())
        try:
            with _handlers_kept(), self.explained():
                return start()
        except BaseException:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
            raise
        finally:
            new = set(multiprocessing.active_children()) - before
            self._processes += new
            _all.update(new)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Says of an error how the process ended that is the reason for it.

        Raises:
            RuntimeError: as torch says it; see `nectargan.shortage`.
        """
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            for process in self._processes:
                process.join(_LAST_SECONDS if isinstance(error, (OSError, EOFError)) else 0)
                if process.exitcode:
                    raise RuntimeError(_how_it_ended(process)) from error
            raise


def _how_it_ended(process: BaseProcess) -> str:
    code, worker = process.exitcode or 0, f"DataLoader worker (pid {process.pid})"
    if code < 0:
        return f"{worker} is killed by signal: {signal.Signals(-code).name}."
    return f"{worker} exited unexpectedly with exit code {code}."


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Puts the handler of SIGCHLD back that torch replaces."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if is_main and os.name != "nt" else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _kill_all() -> None:
    for process in _all:
        if process.is_alive():
            process.kill()


def _end(error: Exception, batch: object) -> None:
    """Ends a worker that cannot send a batch, for which the main process would wait for ever."""
    os._exit(getattr(error, "errno", None) or 1)


class _Silence(io.TextIOBase):
    """Takes what threads of multiprocessing say when they find no main process any more."""

    def write(self, text: str) -> int:
        return len(text)


_all = weakref.WeakSet[BaseProcess]()
util.Finalize(None, _kill_all, exitpriority=100)
