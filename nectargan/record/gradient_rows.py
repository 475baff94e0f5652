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
        losses: Names of the K losses.
        values: The products, on the CPU, of the N images of this process; ``(N, K, K)``.
        images: Images of the step, of all processes.
    """

    step: int
    epoch: int
    time: int
    losses: tuple[str, ...]
    values: Tensor
    images: int


def pair_series(one: str, other: str) -> str:
    """The series of the cosine between the gradients of two losses."""
    return f"gradient/cosine/{one} vs {other}"


def sums_over_images(steps: Sequence[Products]) -> Tensor:
    """What `measure` needs: sums over the images of this process, one step after the other.

    The sums of several processes can be added. Their size does not depend on the number of images.

    Returns:
        Float64 ``(n,)``; for each step, sums of K norms, of K cosines and how many are defined, and
        the same of ``K * K`` pairwise cosines.
    """
    parts = [torch.empty(0, dtype=torch.float64)]
    # Consecutive steps with the same losses are computed together, which is much faster.
    for _, similar in itertools.groupby(steps, lambda each: (each.losses, each.values.shape)):
        group = list(similar)
        # 64 bits, because a small loss may stand beside a large one.
        products = torch.stack([each.values for each in group]).double()
        event = GradientEvent(group[0].losses, products, 0, 0)
        norms = products.diagonal(dim1=-2, dim2=-1).sqrt().sum(dim=1)
        sums = [norms]
        for cosines in (event.image_cosines, event.pairwise_image_cosines):
            are_defined = (~cosines.isnan()).sum(dim=1)
            sums += [cosines.nansum(dim=1).flatten(1), are_defined.flatten(1)]
        parts.append(torch.cat(sums, dim=1).flatten())
    return torch.cat(parts)


def measure(
    steps: Sequence[Products], sums: Tensor
) -> Iterator[tuple[list[GradientRow], dict[str, float]]]:
    """The rows of each step, and its pairwise cosines by `pair_series`.

    Pairs whose names together are too long for the name of a series are left out.

    Args:
        steps: The steps.
        sums: What `sums_over_images` returned for them, the sum over all processes.
    """
    for losses, similar in itertools.groupby(steps, lambda each: each.losses):
        group, k = list(similar), len(losses)
        sizes = [k, k, k, k * k, k * k]
        own = sums[: len(group) * sum(sizes)]
        sums = sums[len(own) :]
        norms, cosines, defined, pairs, pairs_defined = torch.split(
            own.view(len(group), -1), sizes, dim=1
        )
        norms = norms / torch.tensor([[each.images] for each in group])
        shares = norms / norms.sum(dim=1, keepdim=True)
        measures = torch.stack([norms, shares, cosines / defined], dim=-1)
        of_pairs = (pairs / pairs_defined).view(-1, k, k).tolist()
        named = [
            (i, j, pair_series(losses[i], losses[j]))
            for i, j in itertools.combinations(range(k), 2)
        ]
        named = [pair for pair in named if len(pair[2]) <= LONGEST_NAME]
        for at, of_losses, matrix in zip(group, measures.float().numpy(), of_pairs, strict=True):
            place = at.step, at.epoch, at.time
            yield (
                [GradientRow(*place, n, *m) for n, m in zip(losses, of_losses, strict=True)],
                {name: matrix[i][j] for i, j, name in named},
            )
