"""Programs that answer over HTTP: found out about, and stopped with all that they started."""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from nectargan.errors import RunError
from nectargan.servers import (
    HOST,
    Program,
    Server,
    find_ports,
    running,
    wait_until_ended,
    wait_until_ready,
)
from tests.processes import PATIENCE, wait_until

FAMILY = """
import os, subprocess, sys, time
from http.server import HTTPServer, SimpleHTTPRequestHandler
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("child", child.pid, os.environ["WORD"])
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""


def served(tmp_path: Path, page: str = "/", code: str | None = None, name: str = "one") -> Program:
    """Python's own server, or a module with some code."""
    (port,) = find_ports(None)
    if code is None:
        command = ["http.server", "--bind", HOST, "--directory", str(tmp_path), str(port)]
        return Program(name, port, page, command)
    (tmp_path / "served_here.py").write_text(code, encoding="utf-8")
    variables = {"PYTHONPATH": str(tmp_path), "WORD": "sesame"}
    return Program(name, port, page, ["served_here", str(port)], variables)


def started(stack: ExitStack, program: Program) -> Server:
    server = stack.enter_context(running(program))
    assert list(wait_until_ready([server], PATIENCE)) == [(server, "")]
    return server


def test_a_server_answers_until_the_end_of_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    (tmp_path / "here.txt").write_text("I am", encoding="utf-8")
    program = served(tmp_path)
    with ExitStack() as stack:
        server = started(stack, program)
        assert server.answers()
        assert not server.has_ended
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{program.address}/here.txt", timeout=PATIENCE) as answer:
            assert answer.read() == b"I am"
        assert server.last_line().endswith('"GET /here.txt HTTP/1.1" 200 -')
    assert server.has_ended
    assert not server.answers()
    assert find_ports(program.port) == [program.port]


def test_what_it_started_ends_with_it_and_gets_its_variables(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = started(stack, served(tmp_path, code=FAMILY))
        ((_, pid, word),) = _lines(server)
        child = psutil.Process(int(pid))
        assert child.is_running()
        assert word == "sesame"
        assert all("sesame" not in part for part in child.parent().cmdline())
    wait_until(lambda: not child.is_running() or child.status() == "zombie")


def _lines(server: Server) -> list[list[str]]:
    server._output.seek(0)
    lines = server._output.read().decode().splitlines()
    return [line.split() for line in lines if line.startswith("child")]


@pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX")
def test_a_child_whose_parent_is_gone_ends_as_well(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = started(stack, served(tmp_path, code=FAMILY))
        child = psutil.Process(int(_lines(server)[0][1]))
        child.parent().kill()
        wait_until(lambda: server.has_ended)
        assert child.is_running()
    wait_until(lambda: not child.is_running() or child.status() == "zombie")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no database')", "it ended: no database"),
        ("print('two'); print('lines'); print()", "it ended: lines"),
        ("pass", "it ended: no output"),
        ("import time; print('hm'); time.sleep(1000)", "it does not answer: hm"),
    ],
)
def test_why_a_server_does_not_answer(tmp_path: Path, code: str, reason: str) -> None:
    limit = 3.0 if "sleep" in code else PATIENCE
    with running(served(tmp_path, code=code)) as server:
        assert list(wait_until_ready([server], limit)) == [(server, reason)]


def test_a_missing_page_is_not_an_answer(tmp_path: Path) -> None:
    with running(served(tmp_path, page="/nowhere")) as server:
        wait_until(lambda: "404" in server.last_line() or server.answers())
        assert not server.answers()


def test_each_resource_is_reported_when_it_starts_and_ends(tmp_path: Path) -> None:
    done: list[int] = []
    with ExitStack() as stack:
        lives = stack.enter_context(running(served(tmp_path)))
        dies = stack.enter_context(running(served(tmp_path, code="print('bye')", name="two")))
        told = dict(wait_until_ready([lives, dies], PATIENCE))
        assert told == {lives: "", dies: "it ended: bye"}

        def work() -> None:
            done.append(1)
            if len(done) == 2:
                lives._process.kill()

        assert list(wait_until_ended([lives, dies], 0.0, work)) == [dies, lives]
    assert len(done) >= 2


def test_ports_are_free_and_different_or_refused() -> None:
    ports = find_ports(None, None, None)
    assert len(set(ports)) == 3
    assert find_ports(ports[0], None)[0] == ports[0]
    with pytest.raises(RunError, match=f"Port {ports[0]} cannot be used: it is given twice"):
        find_ports(ports[0], ports[0])
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(RunError, match=f"Port {taken.getsockname()[1]} cannot be used: "):
            find_ports(None, taken.getsockname()[1])


def test_it_is_run_by_this_python(tmp_path: Path) -> None:
    with running(served(tmp_path, code="import sys; print(sys.executable)")) as server:
        list(wait_until_ready([server], PATIENCE))
        assert server.last_line() == sys.executable
