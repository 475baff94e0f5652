from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from nectargan.cli import ui
from nectargan.config.schema import Config
from nectargan.record.run_directory import RunDirectory
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.processes import PATIENCE, end, wait_until

from .conftest import Run

UI = [sys.executable, "-c", "from nectargan.cli.main import main; main()", "ui"]


@pytest.fixture
def output(tiny: Callable[..., Config], tmp_path: Path) -> Path:
    """An output directory with a run that TensorBoard and MLflow know."""
    sinks = {"logging__mlflow__enable": True, "logging__tensorboard__enable": True}
    Pix2pixTrainer(tiny(**sinks, logging__mlflow__log_model=False)).train()
    return tmp_path / "runs"


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*UI, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "HTTP_PROXY": "http://127.0.0.1:9"},
    )


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def page(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE) as answer:
        return bytes(answer.read())


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_both_answer_and_both_are_stopped(output: Path) -> None:
    process = start(output)
    try:
        assert process.stdout is not None
        urls = {}
        while len(urls) < 2:
            line = process.stdout.readline()
            assert process.poll() is None
            if not line.startswith(" "):
                name, _, url = line.partition(":")
                urls[name] = url.strip()
        assert b"<title>MLflow</title>" in page(urls["MLflow"])
        assert b"TensorBoard" in page(urls["TensorBoard"])
        experiments = page(
            f"{urls['MLflow']}/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny"
        )
        assert b'"tiny"' in experiments, "of the database in the output directory"
        wait_until(lambda: json.loads(page(f"{urls['TensorBoard']}/data/runs")) == ["tiny_v1"])
        (output / "later_v1").mkdir()
        shutil.copytree(output / "tiny_v1" / "tensorboard", output / "later_v1" / "tensorboard")
        names = ["later_v1", "tiny_v1"]
        wait_until(lambda: json.loads(page(f"{urls['TensorBoard']}/data/runs")) == names)
        ports = [int(url.rpartition(":")[2]) for url in urls.values()]
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3, "MLflow has a worker"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert out.endswith("Stopped.\n")
    assert [port for port in ports if is_open(port)] == []
    assert end(family, grace=0) == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_tensorboard_alone_and_a_server_that_ends(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(tmp_path, "--tensorboard-port", port)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"TensorBoard: http://127.0.0.1:{port}\n"
        for child in psutil.Process(process.pid).children():
            child.kill()
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 2
    first, second, third = err.splitlines()
    assert first == f"MLflow:      there is no mlflow.db in '{tmp_path}'"
    assert second.startswith("TensorBoard ended: ")
    assert third == "Error: Nothing is running."
    assert not is_open(port)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("This is no database at all, but a text.")
    process = start(tmp_path)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("TensorBoard: http://127.0.0.1:")
        assert process.stderr.readline() == (
            f"MLflow:      MLflow's database '{tmp_path / 'mlflow.db'}' cannot be used: file is "
            "not a database.\n"
        )
        assert process.poll() is None, "TensorBoard goes on"
        child, *_ = psutil.Process(process.pid).children()
        process.terminate()
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, "SIGTERM does what Ctrl-C does"
    assert end([child], grace=0) == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_it_looks_where_new_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:sesame@team:5000")
    (tmp_path / "mlflow.db").touch()
    process = start(tmp_path)
    try:
        assert process.stdout is not None
        first, second, third = (process.stdout.readline() for _ in range(3))
        process.terminate()
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert first == "Store:       http://team:5000 (MLFLOW_TRACKING_URI)\n"
    assert second == "MLflow:      http://team:5000\n"
    assert third.startswith("TensorBoard: http://127.0.0.1:")


def test_bad_input(run: Run, tmp_path: Path) -> None:
    result = run("ui", tmp_path / "nowhere")
    assert result.exit_code == 2
    place = tmp_path / "nowhere"
    told = f"Error: '{place}' is not a directory; give the directory of the runs.\n"
    assert result.stderr == told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("ui", tmp_path, "--mlflow-port", port)
    assert result.exit_code == 2
    assert f"Port {port} cannot be used" in result.stderr
    assert run("ui", tmp_path, "--mlflow-port", 70000).exit_code == 2


def test_reports_are_linked_the_newest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"a b_v{i}" for i in range(7)]
    for time, name in enumerate([*names, ""], 1000):
        run = RunDirectory(tmp_path / name)
        run.path.mkdir(exist_ok=True)
        if name:
            run.write_status("FINISHED")
        run.report.touch()
        os.utime(run.report, (time, time))
    ui._print_reports(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    wanted = [tmp_path, *(tmp_path / name for name in reversed(names[3:]))]
    assert lines[:5] == [f"Report:      {(path / 'report.html').as_uri()}" for path in wanted]
    assert lines[5].strip() == "and 3 older reports"
    ui._print_reports(tmp_path / names[0])
    assert capsys.readouterr().out.count("Report:") == 1
    ui._print_reports(tmp_path / "none")
    assert capsys.readouterr().out == ""
