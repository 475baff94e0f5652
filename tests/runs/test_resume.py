"""A run that was interrupted and resumed is the run that would have been."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from nectargan.config.schema import Config
from nectargan.errors import PRUNED, CheckpointError, ConfigError, NonFiniteError, RunError
from nectargan.record.lock import is_locked, locked
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint, load_last
from nectargan.runs.resume import find_unfinished, resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.processes import wait_until

Make = Callable[..., Config]

OPTIONS = {
    "train__loss": {
        "G_L1": {
            "schedule": "linear",
            "start_epoch": 1,
            "end_epoch": 4,
            "initial_value": 100.0,
            "target_value": 10.0,
            "interval": "step",
        }
    },
    "train__generator__learning_rate": {"epochs": 2, "epochs_decay": 2, "initial": 0.002},
    "train__generator__norm": "batch",
    "dataloader__augmentations": {
        "both": {"h_flip_chance": 0.5},
        "input": {"gaussnoise_chance": 0.5},
    },
    "train__objective": "extended",
    "logging__window_steps": 2,
}
KINDS = ("examples", "loss_maps", "histograms")
HISTOGRAM = "histograms/gradients/discriminator"
EVERYTHING = {"images": 0, "histograms": 0}


class Stopping(Pix2pixTrainer):
    """Is interrupted after some step, as by Ctrl-C, or fails in it."""

    def __init__(self, config: Config, at: int, error: BaseException | None = None) -> None:
        super().__init__(config)
        self._at = at
        self._raised = error or KeyboardInterrupt()

    def train_step(self, *batch: Tensor) -> None:
        if self.step == self._at and not isinstance(self._raised, KeyboardInterrupt):
            raise self._raised
        super().train_step(*batch)
        if self.step == self._at:
            signal.raise_signal(signal.SIGINT)  # kept back until the step is done


def stopped(config: Config, at: int, error: BaseException | None = None) -> Path:
    trainer = Stopping(config, at, error)
    with pytest.raises(type(error) if error else KeyboardInterrupt):
        trainer.train()
    return trainer.directory.path


def resumed(run: Path, **changes: object) -> Pix2pixTrainer:
    checkpoint = load_last(RunDirectory(run))
    wanted = Config.model_validate(checkpoint["config"])
    for key, value in changes.items():
        *path, last = key.split("__")
        section: object = wanted
        for name in path:
            section = getattr(section, name)
        setattr(section, last, value)
    resumption = resumption_of(RunDirectory(run), checkpoint, wanted)
    trainer = Pix2pixTrainer(resumption.config, resumption)
    trainer.train()
    return trainer


def record(run: Path) -> list[pd.DataFrame]:
    files = ("losses.csv", "metrics.csv", "gradients.csv")
    tables = [pd.read_csv(run / file, dtype=str) for file in files]
    metrics = tables[1]
    metrics.loc[metrics["metric"].str.startswith("time/"), "value"] = ""
    return [table.drop(columns="time") for table in tables]


def assert_same(one: Pix2pixTrainer, other: Pix2pixTrainer) -> None:
    for ours, theirs in zip(record(one.directory.path), record(other.directory.path), strict=True):
        pd.testing.assert_frame_equal(ours, theirs)
    last = [load_last(trainer.directory) for trainer in (one, other)]
    for name in ("generator", "discriminator"):
        for key, value in last[0]["networks"][name].items():
            assert torch.equal(value, last[1]["networks"][name][key]), key
        adams = [each["training"]["optimizers"][name] for each in last]
        for index, state in adams[0].items():
            for key, value in state.items():
                assert torch.equal(value, adams[1][index][key]), (index, key)


# Four epochs of three steps: the first step, the middle and the end of an epoch, the very last.
@pytest.mark.parametrize("at", [1, 5, 6, 7, 12])
def test_a_resumed_run_equals_an_uninterrupted_one(tiny: Make, at: int) -> None:
    run = stopped(tiny(**OPTIONS), at)
    assert RunDirectory(run).read_status() == ("KILLED", "")
    whole = Pix2pixTrainer(tiny(**OPTIONS))
    whole.train()
    trainer = resumed(run)
    assert trainer.directory == run != whole.directory
    assert_same(trainer, whole)
    assert RunDirectory(run).read_status() == ("FINISHED", "")


def test_a_run_is_resumed_several_times(tiny: Make) -> None:
    whole = Pix2pixTrainer(tiny(**OPTIONS))
    whole.train()
    run = stopped(tiny(**OPTIONS), 2)
    for at in (4, 9):
        resumption = resumption_of(RunDirectory(run), load_last(RunDirectory(run)), tiny(**OPTIONS))
        trainer = Stopping(tiny(**OPTIONS), at)
        trainer._resumption = resumption
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    assert_same(resumed(run), whole)
    lines = (run / "resumptions.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 9]


def test_rows_past_the_checkpoint_are_kept_aside(tiny: Make) -> None:
    """The step that fails leaves no checkpoint; the one before is of the epoch's end."""
    options = {**OPTIONS, "save__model_save_rate": 1}
    run = stopped(tiny(**options), 6, ValueError("a bug in a loss"))
    assert RunDirectory(run).read_status() == ("FAILED", "ValueError: a bug in a loss")
    assert pd.read_csv(run / "losses.csv")["step"].max() == 5
    whole = Pix2pixTrainer(tiny(**options))
    whole.train()
    half = run / "checkpoints" / ".epoch_0002.pt.a1.part"
    half.write_bytes(b"as of a process that was killed")
    assert_same(resumed(run), whole)
    assert not half.exists()
    orphans = pd.read_csv(run / "orphaned" / "attempt-1.csv")
    assert orphans["step"].unique().tolist() == [4, 5]
    for name in ("metrics", "gradients"):
        orphans = pd.read_csv(run / "orphaned" / f"attempt-1.{name}.csv")
        assert orphans["step"].isin([4, 5]).all(), name
    assert orphans["step"].unique().tolist() == [4, 5]


