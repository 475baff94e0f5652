"""Ctrl-C, SIGTERM and SIGHUP between two steps instead of within one; threads that are still at
work when the process ends."""

from __future__ import annotations

import atexit
import ctypes
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP comes when the terminal is closed; Windows has none.
STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

# How long a process waits at its end for one call of a library, such as an operation of torch.
_LAST_CALL_SECONDS = 10.0


def stop_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end this process as Ctrl-C does, with exit code 128 + number.

    What is ignored stays ignored: with ``nohup``, a run goes on without its terminal.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in STOPS:
        if number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def ignore_signals() -> None:
    """Leaves signals to another process, as a worker leaves them to the one that started it."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keeps the first SIGINT, SIGTERM or SIGHUP back until the ``with`` block is over.

    A block that writes a record is then done wholly or not at all. A second signal is let through
    at once, for a block that hangs. Does nothing outside the main thread, where Python handles no
    signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if pending:
            restore()
            try:
                signal.raise_signal(pending[0])
            finally:
                signal.raise_signal(number)
        pending.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    # A handler that was not set from Python cannot be put back; such signals are left alone, and
    # so are those that nobody wants.
    found = {number: signal.getsignal(number) for number in STOPS}
    left_alone = (None, signal.SIG_IGN)
    before = {number: found[number] for number in STOPS if found[number] not in left_alone}
    for number in before:
        signal.signal(number, keep)
    try:
        yield
    finally:
        restore()
    if pending:
        signal.raise_signal(pending[0])


def is_second(error: BaseException | None) -> bool:
    """Whether an interrupt came while another one was handled: somebody wants to leave at once."""
    found = 0
    while error is not None:
        found += isinstance(error, (KeyboardInterrupt, SystemExit))
        error = error.__context__
    return found > 1


def end_before_exit(thread: threading.Thread) -> None:
    """Has a daemon thread that is alive when the interpreter exits raise SystemExit first.

    The interpreter ends such a thread wherever it asks for the GIL. Inside C++, as of torch, that
    aborts the process. The exception comes as soon as the thread is back in Python; one that stays
    in a single call for longer than ten seconds is left to the interpreter.
    """
    _threads.add(thread)


@atexit.register
def _end_threads() -> None:
    deadline = time.monotonic() + _LAST_CALL_SECONDS
    try:
        for thread in list(_threads):
            while thread.is_alive() and time.monotonic() < deadline:
                ident = ctypes.c_ulong(thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
                # Once more if it was swallowed.
                thread.join(1.0)
    except KeyboardInterrupt:
        pass  # somebody wants to leave at once


_threads = weakref.WeakSet[threading.Thread]()
