"""What names may be, wherever they are given."""

from __future__ import annotations

# A spreadsheet takes a text that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@")
# MLflow's own bound.
_LONGEST = 500
EXPERIMENT_NAMES = (
    f"it must be printable text of at most {_LONGEST} characters that does not begin with '=', "
    "'+', '-' or '@', which a spreadsheet takes for a formula"
)


def is_experiment_name(name: str) -> bool:
    """Whether ``name`` can be that of an experiment in MLflow."""
    is_text = bool(name.strip()) and name.isprintable() and len(name) <= _LONGEST
    return is_text and not name.startswith(FORMULA)