def test_gradients_may_be_turned_on_and_off_on_the_way(tiny: Make) -> None:
    """Off until step 2, on until step 5, off for the rest; then back to the first checkpoint."""
    options = {**OPTIONS, "save__keep_last": None}
    run = stopped(tiny(**options, logging__gradients="off"), 2)
    first = run / "checkpoints" / "epoch_0001_step_00000002.pt"
    kept = first.read_bytes()
    assert not (run / "gradients.csv").exists()
    on = load_last(RunDirectory(run))
    wanted = Config.model_validate(on["config"])
    wanted.logging.gradients = "on"
    trainer = Stopping(wanted, 5)
    trainer._resumption = resumption_of(RunDirectory(run), on, wanted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert pd.read_csv(run / "gradients.csv")["step"].unique().tolist() == [3, 4, 5]
    resumed(run, logging__gradients="off")
    before = (run / "gradients.csv").read_bytes()
    assert pd.read_csv(run / "gradients.csv")["step"].unique().tolist() == [3, 4, 5]
    assert set(load_last(RunDirectory(run))["training"]["ledgers"]) >= {"gradients.csv"}

    first.write_bytes(kept)
    checkpoint = load_checkpoint(first)
    wanted = Config.model_validate(checkpoint["config"])
    wanted.logging.gradients = 4
    resumption = resumption_of(RunDirectory(run), checkpoint, wanted, first)
    Pix2pixTrainer(resumption.config, resumption).train()
    assert pd.read_csv(run / "gradients.csv")["step"].unique().tolist() == [4, 8, 12]
    assert (run / "orphaned" / "attempt-1.gradients.csv").read_bytes() == before


def test_a_ledger_of_gradients_that_was_changed_is_told(tiny: Make) -> None:
    run = stopped(tiny(**OPTIONS), 5)
    path = run / "gradients.csv"
    path.write_text(path.read_text().replace("G_GAN", "G_GUN", 1))
    with pytest.raises(RunError, match=r"changed the first \d+ bytes of '.*gradients\.csv'"):
        resumed(run)


def test_a_torn_checkpoint_is_passed_over(tiny: Make, caplog: pytest.LogCaptureFixture) -> None:
    options = {**OPTIONS, "save__model_save_rate": 1}
    run = stopped(tiny(**options), 5)
    newest = RunDirectory(run).list_checkpoints()[-1]
    assert newest.name == "epoch_0002_step_00000005.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    whole = Pix2pixTrainer(tiny(**options))
    whole.train()
    assert_same(resumed(run), whole)
    assert any(
        "is damaged. An earlier checkpoint is used instead." in r.message for r in caplog.records
    )


def test_nothing_to_go_on_from(tiny: Make, tmp_path: Path) -> None:
    run = stopped(tiny(save__save_model=False), 2)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_last(RunDirectory(run))


def test_weights_and_length_may_change_and_that_is_on_record(tiny: Make) -> None:
    run = stopped(tiny(), 2)
    trainer = resumed(run, train__loss={"G_L1": 7.0}, logging__window_steps=3)
    weights = pd.read_csv(run / "losses.csv").query("loss == 'G_L1'").set_index("step")["weight"]
    assert weights.loc[2] == 100.0
    assert weights.loc[3:].unique().tolist() == [7.0]
    line = json.loads((run / "resumptions.jsonl").read_text())
    assert line["changes"] == {"logging.window_steps": [50, 3], "train.loss.G_L1": [100.0, 7.0]}
    assert trainer.config.train.loss["G_L1"] == 7.0


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train__generator__features", 8, "train.generator.features from 4 to 8"),
        ("dataloader__batch_size", 3, "dataloader.batch_size from 2 to 3"),
        ("common__seed", 1, "common.seed from 0 to 1"),
    ],
)
def test_what_would_make_it_another_run_is_refused(
    tiny: Make, key: str, value: object, told: str
) -> None:
    run = stopped(tiny(), 2)
    before = {path: path.read_bytes() for path in run.rglob("*.csv")}
    with pytest.raises(
        ConfigError, match=f"cannot be resumed with a change of {told}: start a new run instead"
    ):
        resumed(run, **{key: value})
    assert {path: path.read_bytes() for path in run.rglob("*.csv")} == before


