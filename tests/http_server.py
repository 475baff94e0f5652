"""A server on the loopback interface that can fail in many ways."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.processes import PATIENCE


class Server(ThreadingHTTPServer):
    """Sends one of `bodies`, by the name in the path, else `body`; and does what `plan` says: one
    word per request, then "whole"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = b""
        self.bodies: dict[str, bytes] = {}
        self.etag = '"1"'
        self.plan: list[str] = []
        self.ranges: list[str | None] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        body = server.bodies.get(self.path.rpartition("/")[2], server.body)
        server.ranges.append(self.headers.get("Range"))
        what = server.plan.pop(0) if server.plan else "whole"
        self.close_connection = True
        if what.isdecimal():
            self.send_error(int(what))
            return
        if what == "moved":
            self.send_response(302)
            self.send_header("Location", "/other" + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = 0, len(body) - 1
        wanted = self.headers.get("Range")
        is_same = self.headers.get("If-Range") in (None, server.etag)
        if wanted and is_same and what != "no ranges":
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
            if first >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.etag)
        if what == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
            return
        part = body[first : last + 1]
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if what == "cut":
            self.wfile.write(part[: len(part) // 2])
        elif what != "nothing":
            self.wfile.write(part)


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs in the ``with`` block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE)
