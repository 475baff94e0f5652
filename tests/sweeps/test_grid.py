from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nectargan.config.config_manager import ConfigManager, Override
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, DataError, ModelError, NectarGANError, RunError
from nectargan.record.lock import locked
from nectargan.record.output_directory import list_runs
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.resume import Resumption
from nectargan.sweeps.axes import parse_axes
from nectargan.sweeps.grid import GridPoint, Resolve, check_grid, find_run, grid, run_grid_point
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from ..conftest import draw_pairs

Grid = Callable[..., list[GridPoint]]


@pytest.fixture
def resolve(tiny: Callable[..., Config]) -> Resolve:
    def make(overrides: Sequence[Override]) -> Config:
        return ConfigManager(tiny().model_dump(mode="json"), overrides).data

    return make


@pytest.fixture
def points_of(resolve: Resolve) -> Grid:
    def make(*texts: str, **options: Any) -> list[GridPoint]:
        more = [(key.replace("__", "."), value) for key, value in options.items()]
        return grid(parse_axes(texts), lambda overrides: resolve([*more, *overrides]))

    return make


def start(config: Config, resumption: Resumption | None = None) -> RunDirectory:
    return Pix2pixTrainer(config, resumption).train()


def never(config: Config, resumption: Resumption | None) -> RunDirectory:
    raise AssertionError("there is nothing to train")


def test_a_grid_has_all_combinations_in_order(points_of: Grid) -> None:
    points = points_of("train.loss.G_L1=10,50", "train.loss.G_GAN=linear 0->1 @ 1-20,1.0")
    assert [point.name for point in points] == [
        "G_L1=10  G_GAN=linear 0->1 @ 1-20",
        "G_L1=10  G_GAN=1.0",
        "G_L1=50  G_GAN=linear 0->1 @ 1-20",
        "G_L1=50  G_GAN=1.0",
    ]
    assert [point.config.train.loss["G_L1"] for point in points] == [10, 10, 50, 50]
    assert {point.config.logging.mlflow.group for point in points} == {"tiny_sweep_G_L1_G_GAN"}


def test_the_group_may_be_named_and_always_is_a_name(points_of: Grid) -> None:
    (point,) = points_of("train.loss.G_L1=10", logging__mlflow__group="mine")
    assert point.config.logging.mlflow.group == "mine"
    term = {"function": "torch.nn.MSELoss"}
    (point,) = points_of("train.loss.G é/x.weight=1", **{"train__loss__G é/x": term})
    assert point.config.logging.mlflow.group == "tiny_sweep_weight"
    (point,) = points_of("train.loss.G_L1=10", common__experiment_name="e" * 100)
    assert point.config.logging.mlflow.group == "e" * 100


def test_a_grid_point_is_recognised_by_its_run(points_of: Grid, tmp_path: Path) -> None:
    one, other = points_of("train.loss.G_L1=10,50")
    assert find_run(one)[1:3] == ("NEW", None)
    outcome = run_grid_point(one, start)
    run = tmp_path / "runs" / "tiny_v1"
    assert outcome == (one, "FINISHED", run, "")
    assert find_run(one)[1:3] == ("FINISHED", run)
    assert find_run(other)[1:3] == ("NEW", None)
    assert run_grid_point(one, never) == outcome

    # What only says where and how it runs makes no other run of it; the data does.
    (same,) = points_of("train.loss.G_L1=10", logging__window_steps=7, save__keep_last=2)
    assert find_run(same)[1:3] == ("FINISHED", run)
    (elsewhere,) = points_of("train.loss.G_L1=10", dataloader__dataroot=str(tmp_path))
    assert find_run(elsewhere).state == "NEW"
    # Unless that is what is swept.
    seven, _ = points_of("logging.window_steps=7,50", train__loss__G_L1=10)
    assert find_run(seven).state == "NEW"


def test_an_unfinished_run_is_resumed(points_of: Grid, tmp_path: Path) -> None:
    (point,) = points_of("train.loss.G_L1=10", save__model_save_rate=1)

    class Stopped(Pix2pixTrainer):
        def on_epoch_start(self, epoch: int) -> Any:
            if epoch == 2:
                raise KeyboardInterrupt
            return super().on_epoch_start(epoch)

    with pytest.raises(KeyboardInterrupt):
        run_grid_point(point, lambda config, resumption: Stopped(config, resumption).train())
    run = tmp_path / "runs" / "tiny_v1"
    assert find_run(point)[1:3] == ("UNFINISHED", run)
    resumed = []

    def resume_it(config: Config, resumption: Resumption | None) -> RunDirectory:
        assert resumption is not None
        resumed.append(resumption.state.epoch)
        return start(config, resumption)

    assert run_grid_point(point, resume_it)[1:3] == ("FINISHED", run)
    assert resumed == [1]
    assert list_runs(tmp_path / "runs", "tiny") == [run]

    # Its checkpoints gone, it is begun anew, and the newest run counts.
    RunDirectory(run).write_status("KILLED")
    for checkpoint in run.glob("checkpoints/*"):
        checkpoint.write_bytes(b"torn")
    assert run_grid_point(point, start)[1:3] == ("FINISHED", tmp_path / "runs" / "tiny_v2")


def test_a_run_whose_weights_changed_is_not_that_of_the_grid_point(
    points_of: Grid, tmp_path: Path
) -> None:
    (point,) = points_of("train.loss.G_L1=10")
    run = run_grid_point(point, start).directory
    assert run is not None

    def resumed_with(**changes: Any) -> str:
        line = {"time": 0, "epoch": 1, "step": 3, "changes": {k: [1, 2] for k in changes}}
        (run / "resumptions.jsonl").write_text(json.dumps(line) + "\n")
        return find_run(point).state

    assert resumed_with() == "FINISHED"
    assert resumed_with(**{"logging.window_steps": 3, "dataloader.dataroot": 3}) == "FINISHED"
    assert resumed_with(**{"train.loss.G_L1": 3}) == "NEW"