def test_a_run_in_use_is_not_resumed(tiny: Make) -> None:
    run = stopped(tiny(), 2)
    with locked(run):
        assert is_locked(run)
        with pytest.raises(RunError, match="is in use by another process"):
            resumed(run)
        assert find_unfinished(run.parent, "tiny") is None
    assert not is_locked(run)


def test_auto_leaves_out_what_a_sweep_has_pruned(tiny: Make) -> None:
    run = RunDirectory(stopped(tiny(), 2))
    run.write_status("KILLED", f"{PRUNED}median in epoch 1: val/ssim is 0.1")
    assert find_unfinished(run.parent, "tiny") is None
    run.write_status("KILLED")
    assert find_unfinished(run.parent, "tiny") == run


def test_auto_finds_the_newest_unfinished_run(tiny: Make) -> None:
    output = Path(tiny().common.output_directory)
    assert find_unfinished(output, "tiny") is None
    first, second = stopped(tiny(), 2), stopped(tiny(), 3)
    Pix2pixTrainer(tiny()).train()
    stopped(tiny(save__save_model=False), 2)
    stopped(tiny(common__experiment_name="other"), 2)
    assert find_unfinished(output, "tiny") == second
    resumed(second)
    assert find_unfinished(output, "tiny") == first


def test_checkpoints_within_an_epoch_come_by_the_clock(tiny: Make) -> None:
    run = stopped(tiny(save__every_minutes=1e-9), 5)
    assert [path.name for path in RunDirectory(run).list_checkpoints()] == [
        "epoch_0002_step_00000005.pt"
    ]
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 5
    content = load_checkpoint(run)
    assert (content["epoch"], content["training"]["epoch"], content["training"]["batch"]) == (
        1,
        2,
        2,
    )


def test_only_the_last_ones_and_the_best_are_kept(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.1, 0.5, 0.3, 0.5, 0.2])
    monkeypatch.setattr(
        "nectargan.trainers.pix2pix_trainer.validate", lambda *_: {"val/ssim": next(values)}
    )
    trainer = Pix2pixTrainer(
        tiny(
            save__model_save_rate=1,
            save__keep_last=2,
            save__keep_best="val/ssim",
            train__generator__learning_rate={"epochs": 5, "epochs_decay": 0},
        )
    )
    run = trainer.train()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.pt", "epoch_0004.pt", "epoch_0005.pt", "last.pt"]
    assert trainer.bests == {"val/ssim": (0.5, 2)}
    assert load_checkpoint(run / "checkpoints" / "best.pt")["epoch"] == 2


