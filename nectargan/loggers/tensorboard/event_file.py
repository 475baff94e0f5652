"""`EventFile` writes an event file of TensorBoard in the thread of the caller."""

from __future__ import annotations

import io
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from nectargan.files import append_whole

_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\..*")


class EventFile:
    """An event file whose name sorts after all others in its directory, whatever the clock says.

    TensorBoard reads the files in the order of their names, which begin with a time. If the clock
    was set back, `SummaryWriter` would write a file that sorts before the older ones, and
    TensorBoard would drop its points.

    Args:
        directory: Folder of the file; created if it does not exist.
        purge_step: TensorBoard ignores what older files have from this step on.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, directory: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        older = [int(match[1]) for path in directory.iterdir() if (match := _NAME.match(path.name))]
        self._stamp = max([int(time.time()), *(stamp + 1 for stamp in older)])
        place = f"{socket.gethostname()}.{os.getpid()}.nectargan"
        name = f"events.out.tfevents.{self._stamp:010d}.{place}"
        self._file = (directory / name).open("xb", buffering=0)
        self._last = 0.0
        # Also with step 0; otherwise TensorBoard ignores the session of a resumed run.
        session = SessionLog(status=SessionLog.START)
        self._events = [
            Event(step=purge_step, file_version="brain.Event:2"),
            Event(step=purge_step, session_log=session),
        ]

    def add(self, summary: Any, step: int, wall_time: float = 0.0) -> None:
        """Adds a summary, which `flush` writes.

        Args:
            summary: A ``Summary`` message of TensorBoard.
            step: The step of its point.
            wall_time: Unix time in seconds; 0 for the time of the previous summary.
        """
        from tensorboard.compat.proto.event_pb2 import Event

        self._events.append(Event(summary=summary, step=step, wall_time=wall_time))

    def flush(self) -> None:
        """Writes the added summaries; if this raises OSError, none of them was written."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        events, self._events = self._events, []
        given = [event.wall_time for event in events if event.wall_time]
        usual = self._last or min(given, default=max(time.time(), self._stamp))
        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            event.wall_time = event.wall_time or usual
            writer.write(event.SerializeToString())
        append_whole(self._file, records.getbuffer())
        self._last = max(usual, *given) if given else usual

    def close(self) -> None:
        """Writes all summaries that were added and closes the file."""
        self.flush()
        self._file.close()
