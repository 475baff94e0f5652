"""Sends the results of ``nectargan test`` to the MLflow run of a run directory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from nectargan.config.schema import Config
from nectargan.credentials import without_credentials
from nectargan.loggers.mlflow.client import RunClient, connect
from nectargan.loggers.mlflow.run_file import read_run_file
from nectargan.loggers.mlflow.store import find_store
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import TestRecord
from nectargan.runs.checkpoint import load_checkpoint
from nectargan.wording import one_line

log = logging.getLogger("nectargan")


def send_test(
    directory: RunDirectory, config: Config, record: TestRecord, checkpoint: Path
) -> bool:
    """Logs ``test/<metric>`` and the files of the test to the MLflow run. The metrics are linked to
    the data set, and to the logged model if it is from the same step. An error is only a warning.

    Args:
        directory: The run directory.
        config: Its config.
        record: The results of the test.
        checkpoint: The checkpoint that was tested.

    Returns:
        Whether there is an MLflow run and the results were sent.
    """
    return send_to_mlflow(
        directory, config, "test", lambda run: _send(run, directory, record, checkpoint)
    )


def send_to_mlflow(
    directory: RunDirectory, config: Config, what: str, send: Callable[[RunClient], None]
) -> bool:
    """Sends something to the MLflow run of a run directory; logs a warning if that fails.

    Args:
        directory: The run directory.
        config: Its config.
        what: What is sent, in a word such as "report".
        send: Sends it.

    Returns:
        Whether there is an MLflow run and it was sent.
    """
    run_id = read_run_file(directory).get("run_id")
    if not run_id or not config.logging.mlflow.enable:
        return False
    try:
        store = find_store(config.logging.mlflow.tracking_uri, directory.parent, is_new=False)
        send(RunClient(connect(store.uri), run_id))
    except Exception as error:
        # MLflow, its database driver and its network may raise anything.
        reason = without_credentials(one_line(error))[:200]
        log.warning("The %s of '%s' could not be sent to MLflow: %s", what, directory, reason)
        return False
    return True


def _send(run: RunClient, directory: RunDirectory, record: TestRecord, checkpoint: Path) -> None:
    from mlflow.entities import Metric

    step = int(load_checkpoint(checkpoint)["step"])
    outputs = run.client.get_run(run.run_id).outputs
    models = [each.model_id for each in outputs.model_outputs if each.step == step]
    run.log(
        "metrics",
        [
            Metric(
                name,
                value,
                record.time,
                step,
                model_id=models[-1] if models else None,
                dataset_name=record.dataset,
                dataset_digest=record.digest,
            )
            for name, value in record.series.items()
        ],
    )
    for path in (directory.test_values(record.split), directory.test_record(record.split)):
        run.keep(path, "test")
