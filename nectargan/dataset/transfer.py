"""Receives a file from an http server: transfers that were cut go on where they stopped."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nectargan.credentials import public_address
from nectargan.errors import DataError
from nectargan.files import read_regular_text, replacing
from nectargan.version import __version__

BLOCK = 1 << 18  # bytes

AGENT = f"NectarGAN/{__version__}"
TIMEOUT = 30.0  # seconds without any data
_MOST_FAILURES = 4  # in a row, without any new data
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PAUSE = 0.5  # seconds after the first failure; doubled after each further one

# Takes the number of bytes that the file has so far, and its size if it is known.
Progress = Callable[[int, int | None], object]


class Transfer:
    """A file that is received from a server.

    Args:
        url: Its address, http or https.
        part: Where it is written, as far as it was received.
        record: JSON: address, validator and size of the file in ``part``.
        copies: How often its bytes will be on the disk in the end.
        advice: What to do about an answer such as 404, the end of a sentence.
    """

    def __init__(
        self, url: str, part: Path, record: Path, copies: int = 1, advice: str = ""
    ) -> None:
        self.part, self.record, self.url = part, record, url
        self.shown = public_address(url)
        self.facts = self._read_record()
        self._copies, self._advice = copies, advice
        self._total: int | None = None

    def fetch(self, on_progress: Progress) -> None:
        """Receives what is missing; raises `DataError` if the server does not send it.

        In the methods below, a `ConnectionError` means that another attempt can go on.
        """
        if self.facts.get("url") != self.url or not self.part.exists():
            self._forget()
        elif self.facts.get("size") == self.part.stat().st_size:
            return
        failures = 0
        while True:
            before = self.have()
            try:
                self._request(on_progress)
                return
            except ConnectionError as error:
                failures = 1 if self.have() > before else failures + 1
                if failures >= _MOST_FAILURES:
                    total = f" of {self._total:,}" if self._total else ""
                    raise DataError(
                        f"{self.shown}: {error}; {self.have():,}{total} bytes were received. Run "
                        "the command again to go on."
                    ) from None
                time.sleep(_PAUSE * 2 ** (failures - 1))

    def _request(self, on_progress: Progress) -> None:
        have = self.have()
        headers = {"User-Agent": AGENT}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator := self.facts.get("validator"):
                headers["If-Range"] = str(validator)
        with self._answer(urllib.request.Request(self.url, headers=headers)) as answer:  # noqa: S310 - http only
            # Otherwise it is the whole file, from its beginning.
            have = _first_byte(answer.headers, have) if answer.status == 206 else 0
            total = self._total = size_in(answer.headers)
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self.write_record(url=self.url, validator=validator_in(answer.headers), size=total)
            self._require_space(total, have)
            self._receive(answer, have, total, on_progress)

    @contextmanager
    def _answer(self, request: urllib.request.Request) -> Iterator[Any]:
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 - http only
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and self.have():  # what was received is no part of this file
                self._forget()
                raise ConnectionError("the server sent no data") from None
            if error.code in (408, 425, 429) or error.code >= 500:
                raise ConnectionError(f"the server answered {error.code} {error.reason}") from None
            raise DataError(
                f"{self.shown}: the server answered {error.code} {error.reason}{self._advice}."
            ) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(
                f"no connection ({getattr(reason, 'strerror', None) or reason})"
            ) from None
        with answer:
            yield answer

    def _receive(self, answer: Any, have: int, total: int | None, on_progress: Progress) -> None:
        with self.part.open("r+b" if self.part.exists() else "wb") as file:
            file.truncate(have)
            file.seek(have)
            while True:
                on_progress(have, total)
                try:
                    block = answer.read(BLOCK)
                except (http.client.HTTPException, OSError) as error:
                    reason = getattr(error, "strerror", None) or type(error).__name__
                    raise ConnectionError(f"the connection was lost ({reason})") from None
                if not block:
                    break
                file.write(block)
                have += len(block)
        if total is not None and have < total:
            raise ConnectionError("the connection was lost")

    def _require_space(self, total: int | None, have: int) -> None:
        if total is None:
            return
        free, needed = shutil.disk_usage(self.part.parent).free, self._copies * total - have
        if free < needed:
            raise DataError(
                f"{self.part.parent}: {free:,} bytes are free; {self.shown} needs about {needed:,}."
            )

    def have(self) -> int:
        """Number of bytes that were received."""
        return self.part.stat().st_size if self.part.exists() else 0

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)

    def _read_record(self) -> dict[str, Any]:
        try:
            found = json.loads(read_regular_text(self.record))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_record(self, **facts: object) -> None:
        """Adds facts to the record; raises OSError."""
        self.facts |= facts
        with replacing(self.record) as part:
            part.write_text(json.dumps(self.facts, indent=2) + "\n", encoding="utf-8")


def size_in(headers: Mapping[str, str]) -> int | None:
    """The size of the whole file in bytes, from the headers of an answer; ``None`` if unknown."""
    whole = _RANGE.fullmatch(headers.get("Content-Range", ""))
    length = whole[2] if whole else headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def validator_in(headers: Mapping[str, str]) -> str | None:
    """What tells this version of a file from others: its ETag if that is strong, else its date."""
    etag = headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else None
    return strong or headers.get("Last-Modified")


def _first_byte(headers: Mapping[str, str], have: int) -> int:
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if not found or int(found[1]) > have:
        raise ConnectionError("the server sent another range than it was asked for")
    return int(found[1])
