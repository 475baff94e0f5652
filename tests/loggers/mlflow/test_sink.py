from __future__ import annotations

import http.server
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image

from nectargan.loggers.mlflow.metadata import RunMetadata
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.mlflow.store import find_store
from nectargan.loggers.tracking import Tracker
from nectargan.losses.loss_manager import LossManager
from nectargan.record.ledger import Ledger, LossRow, MetricRow
from nectargan.record.points import Point
from tests.processes import PATIENCE, wait_until


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
    Ledger(path / "losses.csv", LossRow).close()
    Ledger(path / "metrics.csv", MetricRow).close()
    return path


def test_a_run_has_its_points_params_tags_and_files(store: str, directory: Path) -> None:
    params = {f"p{i}": i for i in range(230)} | {"train.loss.G_L1.schedule": "linear"}
    sink = MLflowSink(store, "faces", directory, RunMetadata(params, {"git.commit": "abc"}))
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


def test_infinities_are_series_of_their_own_and_nan_is_sent(store: str, directory: Path) -> None:
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
    assert history(store, run, "infinite/x") == [(2, 1.0, 2), (4, -1.0, 4)]
    assert run.info.status == "FAILED"


def test_artifacts_are_beside_the_database(store: str, directory: Path, tmp_path: Path) -> None:
    sink = MLflowSink(store, "faces", directory)
    sink.open(0)
    (config,) = (tmp_path / "mlartifacts" / "faces").rglob("config.json")
    assert config.read_text() == "{}"


def test_a_picture_is_in_the_image_grid_once_however_often_it_is_sent(
    store: str, directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MLflowSink(store, "faces", directory)
    sink.open(0)
    picture = directory / "grid.png"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    for step in (40, 40, 80):
        sink.add_file("examples", picture, step)
    sink.add_file("histograms", picture, 80)
    kept = sorted((tmp_path / "mlartifacts" / "faces").rglob("images/*"))
    # MLflow's UI reads key, step and time from the names.
    assert [path.name.split("+")[:3] for path in kept] == [["examples", "step", "40"]] * 2 + [
        ["examples", "step", "80"]
    ] * 2
    assert [path.suffix for path in kept] == [".webp", ".png"] * 2
    assert np.array_equal(np.asarray(Image.open(kept[1])), pixels)
    assert Image.open(kept[0]).size == (500, 300), "as it was made"
    assert only_run(store, "faces").data.tags["mlflow.loggedImages"] == "True"

    picture.write_bytes(b"no picture")
    sink.add_file("examples", picture, 120)
    assert "cannot be sent to MLflow" in caplog.text


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
    sink = MLflowSink(store, "faces", directory, RunMetadata({"a": 1}))
    sink.open(0)
    first = sink.run_id
    sink.open(0)
    assert sink.run_id == first
    only_run(store, "faces")


def test_the_default_store(tmp_path: Path) -> None:
    assert find_store(None, tmp_path).uri == f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}"


