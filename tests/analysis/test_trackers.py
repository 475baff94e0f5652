"""What TensorBoard and MLflow have of a run is what the ledger has."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nectargan.analysis import load_losses, load_metrics, load_runs
from nectargan.analysis.export import Selection, export_losses
from nectargan.config.schema import Config
from nectargan.errors import RunError
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.tensorboard.sink import TensorBoardSink
from nectargan.record.points import Point
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

COLUMNS = ["step", "epoch", "time", "loss", "raw", "weight", "weighted"]


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by step and name, names as text: categories may be in another order."""
    frame = frame.astype({"loss": str}).sort_values(["step", "loss"])
    return frame.reset_index(drop=True)


@pytest.fixture
def trained(
    tiny: Callable[..., Config], tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A run of 2 x 3 steps with both sinks; what to call it in each of them."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    config = tiny(
        logging__tensorboard={"enable": True, "every_n_steps": 2},
        logging__mlflow={
            "enable": True,
            "every_n_steps": 1,
            "log_model": False,
            "system_metrics": False,
            "tracking_uri": store,
        },
        train__loss__G_L1="linear 100->30 @ 1-2",
    )
    trainer = Pix2pixTrainer(config)
    directory = trainer.train()
    run_id = pd.read_json(directory / "mlflow_run.json", typ="series")["run_id"]
    return {
        "csv": str(directory),
        "tensorboard": str(directory / "tensorboard"),
        "mlflow": f"mlflow:{run_id}",
    }


def test_three_sources_have_the_same_values(trained: dict[str, str], tmp_path: Path) -> None:
    ledger = in_order(load_losses(trained["csv"]))
    assert len(ledger) == 24
    for source, steps in (("tensorboard", [1, 2, 4, 6]), ("mlflow", [1, 2, 3, 4, 5, 6])):
        frame = load_losses(trained[source])
        assert (
            frame.dtypes.astype(str).to_dict()
            == load_losses(trained["csv"]).dtypes.astype(str).to_dict()
        )
        expected = ledger[ledger["step"].isin(steps)].reset_index(drop=True)
        pd.testing.assert_frame_equal(in_order(frame)[COLUMNS], expected[COLUMNS], check_exact=True)

    metrics = load_metrics(trained["csv"])
    for source in ("tensorboard", "mlflow"):
        frame = load_metrics(trained[source])
        theirs = frame.set_index(["metric", "step"])["value"]
        for name, step, value in zip(
            metrics["metric"], metrics["step"], metrics["value"], strict=True
        ):
            assert theirs[(name, step)] == value
    # The same run, whoever is asked, and the same story.
    runs = load_runs(list(trained.values()))
    assert runs.index.tolist() == list(trained.values()), "one name, told apart"
    assert runs["status"].tolist() == ["FINISHED"] * 3
    for column in ("step", "train.loss.G_L1", "loss/G_L1/raw", "val/ssim", "best/ssim"):
        assert runs[column].nunique() == 1
    assert runs["train.loss.G_L1"].iloc[2] == "linear 100→30 @ 1–2"

    # Tags came along, too.
    for source in trained.values():
        count = export_losses(source, tmp_path / "out.csv", Selection(query=["D"], wide=True))
        table = pd.read_csv(tmp_path / "out.csv")
        assert len(table) == count
        weights = [name for name in table if name.startswith("weight/")]
        assert weights == ["weight/D_real", "weight/D_fake"]


def points(steps: range, offset: float = 0.0, epochs: bool = True) -> list[Point]:
    """Points of a loss "a/b" in epochs of three steps."""
    made = []
    for step in steps:
        value = math.inf if step == 4 else step + offset
        values = {"loss/a/b/raw": value, "loss/a/b/weighted": 2 * value, "weight/a/b": 2.0}
        if epochs and step % 3 == 1:
            values["epoch"] = 1 + step // 3
        made += [Point(series, v, step, 1000 * step + 1) for series, v in values.items()]
    return made


