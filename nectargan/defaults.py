"""Default values that the config and the classes that are used without one share."""

from __future__ import annotations

TENSORBOARD_EVERY_N_STEPS = 10
MLFLOW_EVERY_N_STEPS = 50
WINDOW_STEPS = 50
WINDOW_SECONDS = 2.0
