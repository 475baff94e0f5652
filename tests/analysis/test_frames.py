from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nectargan.analysis import load_losses, load_metrics, load_runs, tables
from nectargan.errors import RunError
from nectargan.record.ledger import LossRow
from nectargan.record.lock import locked
from nectargan.record.run_directory import RunDirectory

from .conftest import make_run, make_whole_run, typed, write_losses


def test_losses_and_metrics_of_one_run(tmp_path: Path) -> None:
    table = make_run(tmp_path / "r")
    frame = load_losses(tmp_path / "r")
    pd.testing.assert_frame_equal(frame, typed(table))
    assert frame["loss"].cat.categories.tolist() == ["a", "b"]
    metrics = load_metrics(str(tmp_path / "r"))
    assert metrics.dtypes.astype(str).to_dict() == {
        "step": "int64",
        "epoch": "int64",
        "time": "int64",
        "metric": "category",
        "value": "float32",
    }
    assert metrics["value"].tolist() == [2.5, 5.0]


@pytest.mark.parametrize("block", [45, 100, 1000])
def test_blocks_join_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    table = make_run(tmp_path / "r", losses="cab")
    monkeypatch.setattr(tables, "_BLOCK_BYTES", block)
    assert len(list(tables.read_ledger(RunDirectory(tmp_path / "r"), "losses.csv"))) > 2
    pd.testing.assert_frame_equal(load_losses(tmp_path / "r"), typed(table))


def test_a_list_and_a_pattern_give_the_name_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ten = make_run(tmp_path / "runs" / "v10", losses="c", seed=1)
    nine = make_run(tmp_path / "runs" / "v9")
    (tmp_path / "runs" / "mlflow.db").touch()
    (tmp_path / "runs" / "else").mkdir()
    expected = pd.concat([nine.assign(run="v9"), ten.assign(run="v10")], ignore_index=True)
    expected = typed(expected)[["run", *nine.columns]]
    expected["run"] = pd.Categorical(expected["run"], ["v9", "v10"])
    for runs in ("runs/*", [Path("runs/v9"), "runs/v10"], ["runs/v?", "runs/v10"]):
        pd.testing.assert_frame_equal(load_losses(runs), expected)
    assert load_losses(["runs/v9"])["run"].unique().tolist() == ["v9"]
    assert load_metrics("runs/*")["run"].tolist() == ["v9", "v9", "v10", "v10"]


def test_paths_may_begin_at_home_or_with_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs" / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    expected = load_losses(tmp_path / "runs" / "a")
    for run in ("~/runs/a", Path("~/runs/a"), "$RUNS/a"):
        pd.testing.assert_frame_equal(load_losses(run), expected)
    assert load_metrics("~/runs/*")["run"].unique().tolist() == ["a"]
    assert load_runs(["~/runs/a"]).index.tolist() == ["a"]


def test_runs_with_the_same_name_are_listed_by_path(tmp_path: Path) -> None:
    runs = [tmp_path / folder / "run" for folder in ("x", "y")]
    for run in runs:
        make_run(run, steps=1, losses="a")
    assert load_losses(runs)["run"].tolist() == [str(run) for run in runs]


def test_a_run_in_progress_is_read_as_far_as_it_has_come(tmp_path: Path) -> None:
    table = make_run(tmp_path / "r")
    with (tmp_path / "r" / "losses.csv").open("a") as file:
        file.write("21,3,10")
    pd.testing.assert_frame_equal(load_losses(tmp_path / "r"), typed(table))


def test_a_run_without_steps(tmp_path: Path) -> None:
    make_run(tmp_path / "r", steps=0)
    frame = load_losses(tmp_path / "r")
    assert frame.empty
    assert frame.dtypes["raw"] == "float32"
    assert frame.dtypes["loss"] == "category"
    assert list(load_losses([tmp_path / "r"]).columns) == ["run", *frame.columns]
    assert load_runs(tmp_path / "r")[["epoch", "step"]].to_numpy().tolist() == [[0, 0]]


HEADER = b"step,epoch,time,loss,raw,weight,weighted\n"


