"""Servers on this machine: programs that answer over HTTP, started, watched and stopped."""

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

HOST = "127.0.0.1"

_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Program:
    """A Python module that serves pages.

    Attributes:
        name: What messages call it.
        port: Its port on this machine.
        page: Path of a page that answers once the server is ready.
        command: The module and its arguments, as after ``python -m``.
        variables: Environment variables to add. A command line can be read by everybody; these
            cannot.
    """

    name: str
    port: int
    page: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"


class Server:
    """A program that was started.

    Args:
        program: The program.
        process: Its process, the first one of a group of its own.
        output: What the process and its children print.
    """

    def __init__(
        self, program: Program, process: subprocess.Popen[bytes], output: IO[bytes]
    ) -> None:
        self.program = program
        self._process = process
        self._output = output

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def answers(self) -> bool:
        """Whether its page can be had."""
        # Not through urllib, which would ask a proxy.
        connection = http.client.HTTPConnection(HOST, self.program.port, timeout=5)
        try:
            connection.request("GET", self.program.page)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def last_line(self) -> str:
        """The last line that it printed."""
        self._output.seek(0)
        lines = self._output.read().decode("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def find_ports(*wanted: int | None) -> list[int]:
    """A port for each argument: the one that is wanted, or a free one for ``None``.

    Raises:
        RunError: a port is in use, or wanted twice.
    """
    with ExitStack() as stack:
        ports = []
        for port in wanted:
            if port is not None and port in ports:
                # Linux would let two sockets have it, until they listen.
                raise RunError(f"Port {port} cannot be used: it is wanted twice.")
            # All are held until the last one is found, so that no two are the same.
            probe = stack.enter_context(socket.socket())
            if os.name != "nt":
                # A port that was used a moment ago is free; on Windows this would mean others.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port or 0))
            except OSError as error:
                raise RunError(f"Port {port} cannot be used: {error.strerror}.") from None
            ports.append(probe.getsockname()[1])
        return ports


@contextmanager
def running(program: Program) -> Iterator[Server]:
    """Runs a program for the time of a ``with`` statement; all processes that it started end with
    it."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", *program.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **program.variables},
            # A group of its own: Ctrl-C is for us alone, who then stop all of the group.
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            yield Server(program, process, output)
        finally:
            _stop(process)


def wait_until_ready(
    servers: Sequence[Server], timeout: float = _START_SECONDS
) -> Iterator[tuple[Server, str]]:
    """Yields each server as soon as it answers, or cannot any more.

    Args:
        servers: The servers.
        timeout: Longest time to wait, in seconds.

    Yields:
        The server, and why it does not answer; an empty text if it does.
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
    """Yields each server that is still there when it ends.

    Args:
        servers: The servers.
        every: Seconds from one call of ``do`` to the next.
        do: What is to be done meanwhile.
    """
    left = [server for server in servers if not server.has_ended]
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
    """Ends a process and all that it started."""
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
        # Also after a second Ctrl-C.
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        if os.name != "nt":
            # Children of a process that was gone already.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
