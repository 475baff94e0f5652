"""Shortens names to the parts in which they differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BREAK = r"[_\-./: \\]"


def distinct_parts(names: Sequence[str]) -> tuple[str, list[str]]:
    """The parts in which names differ, and what they have in common.

    Names are split at separators such as "_": "facades_v1" and "facades_v12" differ in "v1" and
    "v12".

    Returns:
        A pattern such as "facades_…", empty if the names have nothing in common; and the part of
        each name. The parts are unique if the names are.
    """
    if len(set(names)) < 2:
        return "", list(names)
    prefix = _shared([re.split(f"(?<={_BREAK})", name) for name in names])
    rest = [name.removeprefix(prefix) for name in names]
    # Reversed, so that a separator belongs to the text after it.
    suffix = _shared([re.split(f"(?<={_BREAK})", name[::-1]) for name in rest])[::-1]
    parts = [name.removesuffix(suffix) for name in rest]
    if not all(parts):
        return "", list(names)
    return (f"{prefix}…{suffix}" if prefix or suffix else ""), parts


def _shared(pieces: Sequence[Sequence[str]]) -> str:
    """The first pieces that are equal in all lists, except the last piece of a list."""
    count = 0
    while count < min(map(len, pieces)) - 1 and len({each[count] for each in pieces}) == 1:
        count += 1
    return "".join(pieces[0][:count])


def short_keys(keys: Sequence[str]) -> list[str]:
    """Shortens dotted keys to as few of their last parts as keep them unique."""
    parts = [key.split(".") for key in keys]

    def shortest(mine: list[str]) -> str:
        for count in range(1, len(mine)):
            ends = [each[-count:] for each in parts]
            if ends.count(mine[-count:]) == 1:
                return ".".join(mine[-count:])
        return ".".join(mine)

    return [shortest(mine) for mine in parts]
