from __future__ import annotations

from collections.abc import Iterator

import pytest

from nectargan.dataset import remote_shards, transfer
from tests.http_server import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is asked directly, and again at once after a failure."""
    monkeypatch.setattr(transfer, "_PAUSE", 0.001)
    monkeypatch.setattr(remote_shards, "_PAUSE", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server
