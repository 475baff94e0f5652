"""An HTTP server between MLflow and its client, which may ask for a password or make answers up."""

from __future__ import annotations

import base64
import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit


class Gate:
    """What a gate does now.

    Attributes:
        uri: Its address.
        answer: What it answers to everything, in place of MLflow; ``None`` for MLflow's answers.
        content_type: Of that answer.
        asked: How many requests it had.
    """

    def __init__(self, server: str, login: str | None = None) -> None:
        self._server = urlsplit(server)
        self._login = login and "Basic " + base64.b64encode(login.encode()).decode()
        self.uri = ""
        self.answer: bytes | None = None
        self.content_type = "application/json"
        self.asked = 0

    def reply(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a request."""
        self.asked += 1
        if self.answer is not None:
            return 200, {"Content-Type": self.content_type}, self.answer
        if self._login is not None and headers.get("Authorization") != self._login:
            return 401, {"WWW-Authenticate": 'Basic realm="MLflow"'}, b"Who is there?"
        connection = http.client.HTTPConnection(self._server.netloc, timeout=60)
        try:
            passed_on = {k: v for k, v in headers.items() if k not in ("Host", "Authorization")}
            connection.request(method, path, body, passed_on)
            answer = connection.getresponse()
            kept = {"Content-Type": answer.headers.get("Content-Type", "text/plain")}
            return answer.status, kept, answer.read()
        finally:
            connection.close()


@contextmanager
def gate_to(server: str, login: str | None = None) -> Iterator[Gate]:
    """A gate in front of ``server``, for the time of a ``with`` statement.

    Args:
        server: Address of an MLflow server.
        login: ``user:password`` that it asks for.
    """
    gate = Gate(server, login)

    class Handler(http.server.BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, answer = gate.reply(self.command, self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self._reply
            raise AttributeError(name)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        gate.uri = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield gate
        finally:
            listening.shutdown()
            thread.join()