class Server:
    """A real MLflow server on a port of this machine, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self._folder / "served")]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, alive=lambda: self._process.poll() is None)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):  # noqa: S310
                return True
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server.db").write_bytes(empty_store.read_bytes())
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_a_real_server(server: Server, directory: Path, tmp_path: Path) -> None:
    sink = MLflowSink(server.uri, "faces", directory, RunMetadata({"a": 1}))
    sink.open(0)
    sink.write([Point("loss/a/raw", 0.5, 10, 1234)])
    sink.close("KILLED", "")
    run = only_run(server.uri, "faces")
    assert run.info.status == "KILLED"
    assert history(server.uri, run, "loss/a/raw") == [(10, 0.5, 1234)]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "the server keeps the files"
    assert len(list((tmp_path / "served").rglob("losses.csv"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_a_server_that_dies_and_comes_back_gets_everything(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop goes on meanwhile; one warning when it is away, one when it is back."""
    losses = LossManager()
    losses.register_loss_fn("a", lambda x: x)
    sink = MLflowSink(server.uri, "faces", tmp_path / "run", every_n_steps=1)
    step = 0

    def work(steps: int) -> None:
        nonlocal step
        for _ in range(steps):
            step += 1
            losses.start_step(1, step)
            losses.compute_loss("a", torch.tensor(step / 8))

    caplog.set_level(logging.WARNING, "nectargan")
    run = tmp_path / "run"
    with Tracker(losses, run, [sink], window_steps=5, drain_seconds=PATIENCE) as tracker:
        work(20)
        tracker.flush()
        wait_until(lambda: "loss/a/raw" in only_run_or_none(server.uri))
        server.kill()
        work(40)
        tracker.flush()
        wait_until(lambda: len(said(caplog)) == 1)
        server.start()
        wait_until(lambda: len(said(caplog)) == 2)
        work(20)
    messages = said(caplog)
    assert messages[0].startswith("MLflow is behind: ")
    assert messages[1:] == ["MLflow is back"]
    mlrun = only_run(server.uri, "faces")
    assert mlrun.info.status == "FINISHED"
    got = [(s, v) for s, v, _ in history(server.uri, mlrun, "loss/a/raw")]
    assert got == [(s, s / 8) for s in range(1, 81)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What our own logger said; MLflow and its libraries have things to say as well."""
    return [r.getMessage() for r in list(caplog.records) if r.name == "nectargan"]


def only_run_or_none(uri: str) -> dict[str, float]:
    try:
        return only_run(uri, "faces").data.metrics
    except (AttributeError, ValueError):
        return {}


def test_a_server_that_never_answers_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Whoever waited for the server would wait for longer than a test may take.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        losses = LossManager()
        losses.register_loss_fn("a", lambda x: x)
        sink = MLflowSink(uri, "faces", tmp_path / "run")
        with Tracker(losses, tmp_path / "run", [sink], drain_seconds=0.5):
            losses.compute_loss("a", torch.tensor(1.0))
    # The thread that was given up may still say, last of all, why it could not go on.
    said = [record.getMessage() for record in caplog.records]
    assert sum(text.startswith("MLflow did not get everything") for text in said) == 1
    assert (tmp_path / "run" / "losses.csv").read_text().count("\n") == 2


def test_one_refused_metric_or_param_takes_no_others_with_it(
    store: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = {f"p{i}": i for i in range(150)} | {"a//b": 1, "fine": 2}
    sink = MLflowSink(store, "faces", directory, RunMetadata(params))
    sink.open(0)
    good = [Point("good", i, i, i) for i in range(1, 8)]
    sink.write([*good[:3], Point("bad//name", 1.0, 1, 1), *good[3:], Point("../x", 1.0, 1, 1)])
    sink.close("FINISHED", "")
    run = only_run(store, "faces")
    assert history(store, run, "good") == [(i, i, i) for i in range(1, 8)]
    assert len(run.data.params) == 151
    assert run.data.params["fine"] == "2"
    refused = [r.getMessage() for r in caplog.records if "refuses" in r.getMessage()]
    assert [text.split("'")[1] for text in refused] == ["a//b", "bad//name", "../x"]


def test_a_resumed_run_continues_the_same_mlflow_run(store: str, directory: Path) -> None:
    def measure(steps: range) -> list[Point]:
        rows = [MetricRow(i, 1, 100 + i, "a", i / 3) for i in steps]
        ledger = Ledger(directory / "metrics.csv", MetricRow, resume=True)
        ledger.append(rows)
        ledger.close()
        return [Point(row.metric, row.value, row.step, row.time) for row in rows]

    first = MLflowSink(store, "faces", directory, RunMetadata({"lr": 1, "same": 5}))
    first.open(0)
    first.write(measure(range(1, 6)))
    first.close("KILLED", "out of patience")
    run = only_run(store, "faces")
    assert run.data.tags["reason"] == "out of patience"

    again = MLflowSink(store, "faces", directory, RunMetadata({"lr": 2, "same": 5, "new": 3}))
    assert again.open(6) is None
    assert only_run(store, "faces").info.status == "RUNNING"
    again.write(measure(range(6, 9)))
    again.close("FINISHED", "")
    again_run = only_run(store, "faces")
    assert (again_run.info.run_id, again_run.info.status) == (run.info.run_id, "FINISHED")
    assert history(store, run, "a") == [(i, i / 3, 100 + i) for i in range(1, 9)]
    assert again_run.data.params == {"lr": "1", "same": "5", "new": "3"}
    assert again_run.data.tags["changed_parameters"] == "lr: 1 → 2"
    MLflowSink(store, "faces", directory, RunMetadata({"lr": 1, "same": 6})).open(9)
    assert only_run(store, "faces").data.tags["changed_parameters"] == "same: 5 → 6"
    MLflowSink(store, "faces", directory, RunMetadata({"lr": 1, "same": 5})).open(9)
    assert only_run(store, "faces").data.tags["changed_parameters"] == "none any more"


def test_a_process_that_died_while_making_its_run_leaves_one_run(
    store: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = MLflowSink(store, "faces", directory)
    first.open(0)
    path = directory / "mlflow_run.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "run_id": None}))
    again = MLflowSink(store, "faces", directory)
    again.open(0)
    assert again.run_id == first.run_id
    only_run(store, "faces")


class _Broken(http.server.BaseHTTPRequestHandler):
    """Answers everything with 500."""

    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Silence."""


def test_a_server_that_answers_500_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Broken) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{broken.server_address[1]}"
        losses = LossManager()
        losses.register_loss_fn("a", lambda x: x)
        sink = MLflowSink(uri, "faces", tmp_path / "run")
        with Tracker(losses, tmp_path / "run", [sink], drain_seconds=2.5):
            losses.compute_loss("a", torch.tensor(1.0))
            wait_until(lambda: len(said(caplog)) == 1)
        broken.shutdown()
    behind, not_everything = said(caplog)
    assert behind.startswith("MLflow is behind: ")
    assert "500" in behind
    assert not_everything.startswith("MLflow did not get everything")


def test_an_mlflow_run_of_an_earlier_version_is_kept_until_a_resume(
    store: str, directory: Path
) -> None:
    """It has single steps, and weights apart."""
    ledger = Ledger(directory / "losses.csv", LossRow, resume=True)
    rows = [LossRow(i, 1, 100 + i, "a", i / 3, 2.0, i / 1.5) for i in range(1, 8)]
    ledger.append(rows)
    ledger.close()
    old = MLflowSink(store, "faces", directory, every_n_steps=3)
    old.open(0)
    for row in rows:
        if row.step in (1, 3, 6):
            names = ("loss/a/raw", row.raw), ("weight/a", 2.0), ("loss/a/weighted", row.weighted)
            old.write([Point(name, value, row.step, row.time) for name, value in names])
    old.close("FINISHED", "")
    sink = MLflowSink(store, "faces", directory, every_n_steps=3)
    assert sink.has_everything("FINISHED")
    assert not sink.has_everything("KILLED")
    assert sink.open(7) == 0
    assert sink.run_id != old.run_id
    assert only_run(store, "faces").data.tags["supersedes"] == old.run_id
