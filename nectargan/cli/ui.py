"""``nectargan ui``: starts the MLflow UI and TensorBoard for an output directory."""

from __future__ import annotations

import http.client
import importlib.util
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from nectargan.analysis.pages import comparison_pages
from nectargan.cli.common import LongCommand, WholeNumber
from nectargan.cli.paths import INPUT
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
from nectargan.loggers.tensorboard.run_links import RunLinks
from nectargan.output import say
from nectargan.record.output_directory import runs_in
from nectargan.record.run_directory import RunDirectory
from nectargan.servers import (
    HOST,
    Program,
    Server,
    find_ports,
    running,
    wait_until_ended,
    wait_until_ready,
)
from nectargan.wording import counted

_NEW_RUNS_SECONDS = 5.0
_MOST_REPORTS = 5
_REPORT = RunDirectory("").report.name
_PORT = WholeNumber(1, 65535)


@click.command(cls=LongCommand, examples=("nectargan ui", "nectargan ui runs --mlflow-port 5000"))
@click.argument("directory", type=INPUT, default="runs")
@click.option(
    "--mlflow-uri",
    metavar="URI",
    help="MLflow server or database.  [default: $MLFLOW_TRACKING_URI, else DIRECTORY/mlflow.db]",
)
@click.option(
    "--mlflow-port", type=_PORT, metavar="N", help="Port of MLflow.  [default: a free one]"
)
@click.option(
    "--tensorboard-port",
    type=_PORT,
    metavar="N",
    help="Port of TensorBoard.  [default: a free one]",
)
def ui(
    directory: Path, mlflow_uri: str | None, mlflow_port: int | None, tensorboard_port: int | None
) -> None:
    """Start the MLflow UI and TensorBoard for the runs in DIRECTORY (default: runs).

    Both can be reached from this machine only. Links to the pages that compare runs are printed,
    and to the reports in the directory and its runs.

    Ctrl-C stops both.
    """
    if not directory.is_dir():
        raise RunError(f"'{directory}' is not a directory; give the directory of the runs.")
    from nectargan.runs.run_list import mlflow_troubles

    store = find_store(mlflow_uri, directory)
    ports = find_ports(mlflow_port, tensorboard_port)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with ExitStack() as stack:
            for trouble in mlflow_troubles(directory):
                say(trouble, err=True)
            servers, links = [], stack.enter_context(RunLinks(directory.resolve()))
            for program in _programs(links.directory, store, *ports):
                servers.append(stack.enter_context(running(program)))
            started = _print_when_ready(servers)
            _print_reports(directory)
            if started:
                say("Ctrl-C stops them.")
            _watch_over(started, links)
    except KeyboardInterrupt:
        # Ctrl-C is the normal way to stop.
        say("Stopped.")
        return
    raise RunError("Nothing is running.")


def _programs(
    logdir: Path, store: Store, mlflow_port: int, tensorboard_port: int
) -> Iterator[Program]:
    """Yields the programs that can be started; prints why another cannot be."""
    database = database_of(store.uri)
    if store.why != DEFAULT:
        say(f"Store:       {store}")
    if store.uri.startswith(("http", "databricks")):
        # The server is running already.
        say(f"MLflow:      {public_address(store.uri)}")
    elif importlib.util.find_spec("mlflow") is None:
        say("MLflow:      not installed", err=True)
    elif database is not None and not database.is_file():
        say(f"MLflow:      there is no {database.name} in '{database.parent}'", err=True)
    elif (obstacle := _obstacle(database)) is not None:
        say(f"MLflow:      {obstacle}", err=True)
    else:
        # The folder in which `MLflowSink` stores the artifacts of its runs.
        artifacts = (
            ("--artifacts-destination", (database.resolve().parent / "mlartifacts").as_uri())
            if database is not None
            else ()
        )
        yield Program(
            "MLflow",
            mlflow_port,
            "/health",
            [
                *("mlflow", "server", "--host", HOST, "--port", str(mlflow_port), *artifacts),
                *("--workers", "1", "--uvicorn-opts", "--log-level warning"),
            ],
            {
                # Not in the command line, which all users of the machine can read: the address
                # may contain a password.
                "MLFLOW_BACKEND_STORE_URI": store.uri,
                # Job execution would start four more processes, and nothing here needs it.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )
    if importlib.util.find_spec("tensorboard") is None:
        say("TensorBoard: not installed", err=True)
    else:
        yield Program(
            "TensorBoard",
            tensorboard_port,
            "/",
            [
                *("tensorboard.main", "--logdir", str(logdir)),
                *("--host", HOST, "--port", str(tensorboard_port)),
            ],
        )


def _obstacle(database: Path | None) -> RunError | None:
    """The error that prevents MLflow from using a database; ``None`` if there is none."""
    try:
        if database is not None:
            prepare_database(database)
            follow_move(database)
    except RunError as error:
        return error
    return None


def _print_when_ready(servers: list[Server]) -> list[Server]:
    """Prints the address of each server as soon as it answers, or why it does not start.

    Returns:
        The servers that were not reported as ended.
    """
    started = []
    for server, reason in wait_until_ready(servers):
        if not reason or not server.has_ended:
            started.append(server)
        name, text = server.program.name, reason or server.program.address
        say(f"{name + ':':<12} {text}", err=bool(reason))
        if not reason:
            _print_pages(server.program)
    return started


def _print_pages(program: Program) -> None:
    """Prints links to the pages that compare runs."""
    if program.name == "TensorBoard":
        say(f"    charts: {program.address}/#custom_scalars")
        return
    try:
        for experiment, pages in comparison_pages(HOST, program.port):
            for page in pages:
                say(f"    {experiment}, {page.title}: {page.url}")
    except (OSError, ValueError, LookupError, http.client.HTTPException):
        # The links are optional: the address printed above leads to the same pages.
        return


def _print_reports(directory: Path) -> None:
    """Prints links to the reports in a directory and in its runs, the newest ones."""
    files = [Path(path, _REPORT) for path in (directory, *runs_in(directory))]
    reports = sorted((f for f in files if f.is_file()), key=lambda file: file.stat().st_mtime)
    for report in reversed(reports[-_MOST_REPORTS:]):
        say(f"{'Report:':<12} {report.resolve().as_uri()}")
    if len(reports) > _MOST_REPORTS:
        say(f"{'':<12} and {counted(len(reports) - _MOST_REPORTS, 'older report')}")


def _watch_over(servers: list[Server], links: RunLinks) -> None:
    """Waits until all servers have ended; prints a message for each one that ends."""

    def link_new_runs() -> None:
        with suppress(OSError):
            links.update()

    for server in wait_until_ended(servers, _NEW_RUNS_SECONDS, link_new_runs):
        say(f"{server.program.name} ended: {server.last_line()}", err=True)
