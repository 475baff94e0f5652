"""Where example grids are, and what their names say."""

from __future__ import annotations

import re

EXAMPLES_FOLDER = "examples"

_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.png")


def example_name(epoch: int, step: int) -> str:
    """File name of the example grid of an epoch that ended with ``step``."""
    return f"epoch_{epoch:04d}_step_{step:08d}.png"


def example_step(name: str) -> int | None:
    """The step in the name of an example grid; ``None`` for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[2]) if match else None
