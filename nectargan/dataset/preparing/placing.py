"""Writes a prepared data set: a new folder of links, copies or new images."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from nectargan.dataset.pairs import Pair
from nectargan.errors import DataError
from nectargan.sources import Source, copy_source

How = Literal["links", "copies"]


class Placed(NamedTuple):
    """A pair at its place in the new data set.

    Attributes:
        split: "train", "val" or "test".
        name: File name without suffix, unique in the split.
        pair: The files.
    """

    split: str
    name: str
    pair: Pair

    def files(self) -> Iterator[tuple[Source, Path]]:
        """Each file, and its path relative to the data set."""
        a, b = self.pair.a, self.pair.b
        if b is None:
            yield a, Path(self.split, self.name + a.suffix)
        else:
            yield a, Path(f"{self.split}A", self.name + a.suffix)
            yield b, Path(f"{self.split}B", self.name + b.suffix)


def require_new(out: Path) -> None:
    """Raises `DataError` if ``out`` is a file or a folder with contents."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise DataError(f"{out}: it {what}; choose a folder that does not exist yet.")


def require_outside(out: Path, *sources: str | Path) -> None:
    """Raises `DataError` if ``out`` is in one of the folders that are read, or is one of them."""
    for source in map(Path, sources):
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise DataError(f"{out}: it is in {source}, which is read; choose a folder elsewhere.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Creates a folder completely or not at all.

    Yields a temporary folder beside ``out``. It becomes ``out`` when the ``with`` block ends
    without an error, and is removed otherwise.

    Raises:
        DataError: If ``out`` is a file or a folder with contents, or cannot be created.
    """
    out = out.resolve()
    require_new(out)
    part = out.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        where = out if error.filename in (None, str(part)) else error.filename
        raise DataError(f"{where}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def place(placed: list[Placed], out: Path, how: How = "links") -> None:
    """Creates the data set ``out`` from pairs, as symbolic links or as copies.

    Raises:
        DataError: If a file cannot be read or ``out`` cannot be written.
    """
    with new_folder(out) as folder:
        for each in placed:
            for source, relative in each.files():
                target = folder / relative
                target.parent.mkdir(exist_ok=True)
                if how == "copies":
                    copy_source(source, target)
                elif isinstance(source, Path):
                    if not source.exists():
                        raise DataError(f"{source}: it is a link to a file that does not exist.")
                    os.symlink(source.resolve(), target)
                else:
                    raise DataError(
                        f"{source}: nothing can link to a part of a shard; use --as copies."
                    )
