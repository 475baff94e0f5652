"""Runs without a trainer: ledgers with known values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nectargan.config.config_manager import ConfigManager, Override
from nectargan.record.ledger import Ledger, LossRow, MetricRow
from nectargan.record.loss_tags import write_loss_tags
from nectargan.record.run_directory import RunDirectory

from ..loggers.conftest import store

__all__ = ["store"]

DTYPES = {
    "loss": "category",
    "metric": "category",
    **dict.fromkeys(("raw", "weight", "weighted", "value"), "float32"),
    **dict.fromkeys(("norm", "share", "cosine"), "float32"),
}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, which are saved all the same."""
    seen: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: object, **options: object) -> None:
        seen.append(self)
        save(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return seen


def make_run(
    directory: Path, steps: int = 20, losses: Sequence[str] = "ab", seed: int = 0
) -> pd.DataFrame:
    """A run of ten steps an epoch whose loss "b" begins in step 8; returns its table, as pandas
    alone reads it."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    rows = [
        LossRow(
            step,
            1 + (step - 1) // 10,
            1000 + step,
            name,
            np.float32(rng.normal()),
            step / 3,
            np.float32(rng.normal()),
        )
        for step in range(1, steps + 1)
        for name in losses
        if name != "b" or step >= 8
    ]
    write_losses(directory, rows)
    metrics = Ledger(directory / "metrics.csv", MetricRow)
    metrics.append([MetricRow(step, 1, step, "val/x", step / 4) for step in (10, 20)])
    metrics.close()
    return pd.read_csv(directory / "losses.csv")


def write_losses(directory: Path, rows: Sequence[LossRow]) -> None:
    """A ledger with these rows."""
    directory.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(directory / "losses.csv", LossRow)
    ledger.append(rows)
    ledger.close()


def make_whole_run(
    directory: Path,
    overrides: Sequence[Override] = (),
    ssim: Sequence[float] = (),
    l1: Sequence[float] = (),
    status: str = "FINISHED",
) -> None:
    """A run with a config, a status, tags, and a validation in each epoch."""
    make_run(directory, losses=["G_L1", "D_real"])
    ConfigManager(None, overrides).save(directory / "config.json")
    RunDirectory(directory).write_status(status)
    write_loss_tags(
        RunDirectory(directory).loss_tags, {"G_L1": ("G", "pixel"), "D_real": ("D", "adversarial")}
    )
    (directory / "metrics.csv").unlink()
    metrics = Ledger(directory / "metrics.csv", MetricRow)
    for name, values in (("val/ssim", ssim), ("val/l1", l1)):
        metrics.append(
            [MetricRow(10 * e, e, e, name, np.float32(v)) for e, v in enumerate(values, 1)]
        )
    metrics.close()


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """A table that pandas read, with the types of ours; categories in the order of the rows."""
    table = table.astype({name: DTYPES[name] for name in table.columns if name in DTYPES})
    for name in ("loss", "metric"):
        if name in table:
            table[name] = table[name].cat.set_categories(table[name].unique().tolist())
    return table
