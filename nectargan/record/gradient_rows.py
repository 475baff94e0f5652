"""The rows of ``gradients.csv``, and the pairwise cosines, from the products of the gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nectargan.losses.lm_data import LONGEST_NAME, GradientEvent
from nectargan.record.ledger import GradientRow


class Products(NamedTuple):
    """The products of the gradients of one step; see `GradientEvent`.

    Attributes:
        step: Step, from 1.
        epoch: Epoch, from 1.
        time: Unix time in milliseconds.
        losses: Names of the losses.
        values: The products, on the CPU, of all images of the step; ``(N, K, K)``.
    """

    step: int
    epoch: int
    time: int
    losses: tuple[str, ...]
    values: Tensor


def pair_series(one: str, other: str) -> str:
    """The series of the cosine between the gradients of two losses."""
    return f"gradient/cosine/{one} vs {other}"


def measure(steps: Sequence[Products]) -> Iterator[tuple[list[GradientRow], dict[str, float]]]:
    """The rows of each step, and its pairwise cosines by `pair_series`.

    Pairs whose names together are too long for the name of a series are left out.
    """
    # Consecutive steps with the same losses are computed together, which is much faster.
    for _, similar in itertools.groupby(steps, lambda each: (each.losses, each.values.shape)):
        group = list(similar)
        losses = group[0].losses
        # 64 bits, because a small loss may stand beside a large one.
        event = GradientEvent(losses, torch.stack([g.values for g in group]).double(), 0, 0)
        measures = torch.stack([event.norms, event.shares, event.cosines], dim=-1).float().numpy()
        pairs = [
            (i, j, pair_series(losses[i], losses[j]))
            for i, j in itertools.combinations(range(len(losses)), 2)
        ]
        pairs = [pair for pair in pairs if len(pair[2]) <= LONGEST_NAME]
        cosines = event.pairwise_cosines.tolist()
        for at, of_losses, of_pairs in zip(group, measures, cosines, strict=True):
            place = at.step, at.epoch, at.time
            yield (
                [GradientRow(*place, n, *m) for n, m in zip(losses, of_losses, strict=True)],
                {name: of_pairs[i][j] for i, j, name in pairs},
            )