@pytest.mark.parametrize(
    "rows",
    [
        b"1,1,1,a,1,1,1\n1,1,1,a,1,1,1,9,9,9\n",
        b"1,1,1,\xff\xfe,1,1,1\n",
        b"3,1,10\n4,1,1,a,1,1,1\n",  # torn, and written on
        b"1,1,1,a,,1,1\n",
        b"1,1,1,a,much,1,1\n",
        b"1.5,1,1,a,1,1,1\n",
        b"1,1,1,a,1,1,1\n\x00\x00\x00\x00\n",  # as some file systems leave it after a crash
        b'1,1,1,"a,1,1,1\n',
        b"1,1,1,a,1,1,1\n\n2,1,1,a,1,1,1\n",
        b"99999999999999999999,1,1,a,1,1,1\n",
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_damage_is_reported_and_never_read_as_missing(
    tmp_path: Path, rows: bytes, as_text: bool
) -> None:
    (tmp_path / "losses.csv").write_bytes(HEADER + rows)
    with pytest.raises(RunError, match=r"losses\.csv' is damaged: .*\.$"):
        list(tables.read_ledger(RunDirectory(tmp_path), "losses.csv", as_text))


def test_special_values_and_names_that_look_like_values(tmp_path: Path) -> None:
    rows = b"1,1,1,true,nan,1.0,inf\n1,1,1,1e5,-inf,33.333333333333336,1e-45\n"
    (tmp_path / "losses.csv").write_bytes(HEADER + rows)
    frame = load_losses(tmp_path)
    assert frame["loss"].tolist() == ["true", "1e5"]
    np.testing.assert_array_equal(frame["raw"], [np.nan, -np.inf])
    np.testing.assert_array_equal(frame["weight"], np.float32([1.0, 100 / 3]))
    np.testing.assert_array_equal(frame["weighted"], np.float32([np.inf, 1e-45]))


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"'nowhere' is not a run directory: it does not exist\."):
        load_losses("nowhere")
    with pytest.raises(RunError, match=r"'no/\*' matches no run directory\."):
        load_losses("no/*")
    with pytest.raises(RunError, match=r"not a run directory: it has no losses\.csv, and no event"):
        load_losses(tmp_path)
    with pytest.raises(RunError, match="No run was given"):
        load_losses([])
    (tmp_path / "losses.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="does not begin with the columns step,epoch"):
        load_losses(tmp_path)
    (tmp_path / "losses.csv").write_text("")
    with pytest.raises(RunError, match="does not begin with the columns step,epoch"):
        load_losses(tmp_path)


def test_one_row_a_run(tmp_path: Path) -> None:
    schedule = "linear 100->0 @ 5-10"
    make_whole_run(
        tmp_path / "a",
        [("train.loss.G_L1", schedule)],
        ssim=[0.5, math.nan, 0.75, 0.75, 0.5],
        l1=[0.5, 0.25, 0.5],
    )
    make_whole_run(tmp_path / "b", status="KILLED")
    make_run(tmp_path / "c", losses="x")
    frame = load_runs([tmp_path / name for name in "abc"])
    assert frame.index.tolist() == ["a", "b", "c"]
    assert frame["source"].tolist() == [str(tmp_path / name) for name in "abc"]
    assert frame["status"].tolist() == ["FINISHED", "KILLED", np.nan]
    assert frame["status"].dtype == "category"
    assert frame["step"].tolist() == [20, 20, 20]
    assert frame["epoch"].tolist() == [2, 2, 2]
    assert frame.loc["a", "train.loss.G_L1"] == "linear 100→0 @ 5–10"
    assert frame["common.seed"].fillna(-1).tolist() == [0, 0, -1]
    # The last values; the best finite ones, the first of equal ones; less is better for L1 alone.
    losses = load_losses(tmp_path / "a")
    last = losses[losses["step"] == 20].set_index("loss")["raw"]
    assert frame.loc["a", "loss/G_L1/raw"] == last["G_L1"]
    assert frame.loc["a", "val/ssim"] == 0.5
    assert frame.loc["a", ["best/ssim", "best/ssim_epoch"]].tolist() == [0.75, 3]
    assert frame.loc["a", ["best/l1", "best/l1_epoch"]].tolist() == [0.25, 2]
    assert frame[["best/ssim", "best/ssim_epoch"]].isna().sum().tolist() == [2, 2]
    assert frame.dtypes["best/ssim"] == "float32"
    assert frame.dtypes["best/ssim_epoch"] == "Int64"
    assert frame["loss/x/raw"].isna().tolist() == [True, True, False]


def test_a_run_counts_as_running_while_it_is_locked(tmp_path: Path) -> None:
    make_whole_run(tmp_path / "r", status="RUNNING")
    with locked(tmp_path / "r"):
        assert load_runs(tmp_path / "r")["status"].tolist() == ["RUNNING"]
    frame = load_runs(tmp_path / "r")
    assert frame[["status", "reason"]].to_numpy().tolist() == [
        ["KILLED", "the process ended unexpectedly"]
    ]
    RunDirectory(tmp_path / "r").write_status("FAILED", "RunError: no room")
    assert load_runs(tmp_path / "r")["reason"].tolist() == ["RunError: no room"]


def test_the_last_value_may_not_be_finite(tmp_path: Path) -> None:
    write_losses(tmp_path / "r", [LossRow(1, 1, 1, "a", math.inf, 1.0, math.inf)])
    assert load_runs(tmp_path / "r")["loss/a/raw"].tolist() == [math.inf]


def test_importing_is_cheap() -> None:
    code = "import sys, nectargan.analysis; print({'pandas', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    code = "import sys; from nectargan.analysis import load_runs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(ImportError):
        from nectargan.analysis import load_everything  # type: ignore[attr-defined]  # noqa: F401
