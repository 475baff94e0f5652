"""Sentences about weights at their bounds, and about values that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nectargan.analysis.explain.finding import Finding, RunRecord
from nectargan.wording import counted

if TYPE_CHECKING:
    import pandas as pd


def weights(record: RunRecord) -> Iterator[Finding]:
    """Weights that follow from a share of the gradient, and their bounds."""
    from nectargan.config.loss_options import ShareConfig, weight_of

    options = record.config.train.loss if record.config else {}
    for name, option in options.items():
        share = weight_of(option)
        rows = record.losses[record.losses["loss"] == name].dropna(subset=["weight"])
        if isinstance(share, ShareConfig) and not rows.empty:
            yield _bounds(name, rows, share.min, share.max)


def _bounds(name: str, rows: pd.DataFrame, least: float, most: float) -> Finding:
    weights, steps = rows["weight"].to_numpy(float), rows["step"].to_numpy()
    figures: dict[str, Any] = {"loss": name, "steps": len(weights), "bounds": [least, most]}
    # Weights are recorded as float32. A weight of 0 is that of a share of 0, and not held there.
    at_most = np.isclose(weights, most, rtol=1e-6, atol=0)
    at_least = np.isclose(weights, least, rtol=1e-6, atol=0) & (least > 0)
    told = []
    for bound, where, kind in ((most, at_most, "highest"), (least, at_least, "lowest")):
        if where.any():
            first, count = int(steps[where][0]), int(where.sum())
            figures[kind] = {"count": count, "first_step": first}
            told.append(f"at its {kind} value, {bound:g}, in {count} of {len(weights)} steps, ")
            told[-1] += f"first at step {first}"
    if told:
        text = f"The weight of {name} was {'; and '.join(told)}: its share was not held there."
    else:
        low, high = float(weights.min()), float(weights.max())
        figures["weights"] = [low, high]
        text = (
            f"The weight of {name} was never at a bound: it was {low:.3g} to {high:.3g}, and may "
        )
        text += f"be {least:g} to {most:g}."
    return Finding("weight", text, figures)


def changes(record: RunRecord) -> Iterator[Finding]:
    """Options that were changed when the run was resumed or forked."""
    for change in record.changes:
        text = f"Options were changed in the run, first in {change}."
        yield Finding("record", text, {"epoch": change.epoch, "options": dict(change.options)})


def nonfinite(record: RunRecord) -> Iterator[Finding]:
    """The first value of a loss, and the first norm of a gradient, that is NaN or infinite."""
    yield from _first_nonfinite(record.losses, "raw", "{name}", "value")
    is_only_weighted = np.isfinite(record.losses["raw"].to_numpy(float))
    rows = record.losses[is_only_weighted]
    yield from _first_nonfinite(rows, "weighted", "{name} with its weight", "such value")
    if record.gradients is not None:
        what = "The norm of the gradient of {name}"
        yield from _first_nonfinite(record.gradients, "norm", what, "norm")


def _first_nonfinite(rows: pd.DataFrame, column: str, what: str, counts: str) -> Iterator[Finding]:
    bad = rows[~np.isfinite(rows[column].to_numpy(float))]
    if not bad.empty:
        row = bad.iloc[0]
        name, step, count = str(row["loss"]), int(row["step"]), len(bad)
        text = f"{what.format(name=name)} was {row[column]} at step {step}, the first of "
        text += f"{counted(count, counts)} that {'is' if count == 1 else 'are'} not finite."
        figures = {"loss": name, "step": step, "count": count, "column": column}
        yield Finding("record", text, figures)