def explode(config: Config, at: int, value: float) -> Pix2pixTrainer:
    """A trainer whose G_L1 is ``value`` in one step."""
    trainer = Pix2pixTrainer(config)
    entry = trainer.losses.get_registered_losses()["G_L1"]
    l1 = entry.function

    def function(generated: Tensor, target: Tensor) -> Tensor:
        loss = l1(generated, target)
        return loss + value if trainer.step == at else loss

    entry.function = function
    return trainer


def test_a_loss_that_is_not_finite_stops_the_run(tiny: Make) -> None:
    options = {"save__model_save_rate": 1, "logging__window_steps": 1}
    trainer = explode(tiny(**options), 5, float("inf"))
    with pytest.raises(NonFiniteError) as raised:
        trainer.train()
    text = str(raised.value)
    assert text.startswith("Loss 'G_L1' is inf with weight 100 in epoch 2, step 5; the last finite")
    assert "G_GAN" in text
    assert text.endswith(f"The last checkpoint before is in '{trainer.directory}'.")
    assert raised.value.exit_code == 3
    assert [path.name for path in trainer.directory.list_checkpoints()] == ["epoch_0001.pt"]
    assert trainer.directory.status == "FAILED"
    raw = pd.read_csv(trainer.directory / "losses.csv").query("step == 5 and loss == 'G_L1'")["raw"]
    assert raw.tolist() == [float("inf")]


def test_no_checkpoint_is_mentioned_if_there_is_none(tiny: Make) -> None:
    trainer = explode(tiny(logging__window_steps=1), 2, float("nan"))
    with pytest.raises(NonFiniteError, match=r"G_L1' is nan .* No checkpoint was made before\.$"):
        trainer.train()


def test_with_continue_it_warns_once(tiny: Make, caplog: pytest.LogCaptureFixture) -> None:
    trainer = explode(tiny(train__on_nonfinite="continue"), 2, float("nan"))
    run = trainer.train()
    assert RunDirectory(run).read_status() == ("FINISHED", "")
    (message,) = [r.message for r in caplog.records if "Loss" in r.message]
    assert message.startswith("Loss 'G_L1' is nan with weight 100 in epoch 1, step 2;")


@pytest.mark.slow
def test_the_mlflow_run_continues_if_only_the_checkpoint_has_its_id(tiny: Make) -> None:
    from mlflow.tracking import MlflowClient

    class Patient(Stopping):
        def train_step(self, *batch: Tensor) -> None:
            if self.step == 4:
                wait_until(lambda: '"run_id": "' in read(self.directory / "mlflow_run.json"))
            super().train_step(*batch)

    def read(path: Path) -> str:
        return path.read_text() if path.exists() else ""

    trainer = Patient(tiny(logging__mlflow={"enable": True, "every_n_steps": 1}), 4)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    run = trainer.directory
    known = load_last(RunDirectory(run))["training"]["mlflow"]
    client = MlflowClient(f"sqlite:///{run.path.parent / 'mlflow.db'}")
    assert client.get_run(known["run_id"]).info.status == "KILLED"
    (run / "mlflow_run.json").unlink()
    resumed(run)
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.status) == (known["run_id"], "FINISHED")
    history = client.get_metric_history(known["run_id"], "loss/G_L1/raw")
    assert [metric.step for metric in history] == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_has_each_picture_and_histogram_once(tiny: Make) -> None:
    """It dies in the fourth epoch and goes on after the second: the third one is made again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {
        **OPTIONS,
        "logging__tensorboard": {"enable": True},
        "logging__loss_map_every_n_epochs": 1,
        "logging__histogram_every_n_epochs": 1,
        "save__model_save_rate": 2,
    }
    run = stopped(tiny(**options), 11, ValueError("a bug in a loss"))

    def files() -> list[str]:
        return sorted(path.name for kind in KINDS for path in (run / kind).iterdir())

    def shown() -> list[list[int]]:
        events = EventAccumulator(str(run / "tensorboard"), size_guidance=EVERYTHING)
        events.Reload()
        pictures = [events.Images(kind) for kind in KINDS[:2]]
        return [[e.step for e in p] for p in [*pictures, events.Histograms(HISTOGRAM)]]

    # Before training there are no gradients.
    assert shown() == [[0, 3, 6, 9]] * 2 + [[3, 6, 9]]
    assert len(files()) == 12
    resumed(run)
    assert shown() == [[0, 3, 6, 9, 12]] * 2 + [[3, 6, 9, 12]]
    assert len(files()) == 15
