from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nectargan.analysis import history
from nectargan.analysis.history import export_csv, load_losses, load_metrics, stream_losses
from nectargan.errors import RunError
from nectargan.loggers.ledger import Ledger, LossRow, MetricRow


def make_run(directory: Path, steps: int = 20, losses: str = "ab", seed: int = 0) -> pd.DataFrame:
    """A run whose loss "b" begins in step 8; returns its table."""
    rng = np.random.default_rng(seed)
    directory.mkdir()
    rows = [
        LossRow(
            step,
            1 + step // 10,
            1000 + step,
            name,
            np.float32(rng.normal()),
            step / 3,
            np.float32(rng.normal()),
        )
        for step in range(1, steps + 1)
        for name in losses
        if name != "b" or step >= 8
    ]
    ledger = Ledger(directory / "losses.csv", LossRow)
    ledger.append(rows)
    ledger.close()
    metrics = Ledger(directory / "metrics.csv", MetricRow)
    metrics.append([MetricRow(step, 1, step, "val/x", step / 4) for step in (10, 20)])
    metrics.close()
    return pd.read_csv(directory / "losses.csv")


def test_loading(tmp_path: Path) -> None:
    table = make_run(tmp_path / "r")
    pd.testing.assert_frame_equal(load_losses(tmp_path / "r"), table)
    assert load_metrics(str(tmp_path / "r"))["value"].tolist() == [2.5, 5.0]


@pytest.mark.parametrize("block", [40, 100, 1000, 10**6])
def test_parts_are_of_whole_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    table = make_run(tmp_path / "r", losses="abc")
    monkeypatch.setattr(history, "_BLOCK_BYTES", block)
    parts = list(stream_losses(tmp_path / "r"))
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), table)
    steps = [set(part["step"]) for part in parts]
    assert sum(len(s) for s in steps) == 20, "no step is in two parts"
    if block < 200:
        assert len(parts) > 5


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    table = make_run(tmp_path / "r")
    with (tmp_path / "r" / "losses.csv").open("a") as file:
        file.write("21,3,10")
    pd.testing.assert_frame_equal(load_losses(tmp_path / "r"), table)


def test_a_run_without_steps(tmp_path: Path) -> None:
    make_run(tmp_path / "r", steps=0)
    assert load_losses(tmp_path / "r").empty
    assert export_csv([tmp_path / "r"], tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text() == "step,epoch,time,loss,raw,weight,weighted\n"
    assert export_csv([tmp_path / "r"], tmp_path / "out.csv", wide=True) == 0


@pytest.mark.parametrize("every", [1, 4, 100])
def test_tidy_export(tmp_path: Path, every: int) -> None:
    table = make_run(tmp_path / "r")
    rows = export_csv([tmp_path / "r"], tmp_path / "out.csv", every=every)
    expected = table[(table["step"] == 1) | (table["step"] % every == 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out.csv"), expected)
    assert rows == len(expected)


@pytest.mark.parametrize("block", [60, 10**6])
def test_wide_export_is_a_pivot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(history, "_BLOCK_BYTES", block)
    table = make_run(tmp_path / "r")
    assert export_csv([tmp_path / "r"], tmp_path / "out.csv", wide=True) == 20
    wide = pd.read_csv(tmp_path / "out.csv").set_index("step")
    assert list(wide.columns) == [
        "epoch",
        "time",
        "loss/a/raw",
        "weight/a",
        "loss/a/weighted",
        "loss/b/raw",
        "weight/b",
        "loss/b/weighted",
    ]
    for name in "ab":
        own = table[table["loss"] == name].set_index("step")
        for column, series in (
            ("raw", f"loss/{name}/raw"),
            ("weight", f"weight/{name}"),
            ("weighted", f"loss/{name}/weighted"),
        ):
            pd.testing.assert_series_equal(wide[series].dropna(), own[column], check_names=False)
    assert wide["loss/b/raw"].isna().sum() == 7
    assert wide.loc[10, "epoch"] == 2


def test_several_runs(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    two = make_run(tmp_path / "two", losses="c", seed=1)
    runs = [tmp_path / "one", tmp_path / "two"]
    export_csv(runs, tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv")
    expected = pd.concat([one.assign(run="one"), two.assign(run="two")], ignore_index=True)
    pd.testing.assert_frame_equal(table, expected[["run", *one.columns]])
    # Different losses: the union of the columns, empty where a run has none.
    export_csv(runs, tmp_path / "out.csv", wide=True, every=5)
    wide = pd.read_csv(tmp_path / "out.csv")
    assert wide["run"].tolist() == ["one"] * 5 + ["two"] * 5
    assert wide["loss/c/raw"].isna().tolist() == [True] * 5 + [False] * 5
    assert wide.columns[0] == "run"


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        make_run(tmp_path / folder / "run", steps=1, losses="a")
    runs = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    export_csv(runs, tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv")["run"].tolist() == [str(run) for run in runs]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere' is no run directory: losses\.csv"):
        load_losses(tmp_path / "nowhere")
    (tmp_path / "losses.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="does not begin with the columns step,epoch"):
        load_losses(tmp_path)
    with pytest.raises(RunError, match="every is 0; it must be 1 or more"):
        list(stream_losses(tmp_path, every=0))


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
    ],
)
def test_damage_is_reported_and_never_read_as_missing(tmp_path: Path, rows: bytes) -> None:
    (tmp_path / "losses.csv").write_bytes(HEADER + rows)
    with pytest.raises(RunError, match=r"losses\.csv' is damaged: .*\.$"):
        load_losses(tmp_path)


def test_special_values_and_names_that_look_like_values(tmp_path: Path) -> None:
    rows = b"1,1,1,true,nan,1.0,inf\n1,1,1,1e5,-inf,1.0,1.0\n"
    (tmp_path / "losses.csv").write_bytes(HEADER + rows)
    frame = load_losses(tmp_path)
    assert frame["loss"].tolist() == ["true", "1e5"]
    np.testing.assert_array_equal(frame["raw"], [np.nan, -np.inf])
    np.testing.assert_array_equal(frame["weighted"], [np.inf, 1.0])


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(RunError):
        export_csv([tmp_path / "r", tmp_path / "none"], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "r"]
    with pytest.raises(RunError, match="cannot be written"):
        export_csv([tmp_path / "r"], tmp_path / "no" / "out.csv")
