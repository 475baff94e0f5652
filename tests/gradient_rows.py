"""A ledger of gradients with known values, for tests of everything that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nectargan.record.ledger import GradientRow, Ledger


def write_gradients(
    directory: Path,
    steps: range = range(1, 21),
    losses: Sequence[str] = ("G_GAN", "G_L1"),
    epoch_steps: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Appends rows to ``gradients.csv``; returns the whole table, as pandas alone reads it."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "gradients.csv"
    ledger = Ledger(path, GradientRow, resume=path.exists())
    for step in steps:
        norms = rng.uniform(0.1, 1.0, len(losses))
        for name, norm, share in zip(losses, norms, norms / norms.sum(), strict=True):
            values = np.float32([norm, share, rng.uniform(-1, 1)])
            ledger.append([GradientRow(step, 1 + (step - 1) // epoch_steps, step, name, *values)])
    ledger.close()
    return pd.read_csv(path)
