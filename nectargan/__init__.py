"""NectarGAN: a trainer for paired image-to-image GANs that records every weighted loss.

The names in ``__all__`` are the public API. Each one is imported on first use, so that importing
the package does not import torch or any other slow module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nectargan.version import __version__

if TYPE_CHECKING:
    from nectargan.analysis.frames import load_gradients, load_losses, load_metrics, load_runs
    from nectargan.config.config_manager import load_config
    from nectargan.config.schema import Config
    from nectargan.errors import NectarGANError
    from nectargan.inference.model import load_model
    from nectargan.loggers.tracking import track
    from nectargan.losses.lm_data import LMLoss, LossEvent
    from nectargan.losses.loss_manager import LossManager
    from nectargan.record.tracker import Tracker
    from nectargan.runs.checkpoint import load_generator
    from nectargan.scheduling.data import Schedule
    from nectargan.scheduling.scheduler import Scheduler
    from nectargan.scheduling.scheduler_torch import TorchScheduler
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

__all__ = [
    "Config",
    "LMLoss",
    "LossEvent",
    "LossManager",
    "NectarGANError",
    "Pix2pixTrainer",
    "Schedule",
    "Scheduler",
    "TorchScheduler",
    "Tracker",
    "__version__",
    "load_config",
    "load_generator",
    "load_gradients",
    "load_losses",
    "load_metrics",
    "load_model",
    "load_runs",
    "track",
]

_MODULES = {
    "Config": "config.schema",
    "LMLoss": "losses.lm_data",
    "LossEvent": "losses.lm_data",
    "LossManager": "losses.loss_manager",
    "NectarGANError": "errors",
    "Pix2pixTrainer": "trainers.pix2pix_trainer",
    "Schedule": "scheduling.data",
    "Scheduler": "scheduling.scheduler",
    "TorchScheduler": "scheduling.scheduler_torch",
    "Tracker": "record.tracker",
    "load_config": "config.config_manager",
    "load_generator": "runs.checkpoint",
    "load_gradients": "analysis.frames",
    "load_losses": "analysis.frames",
    "load_metrics": "analysis.frames",
    "load_model": "inference.model",
    "load_runs": "analysis.frames",
    "track": "loggers.tracking",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nectargan' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"nectargan.{_MODULES[name]}"), name)
    globals()[name] = value  # the next access does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
