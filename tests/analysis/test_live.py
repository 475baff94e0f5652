from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from nectargan.analysis.live import LiveRun, sparkline
from nectargan.config.config_manager import ConfigManager, save_config
from nectargan.errors import RunError
from nectargan.record.ledger import GradientRow, Ledger, LossRow, MetricRow
from nectargan.record.lock import locked
from nectargan.record.run_directory import RunDirectory


def losses(*steps: int, per_epoch: int = 10, loss: str = "G_L1") -> list[LossRow]:
    """A step each 100 ms, whose raw loss is its number."""
    return [
        LossRow(s, (s - 1) // per_epoch + 1, 1000 + 100 * s, loss, float(s), 2.0, 2.0 * s)
        for s in steps
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A run of 20 epochs with batches of 4, which has just begun."""
    config = ConfigManager(None, [("dataloader.batch_size", 4)])
    config.set_epochs(20)
    save_config(config.data, tmp_path / "config.json")
    RunDirectory(tmp_path).write_status("RUNNING")
    return tmp_path


def test_a_run_is_followed_from_its_beginning_to_its_end(directory: Path) -> None:
    with locked(directory):
        live = LiveRun(RunDirectory(directory))
        assert (live.status, live.epoch, live.step, live.losses) == ("RUNNING", 0, 0, {})
        assert (live.total_steps, live.images_per_second, live.seconds_left) == (None, None, None)

        ledger = Ledger(directory / "losses.csv", LossRow)
        metrics = Ledger(directory / "metrics.csv", MetricRow)
        ledger.append(losses(*range(1, 11)) + losses(10, loss="D_real"))
        live.look()
        assert (live.epoch, live.step) == (1, 10)
        assert live.losses["G_L1"] == losses(10)[0]
        assert set(live.losses) == {"G_L1", "D_real"}
        assert list(live.trends["G_L1"]) == list(range(1, 11))
        assert live.images_per_second == pytest.approx(40)

        metrics.append(
            [MetricRow(10, 1, 2000, "val/l1", 0.5), MetricRow(10, 1, 2000, "time/epoch_seconds", 1)]
        )
        ledger.append(losses(11, 12))
        live.look()
        assert live.metrics["val/l1"] == 0.5
        assert live.metrics_epoch == 1
        assert live.total_steps == 200
        assert live.seconds_left == pytest.approx(188 * 4 / 40)

        # Half a row is none yet.
        with (directory / "losses.csv").open("a") as file:
            file.write("13,2,2300,G_L")
            file.flush()
            live.look()
            assert live.step == 12
            file.write("1,13.0,2.0,26.0\n")
        live.look()
        assert live.step == 13
        RunDirectory(directory).write_status("FINISHED")
    live.look()
    assert live.status == "FINISHED"


def test_shares_of_the_gradient_are_those_of_the_last_step(directory: Path) -> None:
    with locked(directory):
        live = LiveRun(RunDirectory(directory))
        assert live.shares == {}
        ledger = Ledger(directory / "gradients.csv", GradientRow)
        for step, share in ((1, 0.25), (2, 0.75)):
            ledger.append(
                [
                    GradientRow(step, 1, 1000, "G_L1", 2.0, share, 0.1),
                    GradientRow(step, 1, 1000, "G_GAN", 2.0, 1 - share, 0.1),
                ]
            )
            live.look()
            assert live.shares == {"G_L1": share, "G_GAN": 1 - share}


def test_a_dead_worker_is_not_waited_for(directory: Path) -> None:
    live = LiveRun(RunDirectory(directory))
    assert (live.status, live.reason) == ("KILLED", "the process ended unexpectedly")
    assert RunDirectory(directory).status == "KILLED"


def test_a_truncated_record_is_read_again(directory: Path) -> None:
    with locked(directory):
        ledger = Ledger(directory / "losses.csv", LossRow)
        ledger.append(losses(*range(1, 31)))
        live = LiveRun(RunDirectory(directory))
        assert live.step == 30
        ledger.close()
        path = directory / "losses.csv"
        kept = path.read_bytes().splitlines(keepends=True)[:21]
        (directory / "new.csv").write_bytes(b"".join(kept))
        (directory / "new.csv").replace(path)
        live.look()
        assert live.step == 20
        assert list(live.trends["G_L1"]) == list(range(1, 21))


def test_of_a_long_record_the_end_is_read(directory: Path) -> None:
    with locked(directory):
        ledger = Ledger(directory / "losses.csv", LossRow)
        ledger.append(losses(*range(1, 60001)))
        assert ledger.size > 2 << 20
        live = LiveRun(RunDirectory(directory))
        assert live.step == 60000
        trend = list(live.trends["G_L1"])
        assert trend == list(range(60001 - len(trend), 60001))
        assert len(trend) == 2000


def test_what_cannot_be_watched(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run directory: it does not exist\."):
        LiveRun(RunDirectory(tmp_path / "nowhere"))
    config = json.loads((directory / "config.json").read_text())
    config["logging"]["csv"] = False
    config["logging"]["mlflow"]["enable"] = config["logging"]["tensorboard"]["enable"] = False
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"has no record to watch: logging\.csv is false"):
        LiveRun(RunDirectory(directory))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
@pytest.mark.parametrize("name", ["losses.csv", "metrics.csv"])
def test_a_pipe_in_the_place_of_a_ledger_is_named(directory: Path, name: str) -> None:
    os.mkfifo(directory / name)
    with pytest.raises(RunError, match=f"/{name}' cannot be read: it is a pipe"):
        LiveRun(RunDirectory(directory))


@pytest.mark.parametrize("speed", ["nan", "0", "-3", "5e-324", "inf"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_numbers_of_somebody_else_are_looked_at_without_trouble(
    directory: Path, speed: str, epoch: int
) -> None:
    header = "step,epoch,time,loss,raw,weight,weighted\n"
    (directory / "losses.csv").write_text(f"{header}10,1,5,G_L1,1,1,1\n")
    (directory / "metrics.csv").write_text(
        f"step,epoch,time,metric,value\n10,{epoch},5,time/images_per_second,{speed}\n"
    )
    live = LiveRun(RunDirectory(directory))
    assert live.seconds_left == (0.0 if (speed, epoch) == ("inf", 1) else None)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([5.0], "▁"),
        ([1.0, 1.0, 1.0], "▁▁▁"),
        ([0.0, 7.0], "▁█"),
        ([float(n) for n in range(8)], "▁▂▃▄▅▆▇█"),
        ([0.0, math.nan, 1.0, math.inf], "▁ █ "),
        ([math.nan], " "),
    ],
)
def test_sparkline(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_a_long_sparkline_has_the_means_of_its_parts() -> None:
    assert sparkline([0.0, 2.0, 3.0, 5.0, 7.0, 9.0], width=3) == "▁▄█"
    assert len(sparkline([float(n) for n in range(1000)], width=24)) == 24
