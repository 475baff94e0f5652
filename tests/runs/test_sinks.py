"""What a sink missed is sent later, exactly once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.record.cursor import Cursor
from nectargan.record.lock import locked
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.runs.run_list import summarize_runs
from nectargan.runs.sinks import choose_store, synchronize
from nectargan.shell import quoted
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.processes import wait_until

Make = Callable[..., Config]

# Nobody listens there.
AWAY = "http://127.0.0.1:9"


@pytest.fixture
def unsent(tiny: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """The directory of a run whose MLflow server was away all the time, and is a database now."""
    run = Pix2pixTrainer(
        tiny(
            logging__mlflow={"enable": True, "every_n_steps": 1, "tracking_uri": AWAY},
            logging__tensorboard={"enable": True},
            logging__drain_seconds=0.1,
        )
    ).train()
    messages = [record.getMessage() for record in caplog.records]
    # The thread that was given up may say last of all why it could not go on.
    assert any(
        text.endswith(f"to send the rest: nectargan sync {quoted(run)}") for text in messages
    )
    # Nor has TensorBoard everything yet where its import takes long; its thread goes on.
    wait_until(lambda: not Cursor(RunDirectory(run), "TensorBoard").is_behind)
    config = json.loads((run / "config.json").read_text())
    config["logging"]["mlflow"]["tracking_uri"] = f"sqlite:///{tmp_path / 'later.db'}"
    (run / "config.json").write_text(json.dumps(config))
    return run.path


def sent(uri: str) -> tuple[dict[tuple[str, int], float], int, str]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    points = [
        (key, m.step, m.value)
        for key in run.data.metrics
        for m in client.get_metric_history(run.info.run_id, key)
    ]
    return {(k, s): v for k, s, v in points}, len(points), run.info.status


def test_sync_sends_what_is_missing_and_nothing_twice(unsent: Path, tmp_path: Path) -> None:
    assert [each.behind for each in summarize_runs(unsent.parent)] == [["MLflow"]]
    assert synchronize(RunDirectory(unsent)) == {"TensorBoard": False, "MLflow": True}
    uri = f"sqlite:///{tmp_path / 'later.db'}"
    points, count, status = sent(uri)
    losses = pd.read_csv(unsent / "losses.csv")
    metrics = pd.read_csv(unsent / "metrics.csv")
    expected = {(f"loss/{r.loss}/raw", r.step): r.raw for r in losses.itertuples()}
    expected |= {(f"loss/{r.loss}/weighted", r.step): r.weighted for r in losses.itertuples()}
    expected |= {(f"loss/{r.loss}/weight", r.step): r.weight for r in losses.itertuples()}
    expected |= {(r.metric, r.step): r.value for r in metrics.itertuples()}
    gradients = pd.read_csv(unsent / "gradients.csv").groupby(["loss", "epoch"])
    means = {
        (f"gradient/{loss}/{measure}", rows["step"].max()): rows[measure].mean()
        for (loss, _), rows in gradients
        for measure in ("norm", "share", "cosine")
    }
    assert {key: points[key] for key in means} == pytest.approx(means)
    assert {key: points[key] for key in points.keys() - means.keys()} == expected
    assert (count, status) == (len(expected) + len(means), "FINISHED")
    assert [each.behind for each in summarize_runs(unsent.parent)] == [[]]

    assert synchronize(RunDirectory(unsent)) == {"TensorBoard": False, "MLflow": False}
    assert sent(uri) == (points, count, status)
    # As if the record of what was sent were lost.
    for path in (unsent / "sinks").iterdir():
        path.unlink()
    assert synchronize(RunDirectory(unsent)) == {"TensorBoard": True, "MLflow": True}
    assert sent(uri) == (points, count, status)
    events = EventAccumulator(str(unsent / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("val/ssim")] == [3, 6]


def test_from_within_the_run_directory(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database lies in the parent directory, which "." does not name."""
    run = Pix2pixTrainer(tiny(logging__mlflow={"enable": True})).train()
    (run / "sinks" / "MLflow.json").unlink()
    monkeypatch.chdir(run)
    here = Path()
    assert synchronize(RunDirectory(here)) == {"MLflow": True}
    assert not (here / "mlflow.db").exists()
    checkpoint = load_last(RunDirectory(here))
    config = Config.model_validate(checkpoint["config"])
    resumption = resumption_of(RunDirectory(here), checkpoint, config)
    store = choose_store(config, resumption)
    assert store == choose_store(config, None)
    assert sent(store.uri)[2] == "FINISHED"


def test_a_server_that_stays_away_is_one_sentence(unsent: Path) -> None:
    config = json.loads((unsent / "config.json").read_text())
    config["logging"]["mlflow"]["tracking_uri"] = AWAY
    (unsent / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="MLflow did not get everything: "):
        synchronize(RunDirectory(unsent))


