"""Reads ``pairs.csv``: a data set as a list of files with the columns input, target and split."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nectargan.errors import DataError
from nectargan.files import open_regular

MANIFEST = "pairs.csv"
COLUMNS = ("input", "target", "split")

_LARGEST = 2**30  # bytes


class Row(NamedTuple):
    """A pair of the list.

    Attributes:
        name: Unique in its split, and usable as a file name.
        input: The file of the input image, or of input and target side by side.
        target: The file of the target image; None for a side-by-side image.
    """

    name: str
    input: Path
    target: Path | None


def read_manifest(path: Path, split: str) -> list[Row]:
    """Reads the rows of a split, in the order of the file.

    Relative paths start at the folder of the file. If the target is empty, the input file holds
    both images side by side. A name is the stem of the input file; if stems are not unique, it is
    the whole input path, with "_" in place of the separators.

    Raises:
        DataError: If the file lacks a column, is not UTF-8 text, or has a row without an input.
        OSError: If the file cannot be read.
    """
    written = list(_rows(path, split))
    stems = [Path(each["input"]).stem for each in written]
    if len(set(stems)) < len(stems):
        stems = ["_".join(Path(each["input"]).with_suffix("").parts[-4:]) for each in written]
    return [
        Row(
            name,
            path.parent / each["input"],
            path.parent / each["target"] if each["target"] else None,
        )
        for name, each in zip(stems, written, strict=True)
    ]


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
                if row["split"] == split:
                    if not row["input"]:
                        raise DataError(f"{path}: line {reader.line_num}: the input is empty")
                    yield row
    except UnicodeDecodeError:
        raise DataError(f"{path}: it is not UTF-8 text") from None
    except csv.Error as error:
        raise DataError(f"{path}: after line {reader.line_num}: {error}") from None
