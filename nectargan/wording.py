"""Helpers for the wording of messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as "1 epoch" or "2 epochs"; nouns in "ss" get "es"."""
    plural = noun + ("es" if noun.endswith("ss") else "s")
    return f"{number} {noun if number == 1 else plural}"


def listed(what: str, problems: Sequence[str]) -> str:
    """Formats problems: a single one as it is, several as one per line below a line with the count.

    Args:
        what: The consequence of the problems, such as "The config cannot be used".
        problems: The sentences; at least one.
    """
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{what}, {counted(len(problems), 'problem')}:", *problems])


def one_line(message: object) -> str:
    """A message, or an error's, in one line, without the SQL query that SQLAlchemy appends."""
    return " ".join(str(message).partition("[SQL: ")[0].split())
