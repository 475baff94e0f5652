"""Tables and pictures of runs, made from their records.

pandas is imported when the first of these functions is used.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_gradients", "load_losses", "load_metrics", "load_runs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from nectargan.analysis import frames

        return getattr(frames, name)
    raise AttributeError(f"module 'nectargan.analysis' has no attribute '{name}'")
