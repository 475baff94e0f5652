"""NPZ files of histograms, which the trainer writes and the sinks read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nectargan.files import replacing


class Histogram(NamedTuple):
    """The numbers of values in ``n`` bins.

    Attributes:
        edges: Edges of the bins, float32 ``(n + 1,)``, in ascending order.
        counts: Values in each bin, int64 ``(n,)``; bin i has those with
            ``edges[i] <= value < edges[i + 1]``, and the last bin also those equal to its upper
            edge.
        moments: Minimum, maximum, sum and sum of squares of all values, float64 ``(4,)``.
    """

    edges: np.ndarray
    counts: np.ndarray
    moments: np.ndarray


def save_histograms(histograms: Mapping[str, Histogram], path: Path) -> None:
    """Writes an NPZ file with the arrays ``<name>/edges``, ``<name>/counts`` and
    ``<name>/moments`` for each histogram.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {
        f"{name}/{field}": array
        for name, histogram in histograms.items()
        for field, array in histogram._asdict().items()
    }
    path.parent.mkdir(exist_ok=True)
    # NumPy would add ".npz" to a path with another suffix, but not to an open file.
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_histograms(path: Path) -> dict[str, Histogram]:
    """Reads histograms by name, in the order in which they were saved.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file was not written by `save_histograms`.
    """
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays.files)
        return {
            name: Histogram(*(arrays[f"{name}/{field}"] for field in Histogram._fields))
            for name in names
        }
