"""Histograms in a file: made by a trainer, read by the sinks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nectargan.files import replacing


class Histogram(NamedTuple):
    """How many values fell between which edges.

    Attributes:
        edges: float32 ``(n + 1,)``, rising.
        counts: int64 ``(n,)``; bin i is ``edges[i] <= value < edges[i + 1]``, the last one closed.
        moments: float64 ``(4,)``: smallest and largest value, sum, sum of squares.
    """

    edges: np.ndarray
    counts: np.ndarray
    moments: np.ndarray


def save_histograms(histograms: Mapping[str, Histogram], path: Path) -> None:
    """Writes an NPZ file with three arrays for each name, ``<name>/edges`` and so on.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {
        f"{name}/{field}": array
        for name, histogram in histograms.items()
        for field, array in histogram._asdict().items()
    }
    path.parent.mkdir(exist_ok=True)
    # An open file: to a bare path of another suffix, numpy would add its own.
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_histograms(path: Path) -> dict[str, Histogram]:
    """The histograms in a file, by name, in the order in which they were saved.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays.files)
        return {
            name: Histogram(*(arrays[f"{name}/{field}"] for field in Histogram._fields))
            for name in names
        }
