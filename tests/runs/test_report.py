"""`save.report`: a page at the end of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from nectargan.cli.closing import closing_lines
from nectargan.config.schema import Config
from nectargan.loggers.mlflow.client import connect
from nectargan.loggers.mlflow.run import read_run_file
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.report import make_report
from nectargan.runs.sinks import synchronize
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.analysis.conftest import make_whole_run
from tests.analysis.report.test_page import data_in


def test_a_run_ends_with_its_report_which_mlflow_has_as_well(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    options = {"logging__mlflow__enable": True, "logging__mlflow__log_model": False}
    trainer = Pix2pixTrainer(tiny(save__report=True, **options))
    run = trainer.train(display=None)
    data = data_in(run.report)
    table = dict(zip(data["table"]["columns"], data["table"]["rows"][0], strict=True))
    assert (table["status"], table["epoch"]) == ("FINISHED", "2")
    assert data["runs"] == [run.name]
    assert f"Report:  {run.report}" in list(closing_lines(trainer, 1))

    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    client = connect(uri)
    run_id = str(read_run_file(run)["run_id"])
    kept = client.download_artifacts(run_id, "report.html", str(tmp_path))
    assert Path(kept).read_bytes() == run.report.read_bytes()
    # What MLflow lost, or never got, is sent later.
    synchronize(run, new_run=True)
    again = str(read_run_file(run)["run_id"])
    assert again != run_id
    assert "report.html" in {file.path for file in client.list_artifacts(again)}
    assert mlflow.active_run() is None


def test_by_default_there_is_none(tiny: Callable[..., Config]) -> None:
    assert not tiny().save.report
    trainer = Pix2pixTrainer(tiny())
    assert not trainer.train(display=None).report.exists()
    assert not any(line.startswith("Report:") for line in closing_lines(trainer, 1))


def test_a_report_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_whole_run(tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.report.mkdir()
    with caplog.at_level(logging.WARNING):
        make_report(run, Config())
    (message,) = caplog.messages
    assert message.startswith(f"The report of '{run}' was not written: '{run.report}' cannot be")
