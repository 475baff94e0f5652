"""Short names for what is side by side: what all have in common says nothing there."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BREAK = r"[_\-./: \\]"


def distinct_parts(names: Sequence[str]) -> tuple[str, list[str]]:
    """What is different in names, and how they are all written.

    A part ends at a break: "facades_v1" and "facades_v12" differ in "v1" and "v12".

    Returns:
        A pattern such as "facades_…", empty if nothing is in common, and the parts, all different
        if the names are.
    """
    if len(set(names)) < 2:
        return "", list(names)
    prefix = _shared([re.split(f"(?<={_BREAK})", name) for name in names])
    rest = [name.removeprefix(prefix) for name in names]
    # Backwards, so that a break belongs to what comes after it.
    suffix = _shared([re.split(f"(?<={_BREAK})", name[::-1]) for name in rest])[::-1]
    parts = [name.removesuffix(suffix) for name in rest]
    if not all(parts):
        return "", list(names)
    return (f"{prefix}…{suffix}" if prefix or suffix else ""), parts


def _shared(pieces: Sequence[Sequence[str]]) -> str:
    """The first pieces that all have in common, but for the last one of each."""
    count = 0
    while count < min(map(len, pieces)) - 1 and len({each[count] for each in pieces}) == 1:
        count += 1
    return "".join(pieces[0][:count])


def short_keys(keys: Sequence[str]) -> list[str]:
    """Dotted keys by as many of their last parts as tell them from each other."""
    parts = [key.split(".") for key in keys]

    def shortest(mine: list[str]) -> str:
        for count in range(1, len(mine)):
            ends = [each[-count:] for each in parts]
            if ends.count(mine[-count:]) == 1:
                return ".".join(mine[-count:])
        return ".".join(mine)

    return [shortest(mine) for mine in parts]
