"""``sinks.log``: what the libraries of the sinks say, in the run directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nectargan.credentials import without_credentials
from nectargan.record.run_directory import RunDirectory

_MOST_BYTES = 1 << 20  # a tracker may be away for days, and say so every second


@contextmanager
def sinks_logged(directory: RunDirectory) -> Iterator[None]:
    """Appends what other libraries log, from warnings on, to a file of a run, for the time of a
    ``with`` statement. There is no file if there is nothing to say, and none on a full disk.

    Their tracebacks are of use to whoever looks for a cause; the run itself says what there is to
    do in one sentence.
    """
    handler = _OthersOnly(directory.sinks_log, encoding="utf-8", errors="replace", delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


class _OthersOnly(logging.FileHandler):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is none of our own lines, which were printed."""
        return record.name.partition(".")[0] != "nectargan"

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, if it can be: the run itself says what is the matter."""
        with suppress(OSError):
            if self.stream is None or self.stream.tell() < _MOST_BYTES:
                super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of logging
        """Does nothing: the file cannot be written."""

    def close(self) -> None:
        """Closes the file, even if its last lines do not fit on the disk."""
        with suppress(OSError):
            super().close()


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The record without users and passwords."""
        return without_credentials(super().format(record))
