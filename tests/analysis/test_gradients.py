"""Tables of gradients are those of ``gradients.csv``, wherever they are read from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nectargan import load_gradients
from nectargan.analysis import load_metrics, load_runs
from nectargan.analysis.compare import compare_runs, render_comparison
from nectargan.analysis.export import Selection, export_losses
from nectargan.errors import RunError
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.tensorboard.sink import TensorBoardSink
from nectargan.record.follower import Follower
from nectargan.record.ledger import GradientRow, Ledger
from nectargan.record.loss_tags import write_loss_tags
from nectargan.record.rollback import cut_ledger
from nectargan.record.run_directory import RunDirectory
from nectargan.record.seeking import offset_of_step
from tests.gradient_rows import write_gradients

from .conftest import make_run, make_whole_run, typed

LOSSES = ("G_GAN", "G_L1")
VALUES = ["norm", "share", "cosine"]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of 20 steps in two epochs."""
    make_run(tmp_path / "r", losses=LOSSES)
    write_gradients(tmp_path / "r", losses=LOSSES)
    return RunDirectory(tmp_path / "r")


def test_they_are_those_of_the_ledger(run: RunDirectory) -> None:
    table = pd.read_csv(run.gradients)
    pd.testing.assert_frame_equal(load_gradients(run), typed(table), check_exact=True)
    frame = load_gradients([run])
    assert list(frame) == ["run", *table]
    assert set(frame["run"]) == {"r"}


def test_steps_that_were_orphaned_are_left_out(run: RunDirectory) -> None:
    cut_ledger(run.gradients, offset_of_step(run.gradients, 8), run.orphaned / "attempt-1.csv")
    assert load_gradients(run)["step"].max() == 7


def test_a_run_without_gradients(
    run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path / "old")
    with pytest.raises(
        RunError, match=r"'.*old' has no gradients\.csv: its gradients were not rec"
    ):
        load_gradients(tmp_path / "old")
    with caplog.at_level(logging.WARNING, "nectargan"):
        assert load_gradients([run, tmp_path / "old"])["run"].unique().tolist() == ["r"]
    assert "old' has no gradients.csv: its gradients were not recorded. It is left out." in (
        caplog.text
    )
    with pytest.raises(RunError, match=r"has no gradients\.csv"):
        export_losses(tmp_path / "old", tmp_path / "x.csv", Selection(gradients=True))
    assert not (tmp_path / "x.csv").exists()
    sink = TensorBoardSink(tmp_path / "old" / "tensorboard")
    Follower(sink, RunDirectory(tmp_path / "old")).catch_up("FINISHED")
    with pytest.raises(RunError, match="tensorboard' has no gradients: they were not recorded"):
        load_gradients(tmp_path / "old" / "tensorboard")


