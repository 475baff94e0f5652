"""What names may be, wherever they are given."""

from __future__ import annotations

# A spreadsheet takes a text that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@")
EXPERIMENT_NAMES = (
    "it must be printable text that does not begin with '=', '+', '-' or '@', which a spreadsheet "
    "takes for a formula"
)


def is_experiment_name(name: str) -> bool:
    """Whether ``name`` can be that of an experiment in MLflow."""
    return bool(name.strip()) and name.isprintable() and not name.startswith(FORMULA)
