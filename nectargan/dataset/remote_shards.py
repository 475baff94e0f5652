"""Shards on a server: received into the cache folder as far as there is room, else read in place.

In place, an image is a range of bytes that the server is asked for when the image is needed, so a
data set may be larger than the disk. Order, crops and resuming are those of files in both cases.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from nectargan.dataset.transfer import AGENT, TIMEOUT, Transfer, size_in, validator_in
from nectargan.errors import DataError
from nectargan.files import cache_folder, read_regular_text, replacing
from nectargan.sources import CHANGED, Member, Shard, ShardFile

if TYPE_CHECKING:
    import requests

LIMIT = "NECTARGAN_SHARD_CACHE"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_LEFT_FREE = 0.1  # of the disk, without a limit
_ATTEMPTS = 5  # of a request
_PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
_BLOCK = 1 << 20  # bytes that are asked for at once while headers are read
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)

_AWAY_SECONDS = 300.0  # in which a server that could not be reached is not asked again

log = logging.getLogger("nectargan")

_lock = threading.Lock()
_away: dict[str, float] = {}  # until when, by host


@dataclass(frozen=True)
class RemoteShard:
    """A shard that is read on its server.

    Attributes:
        address: Its address.
        size: Its size in bytes.
        validator: Its ETag or date, which the server compares; empty if it has none.
    """

    address: str
    size: int
    validator: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The file name."""
        return PurePosixPath(urlsplit(self.address).path).name

    @property
    def state(self) -> tuple[int, ...]:
        """Numbers that change when it is replaced."""
        digest = hashlib.sha256(self.validator.encode()).digest()
        return self.size, int.from_bytes(digest[:7], "big")

    def open(self) -> io.BufferedReader:
        """Opens it at its beginning; reading raises OSError."""
        return io.BufferedReader(_Ranges(self), _BLOCK)

    def read(self, offset: int, size: int) -> bytes:
        """Asks the server for a part; raises OSError if it does not send it or it has changed."""
        last = min(offset + size, self.size) - 1
        if last < offset:
            return b""
        answer = _ask(self.address, f"bytes={offset}-{last}", self.validator)
        if answer.status_code != 206 or size_in(answer.headers) != self.size:
            raise OSError(errno.ESTALE, CHANGED, str(self))
        return bytes(answer.content)


class _Ranges(io.RawIOBase):
    """A shard on its server as a file."""

    def __init__(self, shard: RemoteShard) -> None:
        self._shard, self._at = shard, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._shard.size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._shard.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def shard_on_server(address: str) -> Shard:
    """The shard of an address: a file in the cache folder, or the one on the server.

    One that is in the cache folder is received again if it has changed on the server. If the server
    cannot be reached, it is used as it is, with one warning for all shards of the server.

    Raises:
        DataError: If the server does not send it, or there is no room and the server does not send
            parts of a file.
        OSError: If the cache folder cannot be written.
    """
    folder = _folder_of(address)
    kept = folder / PurePosixPath(urlsplit(address).path).name
    with _locked(folder, address):
        transfer = Transfer(address, folder / "part", folder / "transfer.json")
        if kept.exists() and _is_away(address):
            return ShardFile.of(kept)
        try:
            answer = _ask(address, "bytes=0-0")
        except OSError as error:
            if not kept.exists() or error.errno == errno.ENOENT:
                raise DataError(f"{address}: {error.strerror}.") from None
            _note_away(address, str(error.strerror))
            return ShardFile.of(kept)
        size, validator = size_in(answer.headers), validator_in(answer.headers)
        facts = transfer.facts
        if kept.exists() and (facts.get("size"), facts.get("validator")) == (size, validator):
            return ShardFile.of(kept)
        with _room.taken(size or 0, folder) as is_enough:
            if is_enough:
                transfer.fetch(lambda done, total: None)
                transfer.part.replace(kept)
                return ShardFile.of(kept)
        kept.unlink(missing_ok=True)  # it has changed on the server
    if answer.status_code != 206 or size is None:
        raise DataError(
            f"{address}: there is no room for it in {folder.parent}, and the server does not send "
            f"parts of a file, so that it could be read in place. Make room, or set {LIMIT}."
        )
    return RemoteShard(address, size, validator or "")


