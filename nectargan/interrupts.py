"""Ctrl-C and SIGTERM between two steps instead of within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keeps the first SIGINT or SIGTERM back until the ``with`` block is over.

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

    # A handler that was not set from Python cannot be put back; such signals are left alone.
    found = {number: signal.getsignal(number) for number in _NUMBERS}
    before = {number: handler for number, handler in found.items() if handler is not None}
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
