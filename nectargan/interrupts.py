"""Handling of SIGINT (Ctrl-C), SIGTERM and SIGHUP, and of threads that run at interpreter exit."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGHUP is sent when the terminal is closed; it does not exist on Windows.
STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

# How long the interpreter waits at exit for threads to return from library calls, in seconds.
_LAST_CALL_SECONDS = 10.0
_LOOK_SECONDS = 1.0


def stop_on_signals() -> None:
    """Makes SIGTERM and SIGHUP raise SystemExit with the exit code 128 + signal number.

    An ignored signal stays ignored, so that a run started with ``nohup`` survives its terminal.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise end_by_signal(number)

    for number in STOPS:
        if number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def end_by_signal(number: int) -> BaseException:
    """What the handler of a signal raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def signal_of(error: BaseException) -> int:
    """The number of the signal whose handler raises this error; 0 if there is none."""
    if isinstance(error, KeyboardInterrupt):
        return int(signal.SIGINT)
    code = error.code if isinstance(error, SystemExit) else None
    return next((int(each) for each in STOPS if code == 128 + each), 0)


def ignore_signals() -> None:
    """Ignores SIGINT, SIGTERM and SIGHUP in a worker process; its parent process handles them."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def in_own_group() -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a process in its own process group.

    Ctrl-C in the terminal then reaches only this process, which ends the other one itself.
    """
    if os.name == "nt":
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    return {"start_new_session": True}


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays the first SIGINT, SIGTERM or SIGHUP until the end of the ``with`` block.

    A block that writes a record is therefore not interrupted halfway. A second signal is delivered
    at once, in case the block hangs. Does nothing outside the main thread, because Python handles
    signals only there.
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

    # A handler that was not set from Python (None) cannot be restored, so its signal is not
    # changed. Ignored signals stay ignored.
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


@contextmanager
def default_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the process at once during the ``with`` block.

    It is for a wait inside a library, where Python's handlers do not run, when there is nothing to
    save yet.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in STOPS}
    before = {n: handler for n, handler in found.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_parent() -> None:
    """Stops this process as SIGTERM does when the process that started it has ended without a word,
    as after SIGKILL. Nobody would see or end this process any more.

    Does nothing on Windows, where a process does not see that.
    """
    if os.name == "nt":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class HeldSignals:
    """The first SIGINT, SIGTERM or SIGHUP that `held_signals` keeps.

    Attributes:
        number: Its number; 0 for none yet.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> None:
        """Begins to keep signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOPS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):
                self._before[number] = handler
                signal.signal(number, self._keep)

    def release(self) -> None:
        """Keeps no more signals. The one that was kept is left to the caller."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _keep(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            self.release()
            signal.raise_signal(number)
        self.number = number


@contextmanager
def held_signals() -> Iterator[HeldSignals]:
    """Keeps the first SIGINT, SIGTERM or SIGHUP during the ``with`` block, for code that must ask
    other processes before it ends. A second signal is delivered at once."""
    held = HeldSignals()
    held.hold()
    try:
        yield held
    finally:
        held.release()


def is_second(error: BaseException | None) -> bool:
    """Whether an interrupt was raised while another one was handled.

    The user then wants the process to end at once.
    """
    found = 0
    while error is not None:
        found += isinstance(error, (KeyboardInterrupt, SystemExit))
        error = error.__context__
    return found > 1


def end_before_exit(thread: threading.Thread) -> None:
    """Registers a daemon thread to be ended by SystemExit before the interpreter exits.

    At exit, the interpreter kills a daemon thread when the thread next acquires the GIL. If the
    thread is inside C++ code such as torch, this aborts the process. SystemExit is raised in the
    thread as soon as it executes Python code again. A thread that stays inside one call for more
    than ten seconds is left to the interpreter.
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
                # Repeated, because the thread may have caught the exception.
                thread.join(1.0)
    except KeyboardInterrupt:
        pass  # the user does not want to wait


_threads = weakref.WeakSet[threading.Thread]()
