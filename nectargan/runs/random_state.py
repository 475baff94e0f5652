"""Saves and restores the states of all random generators."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from nectargan.errors import CheckpointError
from nectargan.wording import one_line


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the generators of Python, NumPy and torch, in types that need no pickle."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": list(random.getstate()),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "mps": torch.mps.get_rng_state() if device.type == "mps" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what `random_state` returned. The state of a device generator is restored only on a
    device of the same type.

    Raises:
        CheckpointError: the state is invalid.
    """
    try:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        if position not in range(len(keys) + 1):
            # NumPy does not check this, and would read out of bounds.
            raise ValueError(f"NumPy's position is {position!r}")
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state["torch"])
        if device.type == "cuda" and state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], device)
        # Checkpoints of version 1.0 do not have it.
        if device.type == "mps" and state.get("mps") is not None:
            torch.mps.set_rng_state(state["mps"])
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = one_line(error)[:200]
        raise CheckpointError(
            f"The checkpoint's random generators cannot be used: {reason}."
        ) from None
