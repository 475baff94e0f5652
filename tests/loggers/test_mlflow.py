from __future__ import annotations

import math
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from nectargan.loggers.base import Point
from nectargan.loggers.mlflow import MLflowSink, default_tracking_uri


def only_run(uri: str, experiment: str) -> Run:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id])
    return run


def history(uri: str, run: Run, key: str) -> list[tuple[int, float, int]]:
    metrics = MlflowClient(uri).get_metric_history(run.info.run_id, key)
    return [(m.step, m.value, m.timestamp) for m in metrics]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A run directory with the files that become artifacts."""
    path = tmp_path / "faces_v3"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "losses.csv").write_text("step\n")
    (path / "metrics.csv").write_text("step\n")
    return path


def test_a_run_has_its_points_params_tags_and_files(store: str, directory: Path) -> None:
    params = {f"p{i}": i for i in range(230)} | {"train.loss.G_L1.schedule": "linear"}
    sink = MLflowSink(store, "faces", directory, params, {"git.commit": "abc"})
    sink.open(0)
    # More than MLflow takes in one call.
    points = [Point("loss/a/raw", step / 7, step, 5000 + step) for step in range(1, 1500)]
    sink.write(points)
    sink.write(points[:10])  # sent again, as after a failure in the middle
    sink.close("FINISHED", "")
    run = only_run(store, "faces")
    assert (run.info.run_name, run.info.status) == ("faces_v3", "FINISHED")
    assert run.info.run_id == sink.run_id
    assert history(store, run, "loss/a/raw") == [(p.step, p.value, p.time) for p in points]
    assert run.data.params == {key: str(value) for key, value in params.items()}
    assert run.data.tags["git.commit"] == "abc"
    client = MlflowClient(store)
    assert {a.path for a in client.list_artifacts(sink.run_id)} == {
        "config.json",
        "losses.csv",
        "metrics.csv",
    }


def test_infinities_are_not_sent_and_nan_is(store: str, directory: Path) -> None:
    sink = MLflowSink(store, "faces", directory)
    sink.open(0)
    values = [1.0, math.inf, math.nan, -math.inf, 2.0]
    points = [Point("x", value, step, step) for step, value in enumerate(values, start=1)]
    sink.write(points)
    sink.write(points)
    sink.close("FAILED", "")
    run = only_run(store, "faces")
    got = history(store, run, "x")
    assert [step for step, _, _ in got] == [1, 3, 5]
    assert math.isnan(got[1][1])
    assert run.info.status == "FAILED"


def test_artifacts_lie_beside_the_database(store: str, directory: Path, tmp_path: Path) -> None:
    sink = MLflowSink(store, "faces", directory)
    sink.open(0)
    picture = directory / "grid.png"
    picture.write_bytes(b"png")
    sink.add_example(picture, 40)
    sink.add_example(picture, 40)
    (kept,) = (tmp_path / "mlartifacts" / "faces").rglob("grid.png")
    assert kept.parent.name == "examples"
    assert kept.read_bytes() == b"png"


def test_two_runs_share_an_experiment(store: str, directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "faces_v4"
    other.mkdir()
    for path in (directory, other):
        MLflowSink(store, "faces", path).open(0)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("faces")
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {"faces_v3", "faces_v4"}


def test_opening_again_does_not_make_a_second_run(store: str, directory: Path) -> None:
    sink = MLflowSink(store, "faces", directory, params={"a": 1})
    sink.open(0)
    first = sink.run_id
    sink.open(0)
    assert sink.run_id == first
    only_run(store, "faces")


def test_the_default_store(tmp_path: Path) -> None:
    assert default_tracking_uri(tmp_path) == f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}"


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "server.db").write_bytes(empty_store.read_bytes())
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "served")]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=2):  # noqa: S310
                    break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)
        yield uri
    finally:
        import os
        import signal

        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_a_real_server(server: str, directory: Path, tmp_path: Path) -> None:
    sink = MLflowSink(server, "faces", directory, params={"a": 1})
    sink.open(0)
    sink.write([Point("loss/a/raw", 0.5, 10, 1234)])
    sink.close("KILLED", "")
    run = only_run(server, "faces")
    assert run.info.status == "KILLED"
    assert history(server, run, "loss/a/raw") == [(10, 0.5, 1234)]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "the server keeps the files"
    assert len(list((tmp_path / "served").rglob("losses.csv"))) == 1
