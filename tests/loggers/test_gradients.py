"""Gradients in TensorBoard and MLflow: the values of ``gradients.csv``, each once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.tensorboard.sink import TensorBoardSink
from nectargan.record.follower import Follower
from nectargan.record.ledger import Ledger, LossRow, MetricRow
from nectargan.record.run_directory import RunDirectory
from tests.gradient_rows import write_gradients

VALUES = ("norm", "share", "cosine")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """An empty run directory."""
    directory = RunDirectory(tmp_path / "faces_v1")
    directory.path.mkdir()
    Ledger(directory.losses, LossRow).close()
    Ledger(directory.metrics, MetricRow).close()
    return directory


def add_steps(run: RunDirectory, steps: range) -> pd.DataFrame:
    """Appends steps to the ledgers; returns the table of gradients."""
    losses = Ledger(run.losses, LossRow, resume=True)
    for step in steps:
        losses.append([LossRow(step, 1 + (step - 1) // 10, step, "G_L1", 0.5, 2.0, 1.0)])
    losses.close()
    return write_gradients(run.path, steps, seed=steps[0])


def follow(sink: TensorBoardSink | MLflowSink, run: RunDirectory, resume: bool = False) -> None:
    Follower(sink, run, resume=resume).catch_up("FINISHED")


def test_tensorboard_has_the_steps_of_its_stride(run: RunDirectory) -> None:
    add_steps(run, range(1, 16))
    follow(TensorBoardSink(run.tensorboard, 4), run)
    table = add_steps(run, range(16, 31))
    follow(TensorBoardSink(run.tensorboard, 4), run, resume=True)
    events = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
    events.Reload()
    shown = table[(table["step"] == 1) | (table["step"] % 4 == 0)]
    for loss, rows in shown.groupby("loss"):
        for value in VALUES:
            points = events.Scalars(f"gradient/{loss}/{value}")
            assert [point.step for point in points] == rows["step"].tolist()
            found = np.float32([point.value for point in points])
            assert np.array_equal(found, rows[value].to_numpy(np.float32))


def histories(client: MlflowClient, sink: MLflowSink) -> dict[tuple[str, int], float]:
    """The gradients that MLflow has, by series and step; each is there once."""
    points = [
        (key, metric.step, metric.value)
        for key in client.get_run(sink.run_id).data.metrics
        if key.startswith("gradient/")
        for metric in client.get_metric_history(sink.run_id, key)
    ]
    found = {(key, step): value for key, step, value in points}
    assert len(found) == len(points)
    return found


def means_of(table: pd.DataFrame) -> dict[tuple[str, int], float]:
    return {
        (f"gradient/{loss}/{value}", rows["step"].max()): pytest.approx(rows[value].mean())
        for (_, loss), rows in table.groupby(["epoch", "loss"])
        for value in VALUES
    }


def test_mlflow_has_the_means_of_epochs(
    run: RunDirectory, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after an end in mid-epoch, whose mean is that of the epoch so far."""
    caplog.set_level(logging.WARNING, "nectargan")
    client, first = MlflowClient(store), MLflowSink(store, "faces", run)
    at_the_end = add_steps(run, range(1, 16))
    follow(first, run)
    assert histories(client, first) == means_of(at_the_end)

    again = MLflowSink(store, "faces", run)
    assert not Follower(again, run).lacks_something("FINISHED")
    table = add_steps(run, range(16, 31))
    assert Follower(again, run).lacks_something("FINISHED")
    follow(again, run, resume=True)
    assert again.run_id == first.run_id
    assert histories(client, again) == {**means_of(table), **means_of(at_the_end)}

    # As if the record of what was sent were lost.
    run.cursor("MLflow").unlink()
    assert not again.has_everything("KILLED")
    assert again.has_everything("FINISHED")
    follow(MLflowSink(store, "faces", run), run, resume=True)
    assert len(histories(client, again)) == len({**means_of(table), **means_of(at_the_end)})
    artifacts = {each.path for each in client.list_artifacts(again.run_id)}
    assert artifacts == {"losses.csv", "gradients.csv", "metrics.csv"}
    assert not caplog.records


def test_everything_is_sent_again_if_mlflow_has_other_gradients(
    run: RunDirectory, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of steps after the checkpoint from which the run was resumed."""
    add_steps(run, range(1, 16))
    first = MLflowSink(store, "faces", run)
    follow(first, run)
    run.gradients.unlink()
    table = write_gradients(run.path, range(1, 16), seed=77)
    second = MLflowSink(store, "faces", run)
    follow(second, run, resume=True)
    assert "other points than the CSV files (gradient/" in caplog.text
    assert second.run_id != first.run_id
    assert histories(MlflowClient(store), second) == means_of(table)
