"""Commands on a terminal, on POSIX."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence


def on_a_terminal(
    command: Sequence[str],
) -> tuple[subprocess.Popen[bytes], Iterator[bytes]]:
    """Starts a command on a terminal of 100 x 30 characters.

    Returns:
        The process, and the parts of what it shows until it ends; read all of them.
    """
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    return process, _parts(ours)


def _parts(terminal: int) -> Iterator[bytes]:
    try:
        while part := os.read(terminal, 65536):
            yield part
    except OSError:  # how a terminal ends on Linux
        pass
    finally:
        os.close(terminal)


def plain(shown: bytes) -> str:
    """What a terminal shows, without its control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="ignore"))
