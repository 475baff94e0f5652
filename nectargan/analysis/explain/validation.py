"""Sentences about validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nectargan.analysis.explain.finding import Finding, RunRecord, names
from nectargan.metrics import USUAL_SERIES, is_lower_better
from nectargan.wording import counted

# Fewer values of validation show no trend.
FEWEST_VALUES = 4


def validation(record: RunRecord) -> Iterator[Finding]:
    """Whether the metric that runs are judged by was still improving at the end."""
    config, metrics = record.config, record.metrics
    known = [name for name in names(metrics, "metric") if name.startswith("val/")]
    judged = config.judged_by if config else USUAL_SERIES
    series = judged if judged in known else next(iter(known), None)
    if series is None:
        return
    points = metrics[metrics["metric"] == series]
    points = points[np.isfinite(points["value"].to_numpy(float))]
    if points.empty:
        return
    epochs, values = points["epoch"].to_numpy(), points["value"].to_numpy(float)
    own_lower = config.validation.own_lower_is_better if config else ()
    sign = -1 if is_lower_better(series, own_lower) else 1
    best = int((sign * values).argmax())
    figures: dict[str, Any] = {
        "metric": series,
        "best": float(values[best]),
        "best_epoch": int(epochs[best]),
        "last": float(values[-1]),
        "last_epoch": int(epochs[-1]),
    }
    at_best = f"{values[best]:.4g} in epoch {epochs[best]}"
    if len(values) < FEWEST_VALUES:
        text = (
            f"{series} was best, {at_best}, of {counted(len(values), 'epoch')} on record: too few "
        )
        yield Finding("validation", f"{text}for a trend.", figures)
        return
    quarter = max(1, len(values) // 4)
    if values.min() == values.max():
        text = f"{series} was {values[0]:.4g} in all {len(values)} epochs on record."
        yield Finding("validation", text, figures)
        return
    late, before = values[-quarter:].mean(), values[-2 * quarter : -quarter].mean()
    late_best = best >= len(values) - max(1, len(values) // 10)
    if late_best and sign * late > sign * before:
        figures |= {"last_quarter": float(late), "quarter_before": float(before)}
        text = f"{series} was still improving when {_end(record, epochs[-1])}: it was best, "
        if quarter == 1:
            text += (
                f"{at_best}, and {late:.4g} in the last epoch after {before:.4g} in the one before"
            )
        else:
            text += f"{at_best}, and its mean over the last {quarter} epochs was {late:.4g} "
            text += f"after {before:.4g} over the {quarter} before"
        text += f"{_rate(record, figures)}."
    else:
        text = f"{series} was best, {at_best}, and {values[-1]:.4g} in epoch {epochs[-1]}, when "
        text += f"{_end(record, epochs[-1])}: it was no longer improving."
    yield Finding("validation", text, figures)


def _end(record: RunRecord, epoch: int) -> str:
    whole = record.config is not None and epoch >= record.config.train.epochs
    if whole:
        return "the schedule ended"
    return "the run ended" if record.status not in ("", "RUNNING") else "this was read"


def _rate(record: RunRecord, figures: dict[str, Any]) -> str:
    """The learning rate at the end, which may be why little more was to come."""
    rates = record.metrics[record.metrics["metric"] == "lr/generator"]["value"]
    if rates.empty:
        return ""
    figures["learning_rate"] = float(rates.iloc[-1])
    return f", with a learning rate of {rates.iloc[-1]:.3g}"
