"""Whoever answers in MLflow's place is an outage, and nothing that was sent to it is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nectargan.analysis.trackers import MLflowSource
from nectargan.errors import RunError
from nectargan.loggers.mlflow.client import check_reachable
from nectargan.loggers.mlflow.metadata import RunMetadata
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.record.follower import Point
from tests.loggers.gate import gate_to

from .test_sink import Server, directory, history, only_run, server

__all__ = ["directory", "server"]

NOT_MLFLOW = "is not MLflow"
STRANGE = {
    "nothing in it": (b"{}", "application/json"),
    "an empty body": (b"", "application/json"),
    "of another program": (b'{"status": "ok", "runs": []}', "application/json"),
    "ids without a value": (
        b'{"experiment_id": "", "experiment": {"experiment_id": ""}, "run": {"info": {}}}',
        "application/json",
    ),
    "a list": (b"[]", "application/json"),
    "null": (b"null", "application/json"),
    "a login page": (b"<html>Accept our terms</html>", "text/html"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_an_answer_that_is_not_mlflows_is_an_outage(
    kind: str, directory: Path, store: str, tmp_path: Path
) -> None:
    sink = MLflowSink("", "faces", directory)
    with gate_to("http://127.0.0.1:9") as gate:
        gate.answer, gate.content_type = STRANGE[kind]
        with pytest.raises(RunError, match=f"cannot be reached at '{gate.uri}'"):
            check_reachable(gate.uri)
        with pytest.raises(RunError, match=f"cannot be reached at '{gate.uri}'"):
            MLflowSource("abc", gate.uri)
        sink.tracking_uri = gate.uri
        for _ in range(2):
            with pytest.raises(Exception, match=r"is not MLflow|JSON"):
                sink.open(0)
        assert sink.run_id is None
    # The same run, once MLflow is there.
    sink.tracking_uri = store
    sink.open(0)
    sink.close("FINISHED", "")
    assert only_run(store, "faces").info.run_id == sink.run_id


def test_an_empty_id_that_was_once_believed(directory: Path, store: str) -> None:
    (directory / "mlflow_run.json").write_text(json.dumps({"mark": "abc", "run_id": ""}))
    sink = MLflowSink(store, "faces", directory)
    sink.open(0)
    assert only_run(store, "faces").info.run_id == sink.run_id
    assert json.loads((directory / "mlflow_run.json").read_text())["run_id"] == sink.run_id


@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_nothing_is_lost_to_a_login_page(server: Server, directory: Path) -> None:
    with gate_to(server.uri) as gate:
        sink = MLflowSink(gate.uri, "faces", directory, RunMetadata({"a": 1}))
        check_reachable(gate.uri)
        sink.open(0)
        one, two, three = (Point("loss/a/raw", step / 8, step, step) for step in (1, 2, 3))
        sink.write([one])
        gate.answer = b"{}"
        with pytest.raises(RunError, match=NOT_MLFLOW):
            sink.write([two])
        with pytest.raises(RunError, match=NOT_MLFLOW):
            sink.close("FINISHED", "")
        gate.answer = None
        sink.write([two, three])
        sink.close("FINISHED", "")
        run = only_run(server.uri, "faces")
        assert run.info.status == "FINISHED"
        assert history(server.uri, run, "loss/a/raw") == [(s, s / 8, s) for s in (1, 2, 3)]
        names = {each.path for each in MlflowClient(gate.uri).list_artifacts(run.info.run_id)}
        assert {"config.json", "losses.csv"} <= names
