"""Starts the worker processes that read images, and reports how they ended."""

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
_LAST_SECONDS = 1.0  # time for a worker to end after its connection was closed


def init_worker(worker_id: int) -> None:
    """The `worker_init_fn` of a data loader.

    A worker ignores signals, because the main process handles them and ends its workers. It prints
    nothing, because errors are raised in the main process. It needs no seed, because it draws no
    random numbers.
    """
    ignore_signals()
    torch.set_num_threads(1)
    sys.stderr = _Silence()
    # Python prints a traceback here if an item cannot be sent to the main process.
    queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


class Workers:
    """The worker processes of one loader.

    torch raises the death of a worker from a signal handler, at any point of the main process. With
    this class it is only raised while the main process waits for a batch.
    """

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []

    def start(self, start: Callable[[], _Started]) -> _Started:
        """Calls ``start()``, which may start worker processes, and returns its result.

        The workers are killed if not all of them can be started, and when this process exits.
        multiprocessing would only terminate them, which a stuck worker ignores, and then wait for
        ever.
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
        """Replaces errors in the ``with`` block that were caused by the end of a worker.

        Raises:
            RuntimeError: With torch's message about how the worker ended; `nectargan.shortage`
                recognizes it.
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
    """Restores the handler of SIGCHLD, which torch replaces."""
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
    """Ends a worker that cannot send a batch; otherwise the main process would wait for ever."""
    os._exit(getattr(error, "errno", None) or 1)


class _Silence(io.TextIOBase):
    """Discards messages of multiprocessing's threads after the main process has ended."""

    def write(self, text: str) -> int:
        return len(text)


_all = weakref.WeakSet[BaseProcess]()
util.Finalize(None, _kill_all, exitpriority=100)
