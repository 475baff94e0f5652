"""Logs the use of CPU, memory, disk and GPU with the sampler of MLflow."""

from __future__ import annotations

import logging
from typing import Any


class SystemMetrics:
    """Logs the series ``system/...`` to a run every ten seconds, in a thread of MLflow.

    Args:
        tracking_uri: Server or database.
        run_id: Id of the run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._tracking_uri = tracking_uri
        self._run_id = run_id
        self._monitor: Any = None
        # The follower reports once that MLflow cannot be reached.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)

    def keep_going(self) -> None:
        """Starts the thread, or restarts it: it ends when MLflow cannot be reached."""
        from mlflow.system_metrics import system_metrics_monitor

        # There is no public attribute for this.
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
