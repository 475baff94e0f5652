"""The curves of runs as a page carries them: thinned, and each array once."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from nectargan.analysis.curves import epochs_with_fractions
from nectargan.analysis.frames import gradients_of, losses_of, metrics_of
from nectargan.analysis.sources import LedgerSource, Source
from nectargan.errors import RunError
from nectargan.record.run_directory import GRADIENTS_FILE, LOSSES_FILE

# Points of a curve: as many as one can see, fewer where there are many runs.
_MOST_POINTS, _LEAST_POINTS, _POINTS_OF_ALL = 2000, 200, 12_000
_LOSSES = {"raw": "Losses, raw", "weighted": "Losses, weighted", "weight": "Weights"}
_GRADIENTS = {
    "share": "Gradients, share",
    "cosine": "Gradients, cosine to the others",
    "norm": "Gradients, norm",
}
_METRICS = {"val": "Validation", "lr": "Learning rates"}
_ORDER = ("Validation", *_LOSSES.values(), *_GRADIENTS.values(), "Learning rates")


class Arrays:
    """Arrays of numbers as base64 texts; equal ones are kept once.

    Attributes:
        texts: The texts. The first letter is the type, "f" (float32), "d" (float64) or "i" (int32);
            the rest is base64 of little-endian numbers.
    """

    _TYPES: ClassVar = {"f": "<f4", "d": "<f8", "i": "<i4"}

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, values: Any) -> int:
        """Keeps an array ``(n,)``; returns its place in `texts`."""
        array = np.asarray(values)
        kind = array.dtype.char if array.dtype.char in "fd" else "i"
        data = array.astype(self._TYPES[kind]).tobytes()
        text = kind + base64.b64encode(data).decode("ascii")
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


def most_points(runs: int) -> int:
    """How many points a curve may have on a page with so many runs."""
    return max(_LEAST_POINTS, min(_MOST_POINTS, _POINTS_OF_ALL // max(runs, 1)))


def curves_of_page(source: Source, most: int, arrays: Arrays) -> list[dict[str, Any]]:
    """The curves of a run.

    Args:
        source: The run.
        most: If a curve has more points, every n-th one is kept, and the last.
        arrays: Receives the arrays.

    Returns:
        For each curve ``group`` and ``series``; ``every``, the n; ``nonfinite``, the number of NaN
        and infinite values; and places of arrays: ``step``, ``epoch`` (``None`` if it is not
        known), ``value``, and for a thinned curve ``low`` and ``high``, the extremes of the values
        from each point to the next.
    """
    return [
        _curve(group, series, rows, column, most, arrays)
        for group, series, rows, column in _series_of(source)
    ]


def _series_of(source: Source) -> Iterator[tuple[str, str, Any, str]]:
    """Group, series, rows and column of each curve."""
    for rows, groups in ((_losses(source), _LOSSES), (_gradients(source), _GRADIENTS)):
        if rows is None:
            continue
        rows["x"] = _epochs(rows, source)
        for name, mine in rows.groupby("loss", observed=True, sort=False):
            for column, group in groups.items():
                yield group, str(name), mine, column
    for name, mine in metrics_of(source).groupby("metric", observed=True, sort=False):
        kind, _, short = str(name).partition("/")
        if kind in _METRICS:
            yield _METRICS[kind], short, mine.assign(x=mine["epoch"].astype("float32")), "value"


def _losses(source: Source) -> Any:
    # A run that ended before its first step has no ledger.
    return losses_of(source) if _has(source, LOSSES_FILE) else None


def _gradients(source: Source) -> Any:
    if isinstance(source, LedgerSource):
        return gradients_of(source) if _has(source, GRADIENTS_FILE) else None
    try:
        return gradients_of(source)
    except RunError:  # not recorded
        return None


def _has(source: Source, file: str) -> bool:
    """Whether there is such a ledger, or a source that need not have one."""
    return not isinstance(source, LedgerSource) or source.has(file)


def _epochs(rows: Any, source: Source) -> Any:
    known = len(rows) and (rows["epoch"] > 0).all()
    return epochs_with_fractions(rows, source).astype("float32") if known else np.float32(0)


def _curve(
    group: str, series: str, rows: Any, column: str, most: int, arrays: Arrays
) -> dict[str, Any]:
    values, epochs = rows[column].to_numpy(), rows["x"].to_numpy()
    every = -(-len(rows) // most)
    shown = sorted({*range(0, len(rows), every), len(rows) - 1})
    curve = {
        "group": group,
        "series": series,
        "every": every,
        "nonfinite": int((~np.isfinite(values)).sum()),
        "step": arrays.add(rows["step"].to_numpy()[shown]),
        "epoch": arrays.add(epochs[shown]) if epochs.min() > 0 else None,
        "value": arrays.add(values[shown]),
    }
    if every > 1:
        # These two ignore NaN where a part has other values.
        curve["low"] = arrays.add(np.fmin.reduceat(values, shown))
        curve["high"] = arrays.add(np.fmax.reduceat(values, shown))
    return curve


def groups_in_order(curves: Sequence[dict[str, Any]]) -> list[str]:
    """The groups that there are curves of, in the order of the page."""
    present = {curve["group"] for curve in curves}
    return [group for group in _ORDER if group in present]
