"""``sinks.log``: tracebacks of the sinks, and log messages of the libraries that they use."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nectargan.credentials import without_credentials
from nectargan.record.follower import traces
from nectargan.record.run_directory import RunDirectory

_MOST_BYTES = 1 << 20  # while a server is down, there may be a message every second for days


@contextmanager
def sinks_logged(directory: RunDirectory) -> Iterator[None]:
    """A context manager that appends tracebacks of the sinks, and the warnings and errors of other
    libraries, to ``sinks.log``.

    The file is created with the first message, and not at all on a full disk. It contains the
    tracebacks, which help to find a cause; the run itself only says in one sentence what to do.
    """
    handler = _OthersOnly(directory.sinks_log, encoding="utf-8", errors="replace", delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = logging.getLogger(), traces
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


class _OthersOnly(logging.FileHandler):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is a traceback or from another library. Our own messages are printed."""
        return record.name == traces.name or record.name.partition(".")[0] != "nectargan"

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, unless the file is full or cannot be written."""
        with suppress(OSError):
            if self.stream is None or self.stream.tell() < _MOST_BYTES:
                super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of logging
        """Ignores that the file cannot be written."""

    def close(self) -> None:
        """Closes the file, even if its last lines do not fit on the disk."""
        with suppress(OSError):
            super().close()


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Formats a record without users and passwords."""
        return without_credentials(super().format(record))
