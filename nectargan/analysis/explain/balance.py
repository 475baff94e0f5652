"""Sentences about the balance of generator and discriminator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nectargan.analysis.explain.finding import Finding, RunRecord, names, percent

# A discriminator that guesses is right half of the time. One that is right 19 times in 20 has wrong
# only what looks real by chance, and no longer says which change would look more real.
D_WINS = 0.95
# With no accuracy on record, its loss as a part of that of a discriminator that guesses.
D_WINS_LOSS = 0.1
GUESSING = {"vanilla": 2 * math.log(2), "lsgan": 0.5, "hinge": 2.0}
# It must last for this part of the steps on record: single windows go up and down.
LASTING = 0.1
# The steps of a window over which losses of D are averaged; one batch says little.
WINDOW = 50
ACCURACY = "discriminator/accuracy"
_LOSSES_OF_D = ("D_real", "D_fake")


def balance(record: RunRecord) -> Iterator[Finding]:
    """When the discriminator won, if it did."""
    first = int(record.losses["step"].min())
    points = record.metrics[record.metrics["metric"] == ACCURACY].dropna(subset=["value"])
    if not points.empty:
        steps, values = points["step"].to_numpy(), points["value"].to_numpy(float)
        won, what = values >= D_WINS, f"its accuracy was at least {percent(D_WINS)}"
        yield _d_won(first, steps, values, won, what, "accuracy") or _d_did_not_win(steps, values)
        return
    mode = record.config.train.gan_mode if record.config else None
    losses = record.losses
    mine = losses[losses["loss"].isin(_LOSSES_OF_D)].dropna(subset=["raw"])
    if mode is None or not set(_LOSSES_OF_D) <= set(names(mine)):
        return
    totals = mine.groupby("step")["raw"].sum()
    windows = totals.groupby((totals.index - totals.index[0]) // WINDOW)
    values = windows.mean().to_numpy(float)
    steps = np.array([int(window.index[-1]) for _, window in windows])
    limit = D_WINS_LOSS * GUESSING[mode]
    what = f"its loss D_real + D_fake was at most {limit:.3g}, a tenth of that of guessing"
    finding = _d_won(first, steps, values, values <= limit, what, "loss")
    if finding:
        yield finding


def _d_won(first: int, steps: Any, values: Any, won: Any, what: str, kind: str) -> Finding | None:
    """The first stretch of windows in which D won, if it lasted.

    Args:
        first: The first step of the first window.
        steps: The last step of each window.
        values: The mean of each window.
        won: Whether D won in it.
        what: What that means, for the sentence.
        kind: Name of the values, "accuracy" or "loss".
    """
    begins = np.concatenate([[first], steps[:-1] + 1])
    long = LASTING * (steps[-1] - first + 1)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], won.astype(int), [0]])))
    for start, end in zip(changes[::2], changes[1::2], strict=True):
        begin, last = int(begins[start]), int(steps[end - 1])
        if last - begin + 1 >= long:
            mean = float(values[start:end].mean())
            until = "the end" if end == len(steps) else f"step {last}"
            shown = percent(mean) if kind == "accuracy" else f"{mean:.3g}"
            text = f"D won at step {begin}: {what} from there to {until} (mean {shown})."
            return Finding("balance", text, {"step": begin, "last_step": last, kind: mean})
    return None


def _d_did_not_win(steps: Any, values: Any) -> Finding:
    mean, most = float(values.mean()), int(values.argmax())
    text = f"D did not win: its accuracy was {percent(mean)} on average and at most "
    text += f"{percent(float(values[most]))} (step {int(steps[most])})."
    return Finding(
        "balance", text, {"accuracy": mean, "most": float(values[most]), "step": int(steps[most])}
    )
