"""Pruned runs, several metrics, and the importance of options."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from click.testing import CliRunner

from nectargan.cli.train import train
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.resume import Resumption
from nectargan.sweeps.axes import parse_axes
from nectargan.sweeps.grid import Resolve
from nectargan.sweeps.results import Result, importances, pareto_front
from nectargan.sweeps.search import Search
from nectargan.trainers import pix2pix_trainer
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.trainer import Judge

METRICS = {"val/ssim": False, "val/l1": True}


@pytest.fixture
def resolve(tiny: Callable[..., Config]) -> Resolve:
    base = tiny(train__generator__learning_rate={"epochs": 3, "epochs_decay": 0})
    document = base.model_dump(mode="json")
    return lambda overrides: ConfigManager(document, overrides).data


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the measured SSIM a hundredth of the weight of G_L1 and the L1 the rest to 1; with the
    epochs, the SSIM grows by 0.01."""
    real = Pix2pixTrainer.on_epoch_end

    def on_epoch_end(self: Pix2pixTrainer, epoch: int) -> Any:
        ssim = float(self.config.train.loss["G_L1"]) / 100  # type: ignore[arg-type]
        values = {"val/ssim": ssim + epoch / 100, "val/l1": 1 - ssim}
        monkeypatch.setattr(pix2pix_trainer, "validate", lambda *args: values)
        return real(self, epoch)

    monkeypatch.setattr(Pix2pixTrainer, "on_epoch_end", on_epoch_end)


def start(
    config: Config, resumption: Resumption | None = None, judge: Judge | None = None
) -> RunDirectory:
    trainer = Pix2pixTrainer(config, resumption)
    trainer.judge = judge
    return trainer.train()


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_hopeless_runs_are_ended(resolve: Resolve, scripted: None, pruner: str) -> None:
    search = Search(parse_axes(["train.loss.G_L1=1..90"]), resolve, "val/ssim", pruner=pruner)
    search.open()
    for weight in (50, 60, 70, 80, 90, 10, 85):
        search._study.enqueue_trial({"train.loss.G_L1": weight})
    outcomes = list(search.run(7, start, lambda number, point: None))
    states = [outcome.state for outcome in outcomes]
    assert set(states) == {"FINISHED", "PRUNED"}
    if pruner == "median":
        assert states == ["FINISHED"] * 5 + ["PRUNED", "FINISHED"]
        assert outcomes[5].reason == (
            "pruned by median in epoch 1: val/ssim is 0.11, and the median of 5 runs is 0.71"
        )
    assert [trial.state for trial in search.trials()] == [
        "COMPLETE" if state == "FINISHED" else state for state in states
    ]
    assert not list(search.run(7, start, lambda number, point: None)), "they count as trials"
    pruned = outcomes[states.index("PRUNED")]
    assert pruned.directory is not None
    assert pruned.directory.read_status() == ("KILLED", pruned.reason)
    epochs = pd.read_csv(pruned.directory.losses)["epoch"].max()
    assert f"in epoch {epochs}: val/ssim is" in pruned.reason
    assert epochs < 3

    told = CliRunner().invoke(train, ["--resume", str(pruned.directory)])
    assert told.exit_code == 0, told.output
    assert pruned.directory.read_status() == ("FINISHED", "")


def test_a_search_for_two_metrics(resolve: Resolve, scripted: None) -> None:
    search = Search(parse_axes(["train.loss.G_L1=1..90"]), resolve, list(METRICS))
    search.open()
    (outcome,) = search.run(1, start, lambda number, point: None)
    study = optuna.load_study(study_name=search.name, storage=search.storage)
    assert [each.name for each in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    weight = float(search.trials()[0].values["train.loss.G_L1"])
    assert outcome.state == "FINISHED"
    assert search.trials()[0].measured == pytest.approx((weight / 100 + 0.03, 1 - weight / 100))


def result(*measured: float, state: str = "FINISHED") -> Result:
    return Result({}, state, "", measured[0], RunDirectory("x"), measured)


def test_the_front_are_the_runs_that_none_beats() -> None:
    rng = random.Random(0)
    results = [result(rng.randrange(6), rng.randrange(6)) for _ in range(40)]
    front = pareto_front(results, [False, True])
    for each in results:
        better = [
            o
            for o in results
            if o.measured[0] >= each.measured[0]
            and o.measured[1] <= each.measured[1]
            and o.measured != each.measured
        ]
        assert (each in front) == (not better)
    assert pareto_front([result(1, 1), result(9, 0, state="FAILED")], [False, True]) == [
        result(1, 1)
    ]


def test_importance_is_the_explained_variance() -> None:
    axes = parse_axes(["a=1,2,3", "b=1,2,3", "c=7", "d=0.1..10:log"])
    rng = random.Random(0)
    results = []
    for a in "123":
        for b in "123":
            for _ in range(4):
                values = {"a": a, "b": b, "c": "7", "d": repr(rng.uniform(0.1, 10))}
                # The variances are 9 to 1.
                results.append(Result(values, "FINISHED", "", 3.0 * int(a) + int(b), None))
    found = importances(results, axes)
    assert list(found)[:2] == ["a", "b"]
    assert set(found) == {"a", "b", "d"}
    assert sum(found.values()) == pytest.approx(1)
    assert found["a"] == pytest.approx(0.9, abs=0.05)
    assert found["b"] == pytest.approx(0.1, abs=0.05)
    assert importances(results[:3], axes) == {}
    assert importances([each._replace(best=1.0) for each in results], axes) == {}


def test_the_report_of_a_grid(tiny: Callable[..., Config], scripted: None, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(tiny().model_dump_json())
    words = ["-c", str(config), "--sweep", "train.loss.G_L1=10,20,30,40"]
    words += ["--metric", "val/ssim", "--metric", "val/l1"]
    told = CliRunner().invoke(train, words)
    assert told.exit_code == 0, told.output
    assert "Pareto: 1 run that no other run beats in all metrics." in told.output
    (row,) = [line for line in told.output.splitlines() if "*" in line and "tiny_v4" in line]
    assert "0.42" in row
    assert "0.6" in row
    assert "Importance for val/ssim: G_L1 100%." in told.output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--metric", "val/l1", "--metric", "val/l1"], "--metric val/l1 is given twice."),
        (["--pruner", "median"], "--pruner needs --sweep-search."),
        (
            [
                "--sweep-search",
                "optuna",
                "--pruner",
                "median",
                "--metric",
                "val/l1",
                "--metric",
                "val/ssim",
            ],
            "--pruner judges runs by a single metric; give only one --metric.",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], complaint: str) -> None:
    told = CliRunner().invoke(train, ["--sweep", "train.loss.G_L1=1,2", *words])
    assert complaint in told.output + str(told.exception)
    assert told.exit_code != 0
