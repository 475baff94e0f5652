"""Use of processor, memory, disk and GPU, sampled by MLflow itself."""

from __future__ import annotations

import logging
from typing import Any


class SystemMetrics:
    """Logs ``system/...`` to a run, every ten seconds, from a thread of MLflow's.

    Args:
        tracking_uri: Server or database.
        run_id: The run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._tracking_uri = tracking_uri
        self._run_id = run_id
        self._monitor: Any = None
        # That a tracker is away is reported once, by us.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)

    def keep_going(self) -> None:
        """Starts the thread, or starts it again: it ends for ever when the tracker is away."""
        from mlflow.system_metrics import system_metrics_monitor

        # It has no public way to ask.
        if self._monitor is not None and self._monitor._process.is_alive():
            return
        make: Any = system_metrics_monitor.SystemMetricsMonitor
        self._monitor = make(self._run_id, resume_logging=True, tracking_uri=self._tracking_uri)
        self._monitor.start()

    def stop(self) -> None:
        """Ends the thread."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
