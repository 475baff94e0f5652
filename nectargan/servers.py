"""Starts, watches and stops local HTTP servers, such as the TensorBoard and MLflow pages."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from nectargan.errors import RunError
from nectargan.interrupts import in_own_group

HOST = "127.0.0.1"

_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Program:
    """A Python module that serves web pages.

    Attributes:
        name: Name in messages.
        port: Its port on this machine.
        page: Path of a page that answers once the server is ready.
        command: The module and its arguments, as after ``python -m``.
        variables: Additional environment variables. Secrets belong here, because other users of
            the machine can read the command line of a process.
    """

    name: str
    port: int
    page: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The URL of the server."""
        return f"http://{HOST}:{self.port}"


class Server:
    """A running program.

    Args:
        program: The program.
        process: Its process, the leader of its own process group.
        output: The output of the process and its children.
    """

    def __init__(
        self, program: Program, process: subprocess.Popen[bytes], output: IO[bytes]
    ) -> None:
        self.program = program
        self._process = process
        self._output = output

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def answers(self) -> bool:
        """Whether the server answers a request for its page."""
        # urllib is not used, because it would use a proxy.
        connection = http.client.HTTPConnection(HOST, self.program.port, timeout=5)
        try:
            connection.request("GET", self.program.page)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def last_line(self) -> str:
        """The last line that the program printed."""
        self._output.seek(0)
        lines = self._output.read().decode("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def find_ports(*wanted: int | None) -> list[int]:
    """Returns one port per argument: the given port, or a free port for ``None``.

    Raises:
        RunError: If a port is in use, or was given twice.
    """
    with ExitStack() as stack:
        ports = []
        for port in wanted:
            if port is not None and port in ports:
                # Linux reports this only when the second socket listens.
                raise RunError(f"Port {port} cannot be used: it is given twice.")
            # The sockets stay open until the last port is found, so that all ports differ.
            probe = stack.enter_context(socket.socket())
            if os.name != "nt":
                # Accepts a port that was closed a moment ago. On Windows this option would also
                # accept a port that is in use.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port or 0))
            except OSError as error:
                raise RunError(f"Port {port} cannot be used: {error.strerror}.") from None
            ports.append(probe.getsockname()[1])
        return ports


@contextmanager
def running(program: Program) -> Iterator[Server]:
    """Runs a program during a ``with`` block, and ends it and all its child processes after it."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", *program.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **program.variables},
            **in_own_group(),
        )
        try:
            yield Server(program, process, output)
        finally:
            _stop(process)


def wait_until_ready(
    servers: Sequence[Server], timeout: float = _START_SECONDS
) -> Iterator[tuple[Server, str]]:
    """Yields each server once it answers, has ended, or the timeout has passed.

    Args:
        servers: The servers.
        timeout: The longest time to wait, in seconds.

    Yields:
        The server and the reason why it does not answer; an empty text if it answers.
    """
    waiting, deadline = list(servers), time.monotonic() + timeout
    while waiting:
        for server in list(waiting):
            reason = None
            if server.has_ended:
                reason = f"it ended: {server.last_line()}"
            elif server.answers():
                reason = ""
            elif time.monotonic() > deadline:
                reason = f"it does not answer: {server.last_line()}"
            if reason is not None:
                waiting.remove(server)
                yield server, reason
        if waiting:
            time.sleep(_LOOK_SECONDS)


def wait_until_ended(
    servers: Sequence[Server], every: float, do: Callable[[], object]
) -> Iterator[Server]:
    """Waits until all servers have ended, and yields each one when it ends.

    Args:
        servers: The servers.
        every: Seconds from one call of ``do`` to the next.
        do: A function to call repeatedly while waiting.
    """
    left = list(servers)
    done = time.monotonic()
    while left:
        time.sleep(_LOOK_SECONDS)
        if time.monotonic() - done >= every:
            do()
            done = time.monotonic()
        for server in list(left):
            if server.has_ended:
                left.remove(server)
                yield server


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all its child processes."""
    import psutil

    family = list[psutil.Process]()
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
    left = family
    try:
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        _, left = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    finally:
        # In a finally block, so that a second Ctrl-C does not skip it.
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        if os.name != "nt":
            # Children whose parent had already ended.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
