"""How losses, metrics and durations are written, in each display alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nectargan.metrics import label_of

if TYPE_CHECKING:
    from nectargan.record.ledger import LossRow

_SPEED = "time/images_per_second"


def losses_line(rows: Mapping[str, LossRow]) -> str:
    """Raw loss x weight of each loss."""
    return "  ".join(f"{row.loss} {row.raw:.4g} x {row.weight:.4g}" for row in rows.values())


def metrics_line(values: Mapping[str, float]) -> str:
    """The metrics of an epoch that a person looks at."""
    measured = [name for name in values if name.startswith("val/")]
    labels = {name: label_of(name) for name in measured} | {_SPEED: "images/s"}
    return "  ".join(
        f"{label} {values[name]:.4g}" for name, label in labels.items() if name in values
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
