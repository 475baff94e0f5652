from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, RunError
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.resume import Resumption
from nectargan.sweeps.axes import parse_axes
from nectargan.sweeps.grid import GridOutcome, Resolve, check_grid
from nectargan.sweeps.search import Search
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

AXES = ("train.loss.G_L1=1..100:log", "train.gan_mode=lsgan,vanilla")


@pytest.fixture
def resolve(tiny: Callable[..., Config]) -> Resolve:
    base = tiny(common__seed=5).model_dump(mode="json")
    return lambda overrides: ConfigManager(base, overrides).data


def start(config: Config, resumption: Resumption | None = None) -> RunDirectory:
    return Pix2pixTrainer(config, resumption).train()


def searched(
    resolve: Resolve,
    trials: int,
    axes: Sequence[str] = AXES,
    metric: str = "val/ssim",
    train: Any = start,
    storage: str | None = None,
) -> tuple[Search, list[GridOutcome]]:
    search = Search(parse_axes(axes), resolve, metric, storage)
    search.open()
    return search, list(search.run(trials, train, lambda number, point: None))


def best_in_csv(run: Path, metric: str) -> tuple[float, float]:
    """Lowest and highest value, as pandas reads them."""
    frame = pd.read_csv(run / "metrics.csv")
    values = frame[frame["metric"] == metric]["value"]
    return values.min(), values.max()


def test_a_search_is_a_study_of_runs(resolve: Resolve, tmp_path: Path) -> None:
    search, outcomes = searched(resolve, 3)
    assert [outcome.state for outcome in outcomes] == ["FINISHED"] * 3
    study = optuna.load_study(
        study_name="tiny_sweep_G_L1_gan_mode", storage=f"sqlite:///{tmp_path}/runs/optuna.db"
    )
    assert study.direction.name == "MAXIMIZE"
    for number, (trial, outcome) in enumerate(zip(study.trials, outcomes, strict=True)):
        run = tmp_path / "runs" / f"tiny_v{number + 1}"
        assert outcome.directory == run
        assert trial.value == pytest.approx(best_in_csv(run, "val/ssim")[1])
        config = ConfigManager(run / "config.json").data
        assert config.train.loss["G_L1"] == trial.params["train.loss.G_L1"], "to the bit"
        assert 1 <= trial.params["train.loss.G_L1"] <= 100
        assert config.train.gan_mode == trial.params["train.gan_mode"]
        assert config.logging.mlflow.group == study.study_name
    assert len({trial.params["train.loss.G_L1"] for trial in study.trials}) == 3
    assert [trial.directory for trial in search.trials()] == [o.directory for o in outcomes]

    # Given again, it goes on up to the number of trials in all.
    assert searched(resolve, 3)[1] == []
    assert len(searched(resolve, 4)[1]) == 1
    with pytest.raises(RunError, match=r"searches for val/ssim; give another --group\.$"):
        searched(resolve, 4, metric="val/l1")
    with pytest.raises(RunError, match=r"searches other values of train\.gan_mode; give"):
        searched(resolve, 4, axes=[AXES[0], "train.gan_mode=lsgan,hinge"])


def test_the_guesses_follow_from_the_seed_alone(resolve: Resolve, tmp_path: Path) -> None:
    def guesses(storage: str, *batches: int) -> list[dict[str, str]]:
        for trials in batches:
            search, _ = searched(resolve, trials, storage=f"sqlite:///{tmp_path}/{storage}")
        return [trial.values for trial in search.trials()]

    # The second study finds the runs of the first, and takes their values.
    assert guesses("a.db", 3) == guesses("b.db", 1, 2, 3)
    assert len(list((tmp_path / "runs").glob("tiny_v*"))) == 3


