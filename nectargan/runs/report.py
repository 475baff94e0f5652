"""Writes the report of a run at its end, for ``save.report``."""

from __future__ import annotations

import logging

from nectargan.config.schema import Config
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.test_metrics import send_to_mlflow
from nectargan.wording import one_line

log = logging.getLogger("nectargan")


def make_report(directory: RunDirectory, config: Config) -> None:
    """Writes the report of a run into its directory, and logs it to its MLflow run as an artifact.

    A failure is logged as a warning, because the training is complete.

    Args:
        directory: The run directory; its status is the final one.
        config: Its config.
    """
    from nectargan.analysis.report.page import write_report

    try:
        write_report(directory, directory.report)
    except Exception as error:
        # A finished run stays finished, whatever is wrong with its page.
        log.warning("The report of '%s' was not written: %s", directory, one_line(error)[:300])
    else:
        send_to_mlflow(directory, config, "report", lambda run: run.keep(directory.report))
