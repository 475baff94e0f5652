"""What MLflow shows of a run is what its CSV files say, whatever happened to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

from nectargan.cli.train import train
from nectargan.config.schema import Config
from nectargan.record.run_directory import RunDirectory
from nectargan.record.seeking import offset_of_step
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.runs.sinks import synchronize
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.processes import wait_until

Make = Callable[..., Config]
EVERY = 4
MLFLOW = {"enable": True, "every_n_steps": EVERY, "log_model": False, "system_metrics": False}


def client_of(run: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")


def runs_of(run: Path, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    client = client_of(run)
    experiment = client.get_experiment_by_name("tiny")
    return list(client.search_runs([experiment.experiment_id], run_view_type=view))


def points_of(run: Path, mlrun: Run) -> dict[tuple[str, int], tuple[float, int]]:
    """All of them, by series and step."""
    client = client_of(run)
    found = [
        (key, m.step, m.value, m.timestamp)
        for key in mlrun.data.metrics
        for m in client.get_metric_history(mlrun.info.run_id, key)
    ]
    points = {(key, step): (value, time) for key, step, value, time in found}
    assert len(points) == len(found), "one point a series and step"
    return points


def assert_mlflow_equals_csv(run: Path, every: int = EVERY) -> Run:
    """The one run that MLflow shows has each measurement, and each loss as the mean of the rows
    since the last multiple of ``every`` or since the epoch began: at each step that it has, and it
    has the end of each window."""
    (mlrun,) = runs_of(run)
    assert mlrun.info.run_id == json.loads((run / "mlflow_run.json").read_text())["run_id"]
    assert mlrun.info.run_name == run.name
    points = points_of(run, mlrun)
    losses, metrics = (pd.read_csv(run / name) for name in ("losses.csv", "metrics.csv"))
    measured = {(r.metric, r.step): (r.value, r.time) for r in metrics.itertuples()}
    of_losses = {place: point for place, point in points.items() if place[0].startswith("loss/")}
    of_gradients = {place: point for place, point in points.items() if is_gradient(place[0])}
    others = points.keys() - of_losses.keys() - of_gradients.keys()
    assert {place: points[place] for place in others} == measured
    assert_means_of_epochs(of_gradients, pd.read_csv(run / "gradients.csv"))
    losses["window"] = (losses["step"] - 1) // every
    ends = losses.groupby(["epoch", "window"])["step"].max()
    assert {step for _, step in of_losses} >= set(ends)
    for (series, step), (value, time) in of_losses.items():
        _, name, column = series.split("/")
        own = losses[(losses["loss"] == name) & (losses["step"] <= step)]
        at_end = own.iloc[-1]
        same = (own["epoch"] == at_end["epoch"]) & (own["window"] == at_end["window"])
        assert (at_end["step"], at_end["time"]) == (step, time)
        assert value == pytest.approx(own[same][column].mean(), rel=1e-12), (series, step)
    return mlrun


def is_gradient(series: str) -> bool:
    return series.startswith("gradient/") and series.endswith(("/norm", "/share", "/cosine"))


def assert_means_of_epochs(
    points: dict[tuple[str, int], tuple[float, int]], gradients: pd.DataFrame
) -> None:
    """Each point is the mean of an epoch up to its step, and no epoch lacks its last."""
    ends = gradients.groupby("epoch")["step"].max()
    for measure in ("norm", "share", "cosine"):
        for loss in gradients["loss"].unique():
            steps = {step for series, step in points if series == f"gradient/{loss}/{measure}"}
            assert steps >= set(ends)
    for (series, step), (value, time) in points.items():
        _, loss, measure = series.split("/")
        own = gradients[(gradients["loss"] == loss) & (gradients["step"] <= step)]
        at_end = own.iloc[-1]
        assert (at_end["step"], at_end["time"]) == (step, time)
        mean = own[own["epoch"] == at_end["epoch"]][measure].mean()
        assert value == pytest.approx(mean, rel=1e-12), (series, step)


def last_step_in_mlflow(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        query = "SELECT max(m.step) FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid"
        query += " WHERE r.lifecycle_stage = 'active' AND m.key = 'loss/G_L1/raw'"
        try:
            return int(connection.execute(query).fetchone()[0] or 0)
        except sqlite3.OperationalError:  # its tables are being made
            return 0


def train_and_kill(config: Path, output: Path, *options: str) -> None:
    """Trains in another process, which is killed when MLflow has points past a checkpoint."""
    command = [sys.executable, "-m", "nectargan.cli.train", *options]
    process = subprocess.Popen(
        [*command] if options else [*command, "-c", str(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATIENT_LOSS_SECONDS": "0.05"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run, before = output / "tiny_v1", newest_checkpoint(output / "tiny_v1")

    def is_past() -> bool:
        now = newest_checkpoint(run)
        return now > before and last_step_in_mlflow(output / "mlflow.db") > now

    try:
        wait_until(is_past, alive=lambda: process.poll() is None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def newest_checkpoint(run: Path) -> int:
    """The step of the newest one; 0 for none."""
    epochs = [int(path.stem.split("_")[1]) for path in (run / "checkpoints").glob("epoch_*.pt")]
    return 3 * max(epochs, default=0)


def resume(run: Path, **changes: Any) -> Pix2pixTrainer:
    checkpoint = load_last(RunDirectory(run))
    wanted = Config.model_validate(checkpoint["config"])
    for name, weight in changes.items():
        wanted.train.loss[name] = weight
    resumption = resumption_of(RunDirectory(run), checkpoint, wanted)
    trainer = Pix2pixTrainer(resumption.config, resumption)
    trainer.train()
    return trainer


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_past_a_checkpoint_and_resumed_with_other_weights(
    tiny: Make, tmp_path: Path
) -> None:
    config = tiny(
        logging__mlflow=MLFLOW,
        logging__window_seconds=0.1,
        save__model_save_rate=6,
        train__generator__learning_rate={"epochs": 60, "epochs_decay": 0},
        # Slow in the processes that are killed.
        train__loss__G_slow={"function": "tests.trainers.patient_loss.PatientLoss"},
    )
    path, output = tmp_path / "config.json", tmp_path / "runs"
    path.write_text(config.model_dump_json())
    run = output / "tiny_v1"
    train_and_kill(path, output)
    (first,) = runs_of(run)
    dead = points_of(run, first)
    # Other weights from the checkpoint on; killed once more, and what was left is sent.
    train_and_kill(path, output, "--resume", str(run), "--set", "train.loss.G_L1=7")
    synchronize(RunDirectory(run))
    second = assert_mlflow_equals_csv(run)
    kept = load_last(RunDirectory(run))["step"]
    assert second.info.run_id != first.info.run_id
    assert (second.info.status, second.data.params["loss.G_L1"]) == ("KILLED", "7")
    csv = pd.read_csv(run / "losses.csv")
    assert csv["step"].max() > kept, "the rows of the dead process are on record for now"

    resume(run, G_L1=3.0, G_GAN=2.0)
    third = assert_mlflow_equals_csv(run)
    assert third.info.status == "FINISHED"
    assert len({each.info.run_id for each in (first, second, third)}) == 3
    assert third.data.params["loss.G_L1"] == "3"
    # The dead attempts are not lost, and say what took their place.
    deleted = {each.info.run_id: each for each in runs_of(run, ViewType.DELETED_ONLY)}
    assert deleted.keys() == {first.info.run_id, second.info.run_id}
    assert deleted[first.info.run_id].data.tags["superseded_by"] == second.info.run_id
    assert third.data.tags["supersedes"] == second.info.run_id
    assert points_of(run, first).items() >= dead.items()
    # Sending it once more changes nothing.
    assert synchronize(RunDirectory(run)) == {"MLflow": False}
    assert assert_mlflow_equals_csv(run).info == third.info


@pytest.fixture(autouse=True)
def _ready_store(empty_store: Path, tmp_path: Path) -> None:
    """The database that a run would make, which takes seconds."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")


