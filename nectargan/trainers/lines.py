"""Formats losses, metrics and durations for all displays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nectargan.metrics import label_of

if TYPE_CHECKING:
    from nectargan.record.ledger import LossRow

_SPEED = "time/images_per_second"


def losses_line(rows: Mapping[str, LossRow]) -> str:
    """The raw value and weight of each loss, such as "G_L1 0.1234 x 100"."""
    return "  ".join(f"{row.loss} {row.raw:.4g} x {row.weight:.4g}" for row in rows.values())


def metrics_line(values: Mapping[str, float]) -> str:
    """The validation metrics and the speed of an epoch."""
    measured = [name for name in values if name.startswith("val/")]
    labels = {name: label_of(name) for name in measured} | {_SPEED: "images/s"}
    return "  ".join(
        f"{label} {values[name]:.4g}" for name, label in labels.items() if name in values
    )


def duration(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds, such as 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
