"""Splits the pairs of a data set into train, val and test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from nectargan.dataset.copies import links_of_copies
from nectargan.dataset.examination import Examination, Progress, no_progress
from nectargan.dataset.pairs import Pair
from nectargan.dataset.preparing.placing import Placed
from nectargan.dataset.suspicions import EMPTY
from nectargan.errors import DataError
from nectargan.sources import Source, digest_of_source
from nectargan.wording import counted


def split_pairs(
    pairs: Sequence[Pair],
    parts: Mapping[str, float],
    seed: int,
    group_by: str | None = None,
    progress: Progress = no_progress,
) -> list[Placed]:
    """Distributes pairs at random.

    Pairs that belong together are in the same part: those of one group, those that share a picture
    (files with equal contents), and those that are similar in A and in B (`links_of_copies`). If
    groups are large, a part can differ from its wanted size by half of a group.

    Args:
        pairs: The pairs; their names are unique.
        parts: Size of "val" and "test": a fraction below 1, or a number of pairs. The remaining
            pairs are "train".
        seed: Seed of the random order. It does not depend on the order of the pairs.
        group_by: A regular expression that is searched for in the name of a pair. The groups that
            it captures, or else its whole match, are the name of the pair's group. A pair without
            a match is a group of its own.
        progress: Makes a progress bar for a number of pairs.

    Returns:
        The pairs in the order of ``pairs``.

    Raises:
        DataError: If a part has no pairs, a file cannot be read, or ``group_by`` is not valid.
    """
    wanted = {part: _count(part, size, len(pairs)) for part, size in parts.items() if size}
    clusters = _clusters(pairs, _group_keys(pairs, group_by), progress)
    clusters.sort(key=lambda cluster: min(pairs[i].name for i in cluster))
    clusters = [clusters[i] for i in np.random.default_rng(seed).permutation(len(clusters))]
    chosen: dict[int, str] = {}
    for part, count in wanted.items():
        left = count
        for cluster in clusters:
            # The cluster is taken if the part is then closer to its size than without it.
            if cluster[0] not in chosen and len(cluster) < 2 * left:
                chosen |= dict.fromkeys(cluster, part)
                left -= len(cluster)
        if left == count:
            smallest = min((len(c) for c in clusters if c[0] not in chosen), default=0)
            raise DataError(
                f"No group fits into '{part}', which is to have {counted(count, 'pair')}: the "
                f"smallest one left has {counted(smallest, 'pair')}."
            )
    if len(chosen) == len(pairs):
        raise DataError("No pairs are left for 'train'; choose a smaller val or test.")
    return [Placed(chosen.get(i, "train"), pair.name, pair) for i, pair in enumerate(pairs)]


def _count(part: str, size: float, total: int) -> int:
    if not (0 < size < 1 or (size >= 1 and float(size).is_integer())):
        raise DataError(f"--{part} {size:g} is neither a fraction below 1 nor a number of pairs.")
    count = round(size * total) if size < 1 else int(size)
    if not 1 <= count < total:
        if total < 2:
            raise DataError("There is only one pair, which cannot be divided.")
        raise DataError(
            f"--{part} {size:g} of {counted(total, 'pair')} would be {count}; choose from 1 "
            f"to {total - 1} pairs, or a fraction."
        )
    return count


def _group_keys(pairs: Sequence[Pair], group_by: str | None) -> list[str | None]:
    if group_by is None:
        return [None] * len(pairs)
    try:
        expression = re.compile(group_by)
    except re.error as error:
        raise DataError(f"{group_by!r} is not a regular expression: {error}.") from None
    found = [expression.search(pair.name) for pair in pairs]
    if not any(found):
        raise DataError(f"{group_by!r} matches no name, such as '{pairs[0].name}'.")
    return [repr(m.groups() or m[0]) if m else None for m in found]


def _clusters(
    pairs: Sequence[Pair], keys: Sequence[str | None], progress: Progress
) -> list[list[int]]:
    """Indices of the pairs that must stay together, by union-find."""
    parents = list(range(len(pairs)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (pair, key) in enumerate(zip(pairs, keys, strict=True)):
        labels = [("content", _digest(path)) for path in (pair.a, pair.b) if path is not None]
        for label in labels + ([("group", key)] if key is not None else []):
            a, b = root(first.setdefault(label, i)), root(i)
            parents[max(a, b)] = min(a, b)
    examination = Examination(progress=progress)
    for _ in examination(pairs):
        pass
    for i, j, _ in links_of_copies(examination.found, np.zeros(len(pairs), np.uint8), EMPTY):
        a, b = root(i), root(j)
        parents[max(a, b)] = min(a, b)
    clusters: dict[int, list[int]] = {}
    for i in range(len(pairs)):
        clusters.setdefault(root(i), []).append(i)
    return list(clusters.values())


def _digest(path: Source) -> str:
    try:
        return digest_of_source(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
