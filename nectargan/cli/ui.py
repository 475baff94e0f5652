"""``nectargan ui``: the MLflow UI and TensorBoard on an output directory."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import click

from nectargan.cli.common import LongCommand, WholeNumber
from nectargan.cli.pages import comparison_pages
from nectargan.cli.paths import INPUT
from nectargan.cli.run_links import RunLinks
from nectargan.credentials import public_address
from nectargan.errors import RunError
from nectargan.loggers.mlflow.artifact_places import follow_move
from nectargan.loggers.mlflow.store import (
    DEFAULT,
    Store,
    database_of,
    find_store,
    prepare_database,
)
from nectargan.output import say

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.2
_NEW_RUNS_SECONDS = 5.0
_PORT = WholeNumber(1, 65535)


class _Server(NamedTuple):
    """A program that answers over HTTP.

    Attributes:
        name: What a person calls it.
        port: Its port on this machine.
        page: A page that answers once all is ready.
        process: The process, the first one of a group of its own.
        output: What it and its children say.
    """

    name: str
    port: int
    page: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def answers(self) -> bool:
        """Whether the page can be had."""
        # Not through urllib, which would ask a proxy.
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=5)
        try:
            connection.request("GET", self.page)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def last_line(self) -> str:
        """The last line that it said."""
        self.output.seek(0)
        lines = self.output.read().decode("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


@click.command(cls=LongCommand)
@click.argument("directory", type=INPUT, default="runs")
@click.option(
    "--mlflow-uri",
    metavar="URI",
    help="MLflow server or database.  [default: $MLFLOW_TRACKING_URI, else DIRECTORY/mlflow.db]",
)
@click.option("--mlflow-port", type=_PORT, metavar="N", help="Port of MLflow; else a free one.")
@click.option(
    "--tensorboard-port", type=_PORT, metavar="N", help="Port of TensorBoard; else a free one."
)
def ui(
    directory: Path, mlflow_uri: str | None, mlflow_port: int | None, tensorboard_port: int | None
) -> None:
    """Start the MLflow UI and TensorBoard on the runs in DIRECTORY (runs), for this machine only.

    Links to the pages that compare runs are printed.

    Ctrl-C stops both.
    """
    if not directory.is_dir():
        raise RunError(f"'{directory}' is no directory; name the one that runs are in.")
    from nectargan.analysis.run_list import mlflow_troubles

    store = find_store(mlflow_uri, directory)
    ports = _ports(mlflow_port, tensorboard_port)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with ExitStack() as stack:
            for trouble in mlflow_troubles(directory):
                say(trouble, err=True)
            servers, links = [], stack.enter_context(RunLinks(directory.resolve()))
            for program in _programs(links.directory, store, *ports):
                servers.append(stack.enter_context(_running(*program)))
            _wait_for(servers)
            if any(not server.has_ended for server in servers):
                say("Ctrl-C stops them.")
            _watch_over(servers, links)
    except KeyboardInterrupt:
        # What it is for: no failure.
        say("Stopped.")
        return
    raise RunError("Nothing is running.")


def _ports(*wanted: int | None) -> list[int]:
    """A port for each: the one that is wanted, or a free one.

    Raises:
        RunError: one is in use, or wanted twice.
    """
    with ExitStack() as stack:
        ports = []
        for port in wanted:
            # All are held until the last one is found, so that no two are the same.
            probe = stack.enter_context(socket.socket())
            if os.name != "nt":
                # A port that was used a moment ago is free; on Windows this would mean others.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port or 0))
            except OSError as error:
                raise RunError(f"Port {port} cannot be used: {error.strerror}.") from None
            ports.append(probe.getsockname()[1])
        return ports


def _programs(
    logdir: Path, store: Store, mlflow_port: int, tensorboard_port: int
) -> Iterator[tuple[str, int, str, list[str], dict[str, str]]]:
    """Name, port, page, command and variables of what can be started; says what cannot."""
    database = database_of(store.uri)
    if store.why != DEFAULT:
        say(f"Store:       {store}")
    if store.uri.startswith(("http", "databricks")):
        # A server that is there already.
        say(f"MLflow:      {public_address(store.uri)}")
    elif importlib.util.find_spec("mlflow") is None:
        say("MLflow:      not installed", err=True)
    elif database is not None and not database.is_file():
        say(f"MLflow:      there is no {database.name} in '{database.parent}'", err=True)
    elif (obstacle := _obstacle(database)) is not None:
        say(f"MLflow:      {obstacle}", err=True)
    else:
        # Where `MLflowSink` keeps the files of its runs.
        artifacts = (
            ("--artifacts-destination", (database.resolve().parent / "mlartifacts").as_uri())
            if database is not None
            else ()
        )
        yield (
            "MLflow",
            mlflow_port,
            "/health",
            [
                *("mlflow", "server", "--host", _HOST, "--port", str(mlflow_port), *artifacts),
                *("--workers", "1", "--uvicorn-opts", "--log-level warning"),
            ],
            # Its address may hold a password, and everybody can read a command line.
            {"MLFLOW_BACKEND_STORE_URI": store.uri},
        )
    if importlib.util.find_spec("tensorboard") is None:
        say("TensorBoard: not installed", err=True)
    else:
        yield (
            "TensorBoard",
            tensorboard_port,
            "/",
            [
                *("tensorboard.main", "--logdir", str(logdir)),
                *("--host", _HOST, "--port", str(tensorboard_port)),
            ],
            {},
        )


def _obstacle(database: Path | None) -> RunError | None:
    """Why MLflow cannot be started on a database, if it cannot."""
    try:
        if database is not None:
            prepare_database(database)
            follow_move(database)
    except RunError as error:
        return error
    return None


@contextmanager
def _running(
    name: str, port: int, page: str, command: list[str], variables: dict[str, str]
) -> Iterator[_Server]:
    """A server for the time of a ``with`` statement; its children end with it."""
    # Jobs of MLflow's own would be four more processes, and nothing here needs them.
    quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **quick, **variables},
            # A group of their own: Ctrl-C is for us alone, who then stop all of the group.
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            yield _Server(name, port, page, process, output)
        finally:
            _stop(process)


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


def _wait_for(servers: list[_Server]) -> None:
    """Prints the address of each as soon as it answers, or why it does not."""
    waiting, deadline = list(servers), time.monotonic() + _START_SECONDS
    while waiting:
        for server in list(waiting):
            told = None
            if server.has_ended:
                told = f"it ended: {server.last_line()}"
            elif server.answers():
                told = f"http://{_HOST}:{server.port}"
            elif time.monotonic() > deadline:
                told = f"it does not answer: {server.last_line()}"
            if told is not None:
                waiting.remove(server)
                is_there = told.startswith("http")
                say(f"{server.name + ':':<12} {told}", err=not is_there)
                if is_there:
                    _print_pages(server)
        if waiting:
            time.sleep(_LOOK_SECONDS)


def _print_pages(server: _Server) -> None:
    """Prints links to the pages that compare runs."""
    if server.name == "TensorBoard":
        say(f"    charts: http://{_HOST}:{server.port}/#custom_scalars")
        return
    try:
        for experiment, pages in comparison_pages(_HOST, server.port):
            for page in pages:
                say(f"    {experiment}, {page.title}: {page.url}")
    except (OSError, ValueError, LookupError, http.client.HTTPException):
        # The page above has everything, some clicks away.
        return


def _watch_over(servers: list[_Server], links: RunLinks) -> None:
    """Returns when none is left; says which has gone."""
    left = [server for server in servers if not server.has_ended]
    looked = time.monotonic()
    while left:
        time.sleep(_LOOK_SECONDS)
        if time.monotonic() - looked >= _NEW_RUNS_SECONDS:
            with suppress(OSError):
                links.update()
            looked = time.monotonic()
        for server in list(left):
            if server.has_ended:
                left.remove(server)
                say(f"{server.name} ended: {server.last_line()}", err=True)