def test_a_run_that_died_is_marked(unsent: Path, tmp_path: Path) -> None:
    RunDirectory(unsent).write_status("RUNNING")
    (summary,) = summarize_runs(unsent.parent)
    assert (summary.status, summary.reason) == ("KILLED", "the process ended unexpectedly")
    assert RunDirectory(unsent).read_status() == ("KILLED", "the process ended unexpectedly")
    synchronize(RunDirectory(unsent))
    assert sent(f"sqlite:///{tmp_path / 'later.db'}")[2] == "KILLED"


def test_a_run_in_use_is_left_alone(unsent: Path) -> None:
    RunDirectory(unsent).write_status("RUNNING")
    with locked(unsent):
        assert [each.status for each in summarize_runs(unsent.parent)] == ["RUNNING"]
        with pytest.raises(RunError, match="is in use"):
            synchronize(RunDirectory(unsent))


def test_runs_are_summed_up(tiny: Make) -> None:
    run = Pix2pixTrainer(tiny()).train()
    (summary,) = summarize_runs(run.path.parent)
    losses, metrics = pd.read_csv(run / "losses.csv"), pd.read_csv(run / "metrics.csv")
    last = losses[losses["step"] == 6].set_index("loss")["raw"].to_dict()
    ssim = metrics[metrics["metric"] == "val/ssim"].set_index("epoch")["value"]
    assert (summary.directory, summary.status, summary.reason) == (run, "FINISHED", "")
    assert (summary.epoch, summary.epochs, summary.losses) == (2, 2, last)
    assert summary.best == (ssim.max(), ssim.idxmax())
    assert summary.behind == []
    text = (run / "metrics.csv").read_text()
    head, rows = text.split("\n", 1)
    (run / "metrics.csv").write_text(f"{head}\n1,1,1,val/ssim,nan\n{rows}")
    assert summarize_runs(run.path.parent)[0].best == summary.best, "NaN is not the best"
    with pytest.raises(
        RunError, match="nowhere' is not a directory; give the directory of the runs"
    ):
        summarize_runs(run / "nowhere")


def test_a_server_that_is_required_must_answer(tiny: Make, tmp_path: Path) -> None:
    options = {"enable": True, "tracking_uri": AWAY, "required": True}
    trainer = Pix2pixTrainer(tiny(logging__mlflow=options))
    with pytest.raises(RunError, match=f"MLflow cannot be reached at '{AWAY}'"):
        trainer.train()
    assert not (tmp_path / "runs").exists(), "nothing is left half-made"


def names_in(uri: str) -> dict[str, list[str]]:
    """The runs of each experiment in a store."""
    client = MlflowClient(uri)
    return {
        experiment.name: [
            str(r.info.run_name) for r in client.search_runs([experiment.experiment_id])
        ]
        for experiment in client.search_experiments()
        if experiment.name != "Default"
    }


def test_a_run_stays_where_the_environment_sent_it(
    tiny: Make, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = tmp_path / "team.db"
    shutil.copy(empty_store, team)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shared")
    options = {"enable": True, "log_model": False, "system_metrics": False}
    trainer = Pix2pixTrainer(tiny(logging__mlflow=options, logging__drain_seconds=0))
    told = f"MLflow: experiment 'shared' in sqlite:///{team} (MLFLOW_TRACKING_URI)."
    assert trainer.describe_store() == told
    run = trainer.train()
    # From elsewhere, with another environment, it is sent to the same place.
    monkeypatch.chdir(run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///another.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    synchronize(RunDirectory(run))
    assert names_in(f"sqlite:///{team}") == {"shared": [run.name]}
    checkpoint = load_last(RunDirectory(run))
    resumption = resumption_of(run, checkpoint, ConfigManager(checkpoint["config"]).data)
    resumed = Pix2pixTrainer(resumption.config, resumption)
    assert resumed.store.uri == f"sqlite:///{team}"
    assert resumed.config.logging.mlflow.experiment == "shared"
    assert not (run / "another.db").exists()
    assert not (run.path.parent / "mlflow.db").exists()


def test_what_the_config_names_goes_before_the_environment(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shared")
    options = {"enable": True, "tracking_uri": "http://team:5000", "experiment": "mine"}
    config = tiny(logging__mlflow=options)
    told = "MLflow: experiment 'mine' in http://team:5000 (logging.mlflow.tracking_uri)."
    assert Pix2pixTrainer(config).describe_store() == told
    assert Pix2pixTrainer(tiny()).describe_store() == "", "no MLflow at all"
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name)
    place = f"sqlite:///{tmp_path}/runs/mlflow.db"
    told = f"MLflow: experiment 'tiny' in {place} (the default)."
    assert Pix2pixTrainer(tiny(logging__mlflow__enable=True)).describe_store() == told
