"""Downloads the data sets of the pix2pix paper: one table, resumed transfers, verified archives."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from nectargan.credentials import public_address
from nectargan.dataset.pairs import find_pairs, list_splits
from nectargan.dataset.preparing.placing import new_folder, require_new
from nectargan.dataset.preparing.unpacking import unpack
from nectargan.dataset.transfer import BLOCK, Progress, Transfer
from nectargan.errors import DataError, check_choice

_ADDRESS = "https://efrosgans.eecs.berkeley.edu/pix2pix/datasets/{}.tar.gz"
_DIGESTS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}  # hexadecimal digits


class Published(NamedTuple):
    """A published archive.

    Attributes:
        name: Name of the data set, and of the folder in the archive.
        about: What the images A and B are.
        md5: MD5 digest of the archive.
        size: Size of the archive in bytes; ``None`` if only a rounded one is published.
        rounded: The size as the server lists it.
        config: Name of the shipped config; ``None`` if there is none.
    """

    name: str
    about: str
    md5: str
    size: int | None
    rounded: str
    config: str | None = None

    @property
    def address(self) -> str:
        """Where the authors of pix2pix publish the archive."""
        return _ADDRESS.format(self.name)


# The authors publish no digests. The MD5 digests are those that the project TheProjectsGuy/MLHub
# compares with (src/mlhub/pix2pix/data.py); the one of night2day is in its table, but a missing
# comma keeps it from being compared. Sizes: the Content-Length that the server sent, as recorded in
# public notebooks and loaders (facades, maps, cityscapes); else the listing of the server.
PUBLISHED = {
    each.name: each
    for each in (
        Published(
            "facades",
            "photo | label map of a building",
            "e2e25dd517e9d15828416ab329da2854",
            30_168_306,
            "29 MiB",
            "facades",
        ),
        Published(
            "maps",
            "aerial photo | map",
            "e5f65d26eb288457f5ac056deb94d154",
            250_242_400,
            "239 MiB",
            "maps",
        ),
        Published(
            "cityscapes",
            "photo | label map of a street",
            "32569df708076e427e9cd02abbca7748",
            103_441_232,
            "99 MiB",
        ),
        Published(
            "edges2shoes",
            "edges | photo of a shoe",
            "71da478b54fedde126e234a2a050bc15",
            None,
            "2.0 GiB",
            "edges2shoes",
        ),
        Published(
            "edges2handbags",
            "edges | photo of a handbag",
            "815592f22fa7f7534a286a25bb73bf03",
            None,
            "8.0 GiB",
        ),
        Published(
            "night2day",
            "photo at night | by day",
            "fd21b1d447a1f927fed41aabedd85baa",
            None,
            "1.9 GiB",
        ),
    )
}


class Downloaded(NamedTuple):
    """A data set that was downloaded.

    Attributes:
        pairs: Number of pairs by split.
        sha256: Digest of the archive.
        record: File with the address, size and digest of the archive.
    """

    pairs: dict[str, int]
    sha256: str
    record: Path


def download(
    name: str,
    out: Path,
    url: str | None = None,
    digest: str | None = None,
    on_progress: Progress | None = None,
) -> Downloaded:
    """Downloads and unpacks a published data set.

    An interrupted transfer is kept in a file beside ``out`` and continued by the next call. The
    digest of the archive is kept in another file beside ``out``, and a later download is compared
    with it.

    Args:
        name: A name in `PUBLISHED`.
        out: The new folder.
        url: Address of a mirror with the same archive.
        digest: The digest of the archive as ALGORITHM:HEX, in place of the published one.
        on_progress: Called with the number of bytes that the archive has so far, and its size if
            it is known.

    Raises:
        DataError: If the archive cannot be downloaded, has another size or digest, or is not safe
            to unpack, or ``out`` cannot be written. ``out`` is then unchanged.
    """
    check_choice(DataError, "data set", "name", name, PUBLISHED)
    published = PUBLISHED[name]
    url = published.address if url is None else _checked_address(url)
    is_published = digest is None
    wanted = f"md5:{published.md5}" if digest is None else _checked_digest(digest)
    out = out.resolve()
    require_new(out)
    archive = _Archive(out, url)
    with _written(out.parent):
        archive.fetch(on_progress or (lambda done, total: None))
        sha256 = archive.verify(wanted, published.size, is_published)
    with new_folder(out) as folder:
        unpack(archive.part, folder, url)
        _lift(folder)
        splits = list_splits(folder)
        if "train" not in splits:
            raise DataError(f"{public_address(url)}: the archive has no split 'train'.")
        pairs = {split: len(find_pairs(folder, split)) for split in splits}
    archive.part.unlink(missing_ok=True)
    return Downloaded(pairs, sha256, archive.record)


def _lift(folder: Path) -> None:
    """Moves the contents of the folder that holds all others one level up."""
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if len(found) == 1 and found[0].is_dir() and not list_splits(folder):
        # Its own name can be that of one of its contents.
        only = found[0].rename(folder / ".only")
        for path in only.iterdir():
            path.rename(folder / path.name)
        only.rmdir()


def _checked_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise DataError(f"'{public_address(url)}' is not an http:// or https:// address.")
    if "@" in parts.netloc:
        raise DataError(f"{public_address(url)}: user names and passwords are not supported.")
    return url


def _checked_digest(digest: str) -> str:
    algorithm, _, value = digest.lower().partition(":")
    if len(value) != _DIGESTS.get(algorithm) or re.search("[^0-9a-f]", value):
        raise DataError(
            f"'{digest}' is not a digest: give ALGORITHM:HEX with one of {', '.join(_DIGESTS)}."
        )
    return f"{algorithm}:{value}"


@contextmanager
def _written(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or place}: cannot be written ({error.strerror})"
        ) from error


class _Archive(Transfer):
    """The archive of a data set, beside the new folder."""

    def __init__(self, out: Path, url: str) -> None:
        part = out.with_name(f"{out.name}.tar.gz.part")
        record = out.with_name(f"{out.name}.download.json")
        # Images hardly shrink in an archive, so their files are as large as the archive.
        super().__init__(url, part, record, 2, "; --url gives another address")

    def verify(self, wanted: str, size: int | None, is_published: bool) -> str:
        """Compares the archive with a digest.

        Args:
            wanted: The digest as ALGORITHM:HEX.
            size: The published size, if it is known.
            is_published: Whether it is the published archive, so that its size and the SHA-256
                digest of an earlier download must be equal too.

        Returns:
            Its SHA-256 digest, which is also written into the record.
        """
        algorithm, _, value = wanted.partition(":")
        hashes = {each: hashlib.new(each, usedforsecurity=False) for each in {"sha256", algorithm}}
        with self.part.open("rb") as file:
            while block := file.read(BLOCK):
                for each in hashes.values():
                    each.update(block)
        found, sha256 = hashes[algorithm].hexdigest(), hashes["sha256"].hexdigest()
        have, known = self.have(), self.facts.get("sha256")
        problem = ""
        if is_published and size not in (None, have):
            problem = f"it has {have:,} bytes; the published archive has {size:,}"
        elif found != value:
            problem = f"its {algorithm.upper()} digest is {found}; expected is {value}"
        elif is_published and known not in (None, sha256):
            problem = f"its SHA-256 digest is {sha256}; it was {known} before, see {self.record}"
        if problem:
            self.part.unlink()
            raise DataError(
                f"{self.shown}: {problem}. If the archive is the right one, give --digest "
                f"sha256:{sha256}."
            )
        self.write_record(size=have, sha256=sha256)
        return sha256