def test_tensorboard_and_mlflow_have_the_same_values(run: RunDirectory, store: str) -> None:
    sinks = TensorBoardSink(run.tensorboard, 5), MLflowSink(store, "e", run)
    for sink in sinks:
        Follower(sink, run).catch_up("FINISHED")  # type: ignore[arg-type]
    table = typed(pd.read_csv(run.gradients))
    frame = load_gradients(run.tensorboard)
    shown = table[table["step"].isin([1, 5, 10, 15, 20])].reset_index(drop=True)
    columns = ["step", "time", "loss", *VALUES]
    assert frame.dtypes.equals(table.dtypes)
    pd.testing.assert_frame_equal(
        frame[columns], shown[columns], check_exact=True, check_categorical=False
    )
    place = f"mlflow:{sinks[1].run_id}"
    means = load_gradients(place, mlflow_uri=store).set_index(["step", "loss"])
    expected = table.groupby(["epoch", "loss"], observed=True)[VALUES].mean()
    expected.index = means.index
    assert means.index.tolist() == [(step, loss) for step in (10, 20) for loss in LOSSES]
    pd.testing.assert_frame_equal(means[VALUES], expected, rtol=1e-5)
    for source in (run.tensorboard, place):
        assert set(load_metrics(source, mlflow_uri=store)["metric"]) == {"val/x"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_exports(run: RunDirectory, tmp_path: Path, suffix: str) -> None:
    table, output = pd.read_csv(run.gradients), tmp_path / f"out.{suffix}"
    read = pd.read_csv if suffix == "csv" else pd.read_parquet

    def export(**options: object) -> pd.DataFrame:
        rows = export_losses(run, output, Selection(gradients=True, **options))  # type: ignore[arg-type]
        frame: pd.DataFrame = read(output)
        assert len(frame) == rows
        return frame

    found = export()
    assert found[VALUES].astype("float32").equals(table[VALUES].astype("float32"))
    if suffix == "csv":
        assert output.read_bytes() == run.gradients.read_bytes()
    wide = export(wide=True, every=10)
    assert list(wide) == ["step", "epoch", "time"] + [
        f"gradient/{loss}/{value}" for loss in LOSSES for value in VALUES
    ]
    assert wide["step"].tolist() == [1, 10, 20]
    one = table[table["loss"] == "G_L1"].set_index("step")
    np.testing.assert_allclose(
        wide["gradient/G_L1/cosine"], one.loc[wide["step"], "cosine"], rtol=1e-6
    )
    means = export(epoch_means=True, losses=["G_L1"])
    np.testing.assert_allclose(means[VALUES], one.groupby("epoch")[VALUES].mean(), rtol=1e-5)
    smooth = export(smooth=0.5, losses=["G_L1"])
    for value in VALUES:
        expected = one[value].ewm(alpha=0.5, adjust=True).mean()
        np.testing.assert_allclose(smooth[value], expected, rtol=1e-4, atol=1e-6)


def test_losses_that_have_no_gradients(run: RunDirectory, tmp_path: Path) -> None:
    write_loss_tags(run.loss_tags, {"G_L1": ("G",), "G_GAN": ("G",), "D_real": ("D",)})
    selection = Selection(gradients=True, losses=["D_real"])
    with pytest.raises(RunError, match="No run has gradients of a loss 'D_real'"):
        export_losses(run, tmp_path / "x.csv", selection)
    assert export_losses(run, tmp_path / "x.csv", Selection(gradients=True, query=["G"])) == 40
    with pytest.raises(RunError, match="is the record of a run itself"):
        export_losses(run, run.gradients, Selection(gradients=True))


def test_the_table_of_runs_has_the_shares_of_the_last_epoch(tmp_path: Path, store: str) -> None:
    for number in (1, 2):
        make_whole_run(tmp_path / f"v{number}", [("train.loss.G_L1", 10.0 * number)])
    table = write_gradients(tmp_path / "v1", losses=LOSSES)
    ledger = Ledger(tmp_path / "v1" / "gradients.csv", GradientRow, resume=True)
    ledger.append([GradientRow(20, 2, 20, "G_L1", np.nan, np.nan, np.nan)])
    ledger.close()
    runs = [tmp_path / "v1", tmp_path / "v2"]
    frame = load_runs(runs)
    last = table[table["epoch"] == 2].groupby("loss")["share"].mean()
    for loss in LOSSES:
        column = frame[f"gradient/{loss}/share"]
        assert column["v1"] == pytest.approx(last[loss], rel=1e-6)
        assert np.isnan(column["v2"]), "it has no gradients"
    compared = compare_runs(runs)
    assert f"{last['G_L1']:.4g}" in render_comparison(compared, "md")
    assert "share G_L1" in render_comparison(compared, "md")
    assert "gradient/G_L1/share" in render_comparison(compared, "csv").partition("\n")[0]
    # MLflow has the mean itself.
    sink = MLflowSink(store, "e", tmp_path / "v1")
    Follower(sink, RunDirectory(tmp_path / "v1")).catch_up("FINISHED")
    found = load_runs(f"mlflow:{sink.run_id}", mlflow_uri=store)
    assert found["gradient/G_L1/share"].iloc[0] == pytest.approx(last["G_L1"], rel=1e-6)