def interrupted(config: Config, at: int) -> Path:
    """A run that was interrupted after a step, and saved."""

    class Stopping(Pix2pixTrainer):
        def train_step(self, source: Any, target: Any) -> None:
            super().train_step(source, target)
            if self.step == at:
                signal.raise_signal(signal.SIGINT)

    trainer = Stopping(config)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer.directory.path


def test_an_interrupted_run_keeps_its_mlflow_run(tiny: Make) -> None:
    """Its checkpoint has everything, so there is nothing to take back; it was sent in the middle
    of a window."""
    epochs = {"epochs": 4, "epochs_decay": 0}
    config = tiny(logging__mlflow=MLFLOW, train__generator__learning_rate=epochs)
    run = interrupted(config, 5)
    synchronize(RunDirectory(run))  # what it had no time for
    first = assert_mlflow_equals_csv(run)
    assert ("loss/G_L1/raw", 5) in points_of(run, first)
    resume(run, G_L1=3.0)
    again = assert_mlflow_equals_csv(run)
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "FINISHED")
    assert runs_of(run, ViewType.DELETED_ONLY) == []


def test_resumed_from_an_older_checkpoint(tiny: Make) -> None:
    """As from epoch 1 of 3: what was sent of epochs 2 and 3 is of another run now."""
    config = tiny(
        logging__mlflow={**MLFLOW, "every_n_steps": 1},
        save__model_save_rate=1,
        train__generator__learning_rate={"epochs": 3, "epochs_decay": 0},
    )
    run = Pix2pixTrainer(config).train()
    first = assert_mlflow_equals_csv(run, every=1)
    sent = points_of(run, first)
    file = run / "checkpoints" / "epoch_0001.pt"
    options = ["--resume", str(file), "--set", "train.loss.G_L1=3"]
    result = CliRunner().invoke(train, options)
    assert result.exit_code == 0, result.output
    again = assert_mlflow_equals_csv(run, every=1)
    losses = pd.read_csv(run / "losses.csv")
    assert list(losses["step"].unique()) == list(range(1, 10))
    weights = losses[losses["loss"] == "G_L1"].groupby("epoch")["weight"].unique()
    assert [list(weight) for weight in weights] == [[100.0], [3.0], [3.0]]
    assert {step for key, step in points_of(run, again) if key == "loss/G_L1/raw"} == set(
        range(1, 10)
    )
    (old,) = runs_of(run, ViewType.DELETED_ONLY)
    assert old.info.run_id == first.info.run_id
    assert again.data.tags["supersedes"] == old.info.run_id
    assert old.data.tags["superseded_by"] == again.info.run_id
    assert points_of(run, old).items() >= sent.items()
    assert synchronize(RunDirectory(run)) == {"MLflow": False}


def test_a_record_that_was_cut_by_hand_is_noticed(tiny: Make) -> None:
    """MLflow is ahead of the ledger, whatever the cursor says."""
    run = Pix2pixTrainer(tiny(logging__mlflow=MLFLOW)).train()
    first = assert_mlflow_equals_csv(run)
    path = run / "losses.csv"
    path.write_bytes(path.read_bytes()[: offset_of_step(path, 4)])
    assert synchronize(RunDirectory(run)) == {"MLflow": True}
    again = assert_mlflow_equals_csv(run)
    assert again.info.run_id != first.info.run_id
    assert synchronize(RunDirectory(run)) == {"MLflow": False}
