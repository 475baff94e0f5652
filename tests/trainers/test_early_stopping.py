"""Early stopping: when a run ends, what it leaves, and how it is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nectargan.cli.main import main
from nectargan.cli.train import train
from nectargan.config.metric_options import Stop
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers import pix2pix_trainer
from nectargan.trainers.doubts import doubts_about
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import draw_pairs
from tests.runs.test_resume import assert_same, stopped

Make = Callable[..., Config]
EPOCHS = {"train__generator__learning_rate": {"epochs": 4, "epochs_decay": 5}}
STOP = {"train__stop": {"metric": "val/l1", "patience": 3}}
# The best L1 is that of the second epoch.
L1 = [0.5, 0.25, 0.3, 0.25, 0.4, 0.2, 0.3, 0.3, 0.3]
REASON = "stopped early: val/l1 has not improved since epoch 2 (0.25)"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[float]], None]:
    """Replaces the values of ``val/l1`` by given ones, epoch by epoch."""

    def script(values: Sequence[float]) -> None:
        def on_epoch_end(self: Pix2pixTrainer, epoch: int) -> Any:
            monkeypatch.setattr(
                pix2pix_trainer, "validate", lambda *args: {"val/l1": values[epoch - 1]}
            )
            return real(self, epoch)

        monkeypatch.setattr(Pix2pixTrainer, "on_epoch_end", on_epoch_end)

    real = Pix2pixTrainer.on_epoch_end
    return script


@given(
    values=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=12),
    patience=st.integers(1, 5),
)
def test_it_ends_after_so_many_epochs_without_a_new_best(
    values: list[float], patience: int
) -> None:
    stop = Stop(metric="val/l1", patience=patience)
    bests: dict[str, tuple[float, int]] = {}
    for epoch, value in enumerate(values, 1):
        if value < min(values[: epoch - 1], default=1.0):
            bests["val/l1"] = (value, epoch)
        recent = values[max(0, epoch - patience) : epoch]
        earlier = values[: max(0, epoch - patience)]
        wanted = bool(earlier) and min(recent) >= min(earlier)
        assert bool(stop.reason(bests, epoch)) == wanted


def test_the_run_is_finished_and_says_why(
    tiny: Make, scripted: Callable[[Sequence[float]], None]
) -> None:
    scripted(L1)
    config = tiny(**EPOCHS, **STOP, save__model_save_rate=4, save__example_save_rate=4)
    trainer = Pix2pixTrainer(config)
    run = trainer.train()
    assert trainer.epoch == 5
    assert run.read_status() == ("FINISHED", REASON)
    assert pd.read_csv(run.losses)["epoch"].max() == 5
    assert [path.name for path in run.list_checkpoints()] == ["epoch_0004.pt", "epoch_0005.pt"]
    grids = [name for name in run.epoch_files() if "examples" in name]
    assert [name.split("_step")[0].rpartition("_")[2] for name in sorted(grids)][-1] == "0005"

    table = CliRunner().invoke(main, ["runs", str(run)])
    assert f"FINISHED: {REASON}" in " ".join(table.output.split())


def test_lower_or_higher_is_better_as_the_metric_says(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny(**EPOCHS, train__stop={"metric": "val/ssim", "patience": 1}))
    trainer.epoch = 1
    trainer._note_bests({"val/ssim": 0.4})
    trainer.epoch = 2
    trainer._note_bests({"val/ssim": 0.5})
    assert not trainer.is_last_epoch
    trainer.epoch = 3
    trainer._note_bests({"val/ssim": float("nan")})
    assert trainer.is_last_epoch


def test_a_stopped_run_says_so_and_can_train_on(
    tiny: Make, scripted: Callable[[Sequence[float]], None]
) -> None:
    scripted(L1)
    run = Pix2pixTrainer(tiny(**EPOCHS, **STOP)).train()
    before = run.losses.read_bytes()
    told = CliRunner().invoke(train, ["--resume", str(run)])
    assert told.exit_code == 0
    assert f"'{run}' is finished after 5 epochs, {REASON}; add --set train.stop=null" in told.output
    assert run.losses.read_bytes() == before
    # More epochs do not change that the metric does not improve.
    assert REASON in CliRunner().invoke(train, ["--resume", str(run), "--epochs", "90"]).output

    # The new best value is in epoch 6; three more pass without one.
    told = CliRunner().invoke(train, ["--resume", str(run), "--set", "train.stop.patience=4"])
    assert told.exit_code == 0, told.output
    assert run.read_status() == ("FINISHED", "")
    assert "Ended:" not in told.output
    whole = Pix2pixTrainer(tiny(**EPOCHS))
    whole.train()
    ours, theirs = load_last(run), load_last(whole.directory)
    assert ours["step"] == theirs["step"] == 27
    for key, value in theirs["networks"]["generator"].items():
        assert value.equal(ours["networks"]["generator"][key])


@pytest.mark.parametrize("at", [7, 15])
def test_an_interrupted_run_ends_where_the_whole_one_does(
    tiny: Make, scripted: Callable[[Sequence[float]], None], at: int
) -> None:
    scripted(L1)
    whole = Pix2pixTrainer(tiny(**EPOCHS, **STOP))
    whole.train()
    run = RunDirectory(stopped(tiny(**EPOCHS, **STOP), at))
    told = CliRunner().invoke(train, ["--resume", str(run)])
    assert told.exit_code == 0
    assert f"Ended:   {REASON}" in told.output
    resumption = resumption_of(run, load_last(run), tiny(**EPOCHS, **STOP))
    assert resumption.is_finished
    trainer = Pix2pixTrainer(resumption.config, resumption)
    trainer.directory = run
    assert_same(trainer, whole)


@pytest.mark.slow
def test_mlflow_has_the_reason_until_the_run_trains_on(
    tiny: Make, scripted: Callable[[Sequence[float]], None], empty_store: Path, tmp_path: Path
) -> None:
    import shutil

    from mlflow.tracking import MlflowClient

    scripted(L1)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow = {"enable": True, "tracking_uri": uri, "log_model": False, "system_metrics": False}
    run = Pix2pixTrainer(tiny(**EPOCHS, **STOP, logging__mlflow=mlflow)).train()
    client = MlflowClient(uri)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert (found.info.status, found.data.tags["reason"]) == ("FINISHED", REASON)
    options = ["--set", "train.stop=null"]
    assert CliRunner().invoke(train, ["--resume", str(run), *options]).exit_code == 0
    found = client.get_run(found.info.run_id)
    assert (found.info.status, found.data.tags["reason"]) == ("FINISHED", "")


def test_what_cannot_be_judged_is_refused_at_the_start(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.stop\.metric is 'val/lpips', which is not in val"
    ):
        tiny(train__stop={"metric": "val/lpips"})
    with pytest.raises(ConfigError, match=r"train\.stop\.patience"):
        tiny(train__stop={"metric": "val/l1", "patience": 0})
    with pytest.raises(ConfigError, match=r"train\.stop\.metric"):
        tiny(train__stop={"patience": 3})
    draw_pairs(tmp_path / "unjudged", "train", 2)
    config = tiny(dataloader__dataroot=str(tmp_path / "unjudged"), **STOP)
    with pytest.raises(
        ConfigError, match=r"^train\.stop needs validation images to measure val/l1"
    ):
        Pix2pixTrainer(config)
    assert not (tmp_path / "runs").exists()


def test_a_patience_beyond_the_run_is_doubted(tiny: Make) -> None:
    (doubt,) = doubts_about(tiny(train__stop={"metric": "val/l1", "patience": 20}))
    assert doubt == "train.stop.patience is 20 and is not used: the run has 2 epochs."
    assert not doubts_about(tiny(train__stop={"metric": "val/l1", "patience": 1}))


def test_the_options_are_in_the_config_as_written(tiny: Make) -> None:
    config = tiny(train__stop__metric="val/ssim", train__stop__patience=7)
    assert json.loads(config.model_dump_json())["train"]["stop"] == {
        "metric": "val/ssim",
        "patience": 7,
    }