def _is_away(address: str) -> bool:
    """Whether the server of an address could not be reached a short while ago."""
    return time.monotonic() < _away.get(urlsplit(address).netloc, 0.0)


def _note_away(address: str, reason: str) -> None:
    with _lock:
        if not _is_away(address):
            host = urlsplit(address).netloc
            log.warning(
                "%s: %s. The copies of its shards in %s are used.",
                host,
                reason,
                cache_folder("shards"),
            )
            _away[host] = time.monotonic() + _AWAY_SECONDS


def kept_members(shard: RemoteShard) -> list[Member] | None:
    """The members of a shard that `keep_members` has kept; ``None`` if there are none."""
    try:
        found = json.loads(read_regular_text(_index_of(shard), most_bytes=2**30))
        if found["state"] == list(shard.state):
            return [Member(shard, *member) for member in found["members"]]
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None


def keep_members(shard: RemoteShard, members: Sequence[Member]) -> None:
    """Keeps the places of the members in the cache folder; raises OSError."""
    found = {"state": shard.state, "members": [(m.path, m.offset, m.size) for m in members]}
    with replacing(_index_of(shard)) as part:
        part.write_text(json.dumps(found), encoding="utf-8")


def _index_of(shard: RemoteShard) -> Path:
    return _folder_of(shard.address) / "members.json"


def _folder_of(address: str) -> Path:
    return cache_folder("shards") / hashlib.sha256(address.encode()).hexdigest()[:16]


@contextmanager
def _locked(folder: Path, address: str) -> Iterator[None]:
    """Lets one process at a time receive a shard. The lock ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        held = lock.acquire(timeout=1)
    except Timeout:
        log.info("Another process receives %s; waiting for it.", address)
        held = lock.acquire()
    with held:
        yield


class _Room:
    """Decides whether a shard is received, for all threads of this process."""

    def __init__(self) -> None:
        self._under_way = 0  # bytes

    @contextmanager
    def taken(self, size: int, folder: Path) -> Iterator[bool]:
        """Whether there is room for ``size`` bytes, which are reserved in the ``with`` block."""
        with _lock:
            is_enough = size <= _left(folder.parent) - self._under_way
            self._under_way += size if is_enough else 0
        try:
            yield is_enough
        finally:
            with _lock:
                self._under_way -= size if is_enough else 0


_room = _Room()


def _left(folder: Path) -> float:
    """The bytes that may still be received into the cache folder."""
    disk = shutil.disk_usage(folder)
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return disk.free - _LEFT_FREE * disk.total
    match = _SIZE.fullmatch(text)
    if not match:
        raise DataError(f"{LIMIT} is '{text}'; allowed: a size such as 50G, or 0.")
    used = sum(path.stat().st_size for path in folder.glob("*/*"))
    return min(float(match[1]) * _UNITS[match[2].upper()] - used, disk.free)


def _ask(address: str, range_of_bytes: str, validator: str = "") -> requests.Response:
    """Asks a server for a range of a file; the body is read if the answer is that range.

    Raises:
        FileNotFoundError: If the server does not have it.
        OSError: If the server cannot be reached; ``strerror`` gives the reason.
    """
    import requests

    headers = {"User-Agent": AGENT, "Range": range_of_bytes, "Accept-Encoding": "identity"}
    if validator:
        headers["If-Range"] = validator
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            with _session(os.getpid()).get(
                address, headers=headers, timeout=TIMEOUT, stream=True
            ) as answer:
                if answer.status_code == 206:
                    answer.content  # noqa: B018 - reads the body while the connection is open
                if answer.status_code in (200, 206):
                    return answer
                reason = f"the server answered {answer.status_code} {answer.reason}"
                if answer.status_code not in _TRY_AGAIN:
                    raise FileNotFoundError(errno.ENOENT, reason, address)
        except requests.RequestException as error:
            reason = f"no connection ({type(error).__name__})"
    raise OSError(errno.EIO, reason, address)


@functools.lru_cache(maxsize=1)
def _session(process: int) -> requests.Session:
    """Keeps connections open between requests; each process needs its own."""
    import requests

    return requests.Session()
