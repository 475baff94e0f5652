"""What a sentence about a run rests on, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from nectargan.analysis.run_changes import Change
    from nectargan.config.schema import Config

Topic = Literal["pull", "conflict", "balance", "weight", "validation", "record"]


class RunRecord(NamedTuple):
    """What is on record of one run.

    Attributes:
        losses: As from `load_losses`, of one run.
        metrics: As from `load_metrics`, of one run.
        gradients: As from `load_gradients`, of one run; ``None`` or empty if there are none.
        config: The config, if there is one.
        status: The status of the run; empty if it is not known.
        changes: The options that were changed when the run was resumed or forked.
    """

    losses: pd.DataFrame
    metrics: pd.DataFrame
    gradients: pd.DataFrame | None = None
    config: Config | None = None
    status: str = ""
    changes: Sequence[Change] = ()


class Finding(NamedTuple):
    """A sentence about a run.

    Attributes:
        topic: What it is about.
        text: The sentence.
        figures: The figures that it rests on, by name; never empty.
    """

    topic: Topic
    text: str
    figures: dict[str, Any]


def names(frame: pd.DataFrame, column: str = "loss") -> list[str]:
    """The names in a column, in the order of their first appearance."""
    return [str(name) for name in frame[column].unique()]


def means(frame: pd.DataFrame, column: str) -> dict[str, float]:
    """The mean of a column for each loss, the largest first."""
    means = {n: float(frame[column][frame["loss"] == n].mean()) for n in names(frame)}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def percent(part: float) -> str:
    return f"{100 * part:.3g} %"


def percentages(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent(part)}" for name, part in parts.items())


def ranges(epochs: Iterable[int]) -> str:
    """Ascending numbers in words, such as "3 to 5, 9"."""
    runs: list[list[int]] = []
    for epoch in map(int, epochs):
        if runs and epoch == runs[-1][1] + 1:
            runs[-1][1] = epoch
        else:
            runs.append([epoch, epoch])
    return ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in runs)
