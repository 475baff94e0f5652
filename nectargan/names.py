"""What names may be, wherever they are given."""

from __future__ import annotations

import re

# A spreadsheet takes a text that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@")
# MLflow's own bound.
_LONGEST = 500
EXPERIMENT_NAMES = (
    f"it must be printable text of at most {_LONGEST} characters that does not begin with '=', "
    "'+', '-' or '@', which a spreadsheet takes for a formula"
)

SINK_NAMES = (
    "the name of a sink must be 1 to 60 letters, digits or '_', and neither tensorboard nor mlflow"
)


def is_sink_name(name: str) -> bool:
    """Whether a sink of one's own can have a name: the file of its cursor has it as well."""
    is_plain = re.fullmatch(r"[A-Za-z0-9_]{1,60}", name) is not None
    return is_plain and name.lower() not in ("tensorboard", "mlflow")


def is_experiment_name(name: str) -> bool:
    """Whether ``name`` can be that of an experiment in MLflow."""
    is_text = bool(name.strip()) and name.isprintable() and len(name) <= _LONGEST
    return is_text and not name.startswith(FORMULA)
