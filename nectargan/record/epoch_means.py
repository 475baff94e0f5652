"""The mean of each loss over an epoch, from the rows on record."""

from __future__ import annotations

import math
from pathlib import Path

from nectargan.errors import RunError
from nectargan.record.ledger import offset_of_step, read_blocks


def epoch_means(path: Path, first_step: int) -> dict[str, float]:
    """Mean of the raw values of each loss from a step on.

    Read from the ledger instead of kept while training, so that a run which was resumed in
    mid-epoch has the mean of the whole epoch.

    Args:
        path: ``losses.csv``.
        first_step: First step of the epoch at the end of the file.

    Returns:
        Mean of the finite values, by series ``epoch/loss/<name>``; NaN if there is none.

    Raises:
        RunError: the ledger is damaged.
    """
    values: dict[str, list[float]] = {}
    for lines, _ in read_blocks(path, offset_of_step(path, first_step)):
        try:
            for line in lines.decode("utf-8").splitlines():
                step, _, _, loss, raw, *_ = line.split(",")
                if step != "step":
                    values.setdefault(loss, []).append(float(raw))
        except ValueError as error:
            raise RunError(f"'{path}' is damaged: {error}.") from None
    return {f"epoch/loss/{loss}": _mean(mine) for loss, mine in values.items()}


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