def test_lower_is_better_for_l1(resolve: Resolve) -> None:
    search, outcomes = searched(resolve, 2, metric="val/l1")
    study = optuna.load_study(study_name=search.name, storage=search.storage)
    assert study.direction.name == "MINIMIZE"
    for trial, outcome in zip(study.trials, outcomes, strict=True):
        assert outcome.directory is not None
        assert trial.value == pytest.approx(best_in_csv(outcome.directory, "val/l1")[0])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_trial_fails_and_comes_again(
    resolve: Resolve, tmp_path: Path, stop: BaseException
) -> None:
    class Stopped(Pix2pixTrainer):
        def on_epoch_start(self, epoch: int) -> Any:
            if epoch == 2:
                raise stop
            return super().on_epoch_start(epoch)

    with pytest.raises(type(stop)):
        searched(resolve, 2, train=lambda c, r: Stopped(c, r).train())
    search, outcomes = searched(resolve, 2)
    first, *others = search.trials()
    assert (first.state, first.reason) == ("FAIL", "")
    assert [trial.state for trial in others] == ["COMPLETE"] * 2
    assert others[0].values == first.values
    runs = [tmp_path / "runs" / f"tiny_v{n}" for n in (1, 2)]
    assert [outcome.directory for outcome in outcomes] == runs, "the first was gone on with"
    assert (runs[0] / "resumptions.jsonl").exists()


@pytest.mark.slow
def test_a_failed_run_is_a_failed_trial_that_counts(resolve: Resolve) -> None:
    rates = ["train.generator.learning_rate.initial=1e29..1e30", "logging.window_steps=1"]
    search, outcomes = searched(resolve, 2, axes=rates)
    assert [outcome.state for outcome in outcomes] == ["FAILED"] * 2
    trials = search.trials()
    assert [(trial.state, trial.value) for trial in trials] == [("FAIL", None)] * 2
    assert all("is nan" in trial.reason for trial in trials)

    # One whose config turns out to be none.
    odd = ["dataloader.load.crop_size=32..36", "dataloader.load.load_size=32,36"]
    _, outcomes = searched(resolve, 4, axes=odd)
    failed = [outcome for outcome in outcomes if outcome.state == "FAILED"]
    assert failed
    assert all("larger than load_size" in o.reason or "n_downs" in o.reason for o in failed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("dataloader.batch_size=1..3", int),
        ("common.seed=0..1000:log", None),
        ("train.loss.G_L1=1..3", float),
        ("train.generator.dropout=0..0.5", float),
    ],
)
def test_whole_numbers_where_the_option_takes_no_others(
    resolve: Resolve, axis: str, values: type | None
) -> None:
    if values is None:
        with pytest.raises(ConfigError, match="above 0 for a logarithmic one"):
            parse_axes([axis])
        return
    search, _ = searched(resolve, 1, axes=[axis])
    study = optuna.load_study(study_name=search.name, storage=search.storage)
    (value,) = (v for k, v in study.trials[0].params.items() if k == axis.partition("=")[0])
    assert type(value) is values


def test_the_corners_are_checked_first(resolve: Resolve, tmp_path: Path) -> None:
    search = Search(parse_axes([*AXES, "dataloader.batch_size=1..4"]), resolve, "val/ssim")
    assert [point.name for point in search.corners] == [
        "G_L1=1  gan_mode=lsgan  batch_size=1",
        "G_L1=100  gan_mode=lsgan  batch_size=1",
        "G_L1=1  gan_mode=vanilla  batch_size=1",
        "G_L1=1  gan_mode=lsgan  batch_size=4",
    ]
    check_grid(search.corners, "val/ssim")
    with pytest.raises(ConfigError, match=r"--sweep dataloader\.batch_size cannot be 0\.5"):
        Search(parse_axes(["dataloader.batch_size=0.5..3"]), resolve, "val/ssim")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("storage", "sentence"),
    [
        ("nonsense", r"Optuna's storage '\*\*\*' cannot be used: it must be an address"),
        ("sqlite:////no/such/folder/x.db", "cannot be used: "),
        (
            "postgresql://me:secret@nowhere.invalid/x",
            r"'postgresql://nowhere.invalid/x' cannot",
        ),
    ],
)
def test_a_storage_that_cannot_be_used_leaves_nothing_behind(
    resolve: Resolve, storage: str, sentence: str, tmp_path: Path
) -> None:
    search = Search(parse_axes(AXES), resolve, "val/ssim", storage)
    with pytest.raises(RunError, match=sentence) as caught:
        search.open()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_without_optuna(resolve: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(RunError, match=r"needs Optuna, which is not installed: pip install"):
        Search(parse_axes(AXES), resolve, "val/ssim").open()
