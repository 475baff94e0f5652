"""Rules for the names of experiments and sinks."""

from __future__ import annotations

import re

# A spreadsheet reads a text that begins with one of these as a formula.
FORMULA = ("=", "+", "-", "@")
# The limit of MLflow.
_LONGEST = 500
EXPERIMENT_NAMES = (
    f"it must be printable text of at most {_LONGEST} characters and must not begin with '=', "
    "'+', '-' or '@' (a spreadsheet would read it as a formula)"
)

SINK_NAMES = (
    "the name of a sink must be 1 to 60 letters, digits or '_', and not tensorboard or mlflow"
)


def is_sink_name(name: str) -> bool:
    """Whether a custom sink may have this name, which is also part of a file name."""
    is_plain = re.fullmatch(r"[A-Za-z0-9_]{1,60}", name) is not None
    return is_plain and name.lower() not in ("tensorboard", "mlflow")


def is_experiment_name(name: str) -> bool:
    """Whether an experiment in MLflow may have this name."""
    is_text = bool(name.strip()) and name.isprintable() and len(name) <= _LONGEST
    return is_text and not name.startswith(FORMULA)
