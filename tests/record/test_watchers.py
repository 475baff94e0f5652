from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow.tracking import MlflowClient

from nectargan.config.schema import Config
from nectargan.record.ledger import LossRow
from nectargan.record.watchers import CollapseWatch
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer


def window(step: int, *values: float) -> list[LossRow]:
    """A step with the values of D_real, D_fake and G_L1."""
    names = ("D_real", "D_fake", "G_L1")
    return [LossRow(step, 1, 0, n, v, 1.0, v) for n, v in zip(names, values, strict=False)]


def test_it_takes_many_low_windows_in_a_row() -> None:
    watch = CollapseWatch(("D_real", "D_fake"), threshold=0.1, windows=3)
    for step, total in enumerate([0.05, 0.05, 0.2, 0.05, 0.05], start=1):
        watch.look(window(step, total / 2, total / 2, 0.0))
        assert watch.found is None
    watch.look([])
    watch.look(window(6, 0.04, 0.05, 9.0))
    assert watch.found == 6
    assert "below 0.1 for 3 windows up to step 6" in watch.describe()
    watch.look(window(7, 1.0, 1.0))
    assert watch.found == 6


def test_a_window_counts_by_the_mean_over_its_steps() -> None:
    watch = CollapseWatch(("D_real", "D_fake"), threshold=0.1, windows=1)
    watch.look([*window(1, 0.0, 0.0), *window(2, 0.15, 0.1)])
    assert watch.found is None
    watch.look([*window(3, 0.0, 0.0), *window(4, 0.1, 0.05)])
    assert watch.found == 4


def test_a_run_is_warned_of_and_tagged_once(
    tiny: Callable[..., Config],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = CollapseWatch(("D_real", "D_fake"), threshold=100.0, windows=5)
    monkeypatch.setattr("nectargan.runs.open.CollapseWatch", lambda names: watch)
    trainer = Pix2pixTrainer(
        tiny(
            logging__window_steps=1,
            logging__mlflow={"enable": True},
            train__generator__learning_rate={"epochs": 4, "epochs_decay": 0},
        )
    )
    run = trainer.train()
    (message,) = [r.getMessage() for r in caplog.records if "is too strong" in r.getMessage()]
    assert "up to step 5" in message
    client = MlflowClient(f"sqlite:///{run.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags["collapse"] == message
