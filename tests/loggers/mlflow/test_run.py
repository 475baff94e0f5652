"""Parent runs, and facts that are told once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nectargan.loggers.mlflow.metadata import DatasetMetadata, RunMetadata
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.record.points import Point


def runs_of(store: str) -> dict[str, object]:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("faces")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_runs_of_a_group_share_one_parent(store: str, tmp_path: Path) -> None:
    for name, group in (("a", "weights"), ("b", "weights"), ("c", "other"), ("d", None)):
        (tmp_path / name).mkdir()
        MLflowSink(store, "faces", tmp_path / name, group=group).open(0)
    runs = runs_of(store)
    assert runs.keys() == {"a", "b", "c", "d", "weights", "other"}
    parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in runs.items()}
    weights, other = (runs[name].info.run_id for name in ("weights", "other"))
    assert parents == {
        "a": weights,
        "b": weights,
        "c": other,
        "d": None,
        "weights": None,
        "other": None,
    }
    assert runs["weights"].info.status == "FINISHED"
    assert (
        "runs of 'weights' are listed under it" in runs["weights"].data.tags["mlflow.note.content"]
    )


def test_the_parent_of_an_earlier_version_is_taken(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    experiment = client.create_experiment("faces")
    parent = client.create_run(experiment, run_name="w", tags={"nectargan.group": "w"})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        MLflowSink(store, "faces", tmp_path / name, group="w").open(0)
    runs = runs_of(store)
    assert runs.keys() == {"a", "b", "w"}
    for name in ("a", "b"):
        assert runs[name].data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_runs_that_follow_each_other_have_other_colors(store: str, tmp_path: Path) -> None:
    names = ["a_v1", "a_v2", "a_v16"]
    for name in names:
        (tmp_path / name).mkdir()
        MLflowSink(store, "faces", tmp_path / name).open(0)
    colors = {run.data.tags["mlflow.runColor"] for run in runs_of(store).values()}
    assert len(colors) == len(names)


def test_data_sets_note_and_pictures_are_logged_once(store: str, tmp_path: Path) -> None:
    data = DatasetMetadata("fronts", "training", "/data/fronts", "0123", {"pairs": 7})
    val = data._replace(context="validation", digest="4567")

    def fail(path: Path) -> None:
        raise ValueError("no ink")

    metadata = RunMetadata(
        note="# A run",
        datasets=[data, val],
        first_pictures={"weights.svg": lambda path: path.write_text("<svg/>")},
        last_pictures={"bad.svg": fail, "good.svg": lambda path: path.write_text("<svg/>")},
    )
    run_directory = tmp_path / "run"
    run_directory.mkdir()
    for _ in range(2):
        sink = MLflowSink(store, "faces", run_directory, metadata)
        sink.open(0)
        sink.close("FINISHED", "")
    run = runs_of(store)["run"]
    assert run.data.tags["mlflow.note.content"] == "# A run"
    told = [
        (i.dataset.name, i.dataset.digest, json.loads(i.dataset.source), i.tags[0].value)
        for i in run.inputs.dataset_inputs
    ]
    where = {"uri": "/data/fronts"}
    assert sorted(told) == [
        ("fronts", "0123", where, "training"),
        ("fronts", "4567", where, "validation"),
    ]
    files = {a.path for a in MlflowClient(store).list_artifacts(run.info.run_id)}
    assert files == {"weights.svg", "good.svg"}


def test_system_metrics_go_on_where_they_stopped(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    (tmp_path / "run").mkdir()
    client, counts = MlflowClient(store), []
    for attempt in range(2):
        sink = MLflowSink(store, "faces", tmp_path / "run", system_metrics=True)
        sink.open(attempt)
        for _ in range(100):
            history = client.get_metric_history(sink.run_id, "system/cpu_utilization_percentage")
            if len(history) > sum(counts) + 1:
                break
            sink._system._monitor._shutdown_event.wait(0.1)
        sink.write([Point("a", 1.0, attempt + 1, 1)])
        sink.close("FINISHED", "")
        history = client.get_metric_history(sink.run_id, "system/cpu_utilization_percentage")
        counts.append(len(history) - sum(counts))
    assert min(counts) >= 1
    steps = [metric.step for metric in history]
    assert sorted(steps) == list(range(len(steps)))
    assert all(math.isfinite(metric.value) for metric in history)
