"""Reads ``pairs.csv``: a data set as a list of files with the columns input, target and split."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nectargan.dataset.streaming import Packed, text_array
from nectargan.errors import DataError
from nectargan.files import open_regular

T = TypeVar("T")

MANIFEST = "pairs.csv"
COLUMNS = ("input", "target", "split")

_LARGEST = 2**30  # bytes


def lists_pairs(path: Path, split: str) -> bool:
    """Whether there are pairs of a split; the errors are those of `read_manifest`."""
    return any(True for _ in _rows(path, split))


def read_manifest(path: Path, split: str, make: Callable[[str, Any, Any], T]) -> Packed[T]:
    """Reads the rows of a split, in the order of the file.

    Relative paths start at the folder of the file. If the target is empty, the input file holds
    both images side by side. A name is the stem of the input file; if stems are not unique, it is
    the whole input path, with "_" in place of the separators.

    Args:
        path: The file.
        split: Name of the split.
        make: Makes a pair of a name that can be a file name, the file of the input image, and that
            of the target image or ``None``.

    Raises:
        DataError: If the file lacks a column, is not UTF-8 text, or has a row without an input.
        OSError: If the file cannot be read.
    """
    stems = text_array(Path(each["input"]).stem for each in _rows(path, split))
    is_unique = len(np.unique(stems)) == len(stems)

    def named() -> Iterator[tuple[str, Path, Path | None]]:
        for each in _rows(path, split):
            source = Path(each["input"])
            name = source.stem if is_unique else "_".join(source.with_suffix("").parts[-4:])
            target = path.parent / each["target"] if each["target"] else None
            yield name, path.parent / source, target

    return Packed(make, named())


def _rows(path: Path, split: str) -> Iterator[dict[str, str]]:
    try:
        with open_regular(path, _LARGEST) as file:
            reader = csv.DictReader((line.decode("utf-8-sig") for line in file), strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}: there is no column {' or '.join(missing)}; the first line must name "
                    f"{', '.join(COLUMNS)}"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}: line {reader.line_num}: it has another number of fields than the "
                        "first line"
                    )
                if row["split"].strip() == split:
                    if not row["input"]:
                        raise DataError(f"{path}: line {reader.line_num}: the input is empty")
                    if "\0" in row["input"] + (row["target"] or ""):
                        raise DataError(
                            f"{path}: line {reader.line_num}: a path contains the character NUL"
                        )
                    yield row
    except UnicodeDecodeError:
        raise DataError(f"{path}: it is not UTF-8 text") from None
    except csv.Error as error:
        raise DataError(f"{path}: after line {reader.line_num}: {error}") from None
