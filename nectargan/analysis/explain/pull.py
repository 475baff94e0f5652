"""Sentences about the pull of each loss: its share, how it moved, and pairs that conflict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nectargan.analysis.explain.finding import (
    Finding,
    RunRecord,
    means,
    names,
    percent,
    percentages,
    ranges,
)
from nectargan.wording import counted

if TYPE_CHECKING:
    import pandas as pd

# A share that moves by less than this is not mentioned; between epochs it varies by a few points.
MOVED = 0.05
# Two losses pull against each other below this cosine, which is an angle of 96 degrees. Gradients
# at images have so many elements that the cosine of unrelated ones is within a hundredth of 0.
AGAINST = -0.1
PAIR = "gradient/cosine/"


def pull(record: RunRecord) -> Iterator[Finding]:
    """The share of each loss in the last epoch, by its gradient and by its value."""
    gradients, losses = record.gradients, record.losses
    if gradients is None or gradients.empty:
        yield from _values(losses, "not on record (no gradients)")
        return
    known = _with_shares(gradients)
    if known.empty:
        yield from _values(
            losses, "not known (in no step were all gradients finite, and one not 0)"
        )
        return
    epoch = int(known["epoch"].max())
    last = known[known["epoch"] == epoch]
    shares = means(last, "share")
    values = _parts(losses[losses["epoch"] == epoch], shares)
    steps = int(last["step"].nunique())
    text = f"In epoch {epoch} the pull on the generated images was {percentages(shares)} "
    text += f"(mean share of the gradient in {counted(steps, 'step')})"
    text += f"; by value the losses were {percentages(values)}." if values else "."
    figures = {"epoch": epoch, "steps": steps, "share": shares}
    yield Finding("pull", text, figures | ({"value": values} if values else {}))


def _with_shares(gradients: pd.DataFrame) -> pd.DataFrame:
    """The rows of the steps in which the share of every loss is defined."""
    return gradients[gradients["share"].notna().groupby(gradients["step"]).transform("all")]


def _is_undefined(gradients: pd.DataFrame | None) -> bool:
    """Whether gradients are on record, but say nothing."""
    return gradients is not None and not gradients.empty and _with_shares(gradients).empty


def _values(losses: pd.DataFrame, why: str) -> Iterator[Finding]:
    """What can be said of a run without gradients."""
    epoch = int(losses["epoch"].max())
    last = losses[losses["epoch"] == epoch]
    values = _parts(last, [name for name in names(last) if not name.startswith("D_")])
    if values:
        text = f"By value, the losses of the generator were {percentages(values)} in epoch {epoch}"
        text += f"; how strongly each of them pulled is {why}."
        yield Finding("pull", text, {"epoch": epoch, "value": values})


def moves(record: RunRecord) -> Iterator[Finding]:
    """Losses whose share is not what it was in the first epoch."""
    gradients = record.gradients
    if gradients is None or gradients.empty:
        return
    known = _with_shares(gradients)
    for name in names(known):
        means = known[known["loss"] == name].groupby("epoch")["share"].mean()
        first, last = float(means.iloc[0]), float(means.iloc[-1])
        if abs(last - first) >= MOVED:
            begin, end = int(means.index[0]), int(means.index[-1])
            text = f"The share of {name} {'rose' if last > first else 'fell'} from "
            text += f"{percent(first)} in epoch {begin} to {percent(last)} in epoch {end}."
            yield Finding(
                "pull", text, {"loss": name, "epochs": [begin, end], "share": [first, last]}
            )


def _parts(losses: pd.DataFrame, names: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """The part of each loss in the sum of their magnitudes, by their mean weighted values."""
    finite = losses[np.isfinite(losses["weighted"].to_numpy(float))]
    sizes = {n: abs(v) for n, v in means(finite, "weighted").items() if n in names}
    total = sum(sizes.values())
    if not total or len(sizes) < sum(name in names for name in means(losses, "weighted")):
        return {}  # a loss that was never finite has no part
    return {name: size / total for name, size in sizes.items()}


def conflicts(record: RunRecord) -> Iterator[Finding]:
    """Pairs that pulled against each other, and when; else the pair that came nearest to it."""
    if _is_undefined(record.gradients):
        return
    known = set(names(record.losses))
    metrics = record.metrics.dropna(subset=["value"])
    lowest: tuple[float, int, str] | None = None
    found, on_record = False, set[int]()
    for series in names(metrics, "metric"):
        one, _, other = series.removeprefix(PAIR).partition(" vs ")
        if not series.startswith(PAIR) or not {one, other} <= known:
            continue
        points = metrics[metrics["metric"] == series]
        epochs, cosines = points["epoch"].to_numpy(), points["value"].to_numpy(float)
        least = int(cosines.argmin())
        on_record |= set(epochs.tolist())
        worst, at, pair = float(cosines[least]), int(epochs[least]), f"{one} and {other}"
        lowest = min(lowest or (worst, at, pair), (worst, at, pair))
        against = epochs[cosines < AGAINST]
        if not len(against):
            continue
        found = True
        mean = float(cosines[cosines < AGAINST].mean())
        text = f"{pair} pulled against each other in {len(against)} of "
        text += f"{counted(len(epochs), 'epoch')}, {ranges(against)}: the cosine was {mean:.2f} on "
        text += f"average there, and lowest in epoch {at}, {worst:.2f}."
        yield Finding(
            "conflict",
            text,
            {
                "losses": [one, other],
                "epochs": [int(epoch) for epoch in against],
                "cosine": mean,
                "lowest": worst,
                "lowest_epoch": at,
            },
        )
    if lowest is not None and not found:
        worst, at, pair = lowest
        # Gradients may have been recorded in a part of the run alone.
        is_whole = on_record >= set(record.losses["epoch"].unique().tolist())
        when = "" if is_whole else f" in the epochs with gradients, {ranges(sorted(on_record))}"
        text = (
            f"No pair of losses pulled against each other{when}: the lowest cosine was "
            f"{worst:.2f}, of "
        )
        text += f"{pair} in epoch {at}."
        yield Finding(
            "conflict", text, {"losses": pair.split(" and "), "lowest": worst, "lowest_epoch": at}
        )
