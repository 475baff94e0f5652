"""PostgreSQL and MariaDB servers for tests, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.processes import PATIENCE, wait_until

USER, PASSWORD, DATABASE = "tester", "pass-word-7", "studies"


@contextmanager
def postgresql() -> Iterator[str]:
    """Runs a PostgreSQL server; skips the test if it is not installed.

    Yields:
        The address of an empty database, with user and password.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb, server, createdb = (
        _found(name, *folders) for name in ("initdb", "postgres", "createdb")
    )
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    with _folder(user) as folder:
        data, secret, port = folder / "data", folder / "password", _free_port()
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        login = ["--auth=scram-sha-256", "-U", USER, f"--pwfile={secret}"]
        _done([initdb, "-D", data, *login], user)
        options = ["-p", port, "-h", "127.0.0.1", "-c", "unix_socket_directories=", "-F"]
        with _running([server, "-D", data, *options], port, user):
            words = [createdb, "-h", "127.0.0.1", "-p", port, "-U", USER]
            _done([*words, DATABASE], environment={"PGPASSWORD": PASSWORD})
            yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}"


@contextmanager
def mariadb() -> Iterator[str]:
    """Runs a MariaDB server, which speaks the protocol of MySQL; skips the test if it is not
    installed.

    Yields:
        The address of an empty database, with user and password.
    """
    install = _found("mariadb-install-db")
    server = _found("mariadbd", Path("/usr/sbin"))
    user = ["--user=root"] if os.geteuid() == 0 else []
    with _folder() as folder:
        start, port = folder / "start.sql", _free_port()
        start.write_text(
            f"CREATE DATABASE {DATABASE};\n"
            f"CREATE USER {USER} IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON {DATABASE}.* TO {USER};\n"
        )
        data = ["--no-defaults", f"--datadir={folder / 'data'}", *user]
        _done([install, *data, "--skip-test-db", "--auth-root-authentication-method=normal"])
        place = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}"]
        with _running([server, *data, *place, f"--init-file={start}"], port):
            yield f"mysql://{USER}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}"


@contextmanager
def _folder(owner: str | None = None) -> Iterator[Path]:
    """A folder for the files of a server. The paths of sockets are short, so not in tmp_path."""
    with tempfile.TemporaryDirectory(prefix="nectargan_", ignore_cleanup_errors=True) as name:
        if owner is not None:
            shutil.chown(name, owner)
        yield Path(name)


def _found(name: str, *folders: Path) -> Path:
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    if (found := shutil.which(name, path=path)) is None:
        pytest.skip(f"{name} is not installed")
    return Path(found)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _done(
    words: Sequence[object], user: str | None = None, environment: Mapping[str, str] | None = None
) -> None:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        user=user,
        cwd="/",
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def _running(words: Sequence[object], port: int, user: str | None = None) -> Iterator[None]:
    server = subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        cwd="/",
    )
    try:
        wait_until(lambda: _answers(port), lambda: server.poll() is None)
        yield
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
