"""How numbers of things are written, in every message alike."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """A number and its noun, "1 epoch" or "2 epochs"; a word with "ss" at its end gets "es"."""
    plural = noun + ("es" if noun.endswith("ss") else "s")
    return f"{number} {noun if number == 1 else plural}"


def listed(what: str, problems: Sequence[str]) -> str:
    """One problem as it is, several below a line that counts them, one a line.

    Args:
        what: What they are problems of, as in "The config cannot be used".
        problems: The sentences; at least one.
    """
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{what}, {counted(len(problems), 'problem')}:", *problems])


def in_short(error: BaseException) -> str:
    """The message of an error in one line, without the query that SQLAlchemy adds to its own."""
    return " ".join(str(error).partition("[SQL: ")[0].split())
