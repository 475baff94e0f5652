"""NectarGAN: a trainer for paired image-to-image GANs, with every weighted loss on record.

`track` is loaded when it is first used: importing the package alone stays cheap.
"""

from __future__ import annotations

from typing import Any

from nectargan.version import __version__

__all__ = ["__version__", "track"]


def __getattr__(name: str) -> Any:
    if name == "track":
        from nectargan.loggers.tracking import track

        return track
    raise AttributeError(f"module 'nectargan' has no attribute '{name}'")