def test_a_failure_is_reported_and_stops_nothing(points_of: Grid, tmp_path: Path) -> None:
    rates = "train.generator.learning_rate.initial=0.001,1e30"
    good, bad = points_of(rates, logging__window_steps=1)
    outcome = run_grid_point(bad, start)
    assert (outcome.state, outcome.directory) == ("FAILED", tmp_path / "runs" / "tiny_v1")
    assert outcome.reason.startswith("Loss 'G_GAN' is nan with weight 1 in epoch 1, step 1; ")
    assert RunDirectory(tmp_path / "runs" / "tiny_v1").status == "FAILED"
    assert run_grid_point(good, start).state == "FINISHED"

    def crash(config: Config, resumption: Resumption | None) -> RunDirectory:
        raise RuntimeError("CUDA out of\nmemory")

    (other,) = points_of("train.loss.G_L1=3")
    assert run_grid_point(other, crash) == (
        other,
        "FAILED",
        None,
        "RuntimeError: CUDA out of memory",
    )


def test_a_grid_point_is_never_run_by_two(points_of: Grid, tmp_path: Path) -> None:
    """Also not in the moments before the first one has made its run directory."""
    (point,) = points_of("train.loss.G_L1=10")
    entered, leave = threading.Event(), threading.Event()
    outcomes = []

    def slow(config: Config, resumption: Resumption | None) -> RunDirectory:
        entered.set()
        assert leave.wait(20)
        return start(config)

    thread = threading.Thread(target=lambda: outcomes.append(run_grid_point(point, slow)))
    thread.start()
    assert entered.wait(20)
    second = run_grid_point(point, never)
    leave.set()
    thread.join()
    assert second == (point, "RUNNING", None, "in use by another process")
    assert outcomes[0].state == "FINISHED"
    assert run_grid_point(point, never).state == "FINISHED"

    # And not while it is gone on with by hand.
    run = outcomes[0].directory
    RunDirectory(run).write_status("RUNNING")
    with locked(run):
        assert run_grid_point(point, never)[1:] == ("RUNNING", run, "in use by another process")


@pytest.mark.parametrize(
    ("texts", "options", "error", "sentence"),
    [
        (["train.loss.G_L1=1,1..5"], {}, ConfigError, '--sweep train.loss.G_L1 cannot be "1..5"'),
        (["train.loss.G_L1=1..5"], {}, ConfigError, "is a range, which needs --sweep-search"),
        (["train.loss.G_LI=1,2"], {}, ConfigError, "Did you mean 'G_L1'?"),
        (
            ["train.generator.featurs=1,2"],
            {},
            ConfigError,
            "train.generator.featurs is not a known key of 'unet'. Did you mean 'features'?",
        ),
        (
            ["train.generator.features=4,-4"],
            {},
            ConfigError,
            "--sweep train.generator.features cannot be -4",
        ),
        (
            ["train.loss.G_L1=5,5.0"],
            {},
            ConfigError,
            "--sweep has the same run twice: 'G_L1=5' and 'G_L1=5.0'.",
        ),
        (["dataloader.load.crop_size=32,30"], {}, ModelError, "multiple of 8"),
        (["train.discriminator.n_layers=1,9"], {}, ModelError, "n_layers"),
        (["common.device=cpu,cuda:99"], {}, ConfigError, "common.device is 'cuda:99'"),
        (["train.cuda_graph=off,on"], {}, ConfigError, "train.cuda_graph is 'on', but"),
        (['train.loss.G_X=1,{"function":"no.Such"}'], {}, ConfigError, "train.loss.G_X"),
        (["common.seed=1,2"], {"dataloader__dataroot": "nowhere"}, DataError, "nowhere: no such"),
        (
            ["common.seed=1,2"],
            {"save__auto_increment_version": False},
            ConfigError,
            "save.auto_increment_version",
        ),
    ],
)
def test_every_grid_point_is_checked_before_the_first_run(
    points_of: Grid,
    tmp_path: Path,
    texts: list[str],
    options: dict[str, Any],
    error: type[NectarGANError],
    sentence: str,
) -> None:
    with pytest.raises(error) as caught:
        check_grid(points_of(*texts, **options))
    assert sentence in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_metric_needs_something_to_measure(points_of: Grid, tmp_path: Path) -> None:
    draw_pairs(tmp_path / "no_val", "train", 2)
    points = points_of("common.seed=1,2", dataloader__dataroot=str(tmp_path / "no_val"))
    check_grid(points)
    with pytest.raises(ConfigError, match="--metric val/ssim needs validation images"):
        check_grid(points, "val/ssim")
    with pytest.raises(ConfigError, match=r"--metric val/ssim is read from .* logging\.csv=false"):
        check_grid(points_of("common.seed=1,2", logging__csv=False), "val/ssim")


def test_the_output_directory_may_be_unwritable(points_of: Grid, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    (point,) = points_of("common.seed=1")
    outcome = run_grid_point(point, never)
    assert outcome.state == "FAILED"
    assert outcome.reason.startswith(f"'{tmp_path / 'runs'}' cannot be written: ")


def test_a_claim_is_an_error_of_ours_only(points_of: Grid) -> None:
    (point,) = points_of("common.seed=1")

    def fails(config: Config, resumption: Resumption | None) -> RunDirectory:
        raise RunError("'runs' is full.")

    assert run_grid_point(point, fails).reason == "'runs' is full."