def test_what_a_resumed_run_purged_is_not_seen(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    first.open(0)
    first.write(points(range(1, 8)))
    first.close("KILLED", "")
    again = TensorBoardSink(tmp_path)
    again.open(6)
    again.write(points(range(6, 10), offset=0.5))
    again.close("FINISHED", "")
    frame = load_losses(tmp_path)
    assert frame["step"].tolist() == list(range(1, 10))
    assert frame["raw"].tolist() == [1, 2, 3, math.inf, 5, 6.5, 7.5, 8.5, 9.5]
    assert frame["time"].tolist() == [1000 * step + 1 for step in range(1, 10)]
    assert frame["epoch"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert set(frame["loss"]) == {"a/b"}
    assert load_runs(tmp_path)["status"].isna().all(), "event files do not know it"


def test_both_names_of_weights_are_read(tmp_path: Path) -> None:
    """As of a run that an earlier version began."""
    sink = TensorBoardSink(tmp_path)
    sink.open(0)
    for step, weight in ((1, "weight/a"), (2, "loss/a/weight"), (3, "loss/a/weight")):
        sink.write([Point("loss/a/raw", 0.5, step, 1), Point(weight, step / 4, step, 1)])
    sink.close("FINISHED", "")
    frame = load_losses(tmp_path)
    assert frame["weight"].tolist() == [0.25, 0.5, 0.75]
    assert set(frame["loss"]) == {"a"}


def test_mlflow_gives_nan_and_infinities_back(tmp_path: Path, store: str) -> None:
    sink = MLflowSink(store, "e", tmp_path / "some_run", every_n_steps=1)
    (tmp_path / "some_run").mkdir()
    sink.open(0)
    sink.write(points(range(1, 6), epochs=False))
    sink.write([Point("loss/a/b/raw", math.nan, 6, 1), Point("weight/a/b", 2.0, 6, 1)])
    sink.write([Point("loss/a/b/raw", -math.inf, 7, 1), Point("val/psnr", math.inf, 7, 1)])
    sink.close("FAILED", "it broke")
    frame = load_losses(f"mlflow:{sink.run_id}", mlflow_uri=store)
    inf = np.inf
    np.testing.assert_array_equal(frame["raw"], np.float32([1, 2, 3, inf, 5, np.nan, -inf]))
    assert frame["weight"].tolist()[:6] == [2.0] * 6
    assert frame["epoch"].tolist() == [0] * 7, "not known without the series"
    metrics = load_metrics(f"mlflow:{sink.run_id}", mlflow_uri=store)
    assert metrics[["metric", "step", "value"]].to_numpy().tolist() == [["val/psnr", 7, inf]]
    runs = load_runs([f"mlflow:{sink.run_id}"], store)
    assert runs[["status", "reason"]].to_numpy().tolist() == [["FAILED", "it broke"]]
    assert runs.index.tolist() == ["some_run"]


def test_a_tracker_without_losses(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.open(0)
    sink.write([Point("val/ssim", 0.5, 3, 1)])
    sink.close("FINISHED", "")
    assert load_losses(tmp_path).empty
    assert load_losses(tmp_path).dtypes["raw"] == "float32"
    assert load_metrics(tmp_path)["value"].tolist() == [0.5]


def test_which_mlflow_is_asked(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RunError, match="No MLflow server was given; use --mlflow-uri"):
        load_losses("mlflow:abc")
    with pytest.raises(
        RunError, match=r"reached at 'sqlite:///.*/no\.db': there is no such file\."
    ):
        load_losses("mlflow:abc", mlflow_uri="sqlite:///no.db")
    assert list(folder.iterdir()) == [], "MLflow would make one"
    with pytest.raises(RunError, match=r"'mlflow:abc' .* at 'sqlite:.*mlflow\.db': it has no run"):
        load_losses("mlflow:abc", mlflow_uri=store)
    (folder / "runs").mkdir()
    (tmp_path / "mlflow.db").rename(folder / "runs" / "mlflow.db")
    with pytest.raises(RunError, match=r"runs/mlflow\.db': it has no run 'abc'"):
        load_losses("mlflow:abc")


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{address}")
        with pytest.raises(RunError, match=f"reached at 'http://.*{address}'") as error:
            load_losses("mlflow:abc")
    assert "secret" not in str(error.value)
