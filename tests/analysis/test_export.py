from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nectargan.analysis import load_losses, tables
from nectargan.analysis.export import Selection, export_losses
from nectargan.errors import RunError
from nectargan.record.ledger import LossRow
from nectargan.record.loss_tags import write_loss_tags
from nectargan.record.run_directory import RunDirectory

from .conftest import make_run, typed, write_losses

VALUES = ["raw", "weight", "weighted"]


@pytest.fixture
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads ledgers in blocks of so many bytes."""
    monkeypatch.setattr(tables, "_BLOCK_BYTES", request.param)


in_blocks = pytest.mark.parametrize("blocks", [60, 300, 10**6], indirect=True)


def export(runs: Any, folder: Path, **options: Any) -> pd.DataFrame:
    """What is exported, as pandas reads it."""
    rows = export_losses(runs, folder / "out.csv", Selection(**options))
    table = pd.read_csv(folder / "out.csv")
    assert len(table) == rows
    return table


def test_everything_is_the_ledger_to_the_byte(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    export(tmp_path / "r", tmp_path)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "r" / "losses.csv").read_bytes()


@in_blocks
@pytest.mark.parametrize("every", [4, 100])
def test_thinned(tmp_path: Path, blocks: None, every: int) -> None:
    table = make_run(tmp_path / "r")
    expected = table[(table["step"] == 1) | (table["step"] % every == 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        export(tmp_path / "r", tmp_path, every=every), expected, check_exact=True
    )


@in_blocks
def test_a_wide_table_is_a_pivot(tmp_path: Path, blocks: None) -> None:
    table = make_run(tmp_path / "r")
    wide = export(tmp_path / "r", tmp_path, wide=True).set_index("step")
    series = [("a", value) for value in VALUES] + [("b", value) for value in VALUES]
    assert list(wide.columns) == ["epoch", "time", *(column(*each) for each in series)]
    for name, value in series:
        own = table[table["loss"] == name].set_index("step")[value]
        found = wide[column(name, value)].dropna()
        pd.testing.assert_series_equal(found, own, check_names=False, check_exact=True)
    assert len(wide) == 20
    assert wide["loss/b/raw"].isna().sum() == 7
    assert wide.loc[11, "epoch"] == 2


def column(loss: str, value: str) -> str:
    return f"weight/{loss}" if value == "weight" else f"loss/{loss}/{value}"


def test_nan_and_a_missing_loss_are_two_things(tmp_path: Path) -> None:
    rows = [LossRow(1, 1, 1, "a", math.nan, 1.0, math.inf), LossRow(2, 1, 2, "b", 0.5, 1.0, 0.5)]
    write_losses(tmp_path / "r", rows)
    out = io.BytesIO()
    assert export_losses(tmp_path / "r", out, Selection(wide=True)) == 2
    _, first, second = out.getvalue().decode().splitlines()
    assert first == "1,1,1,nan,1.0,inf,,,"
    assert second == "2,1,2,,,,0.5,1.0,0.5"


@in_blocks
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.99])
def test_smoothing_is_that_of_pandas_whatever_the_blocks(
    tmp_path: Path, blocks: None, weight: float
) -> None:
    table = make_run(tmp_path / "r", steps=40)
    smooth = export(tmp_path / "r", tmp_path, smooth=weight)
    for _, own in table.groupby("loss"):
        for value in ("raw", "weighted"):
            expected = own[value].ewm(alpha=1 - weight, adjust=True).mean()
            np.testing.assert_allclose(smooth.loc[own.index, value], expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(
        smooth["weight"], table["weight"].astype("float32").astype(str).astype(float)
    )
    # Thinned afterwards: the curve is the same one.
    few = export(tmp_path / "r", tmp_path, smooth=weight, every=10)
    kept = (smooth["step"] == 1) | (smooth["step"] % 10 == 0)
    pd.testing.assert_frame_equal(few, smooth[kept].reset_index(drop=True))


@in_blocks
def test_epoch_means(tmp_path: Path, blocks: None) -> None:
    table = make_run(tmp_path / "r", steps=25)
    means = export(tmp_path / "r", tmp_path, epoch_means=True)
    assert means[["epoch", "loss", "step", "time"]].to_numpy().tolist() == [
        [1, "a", 10, 1010],
        [1, "b", 10, 1010],
        [2, "a", 20, 1020],
        [2, "b", 20, 1020],
        [3, "a", 25, 1025],
        [3, "b", 25, 1025],
    ]
    expected = table.groupby(["epoch", "loss"])[VALUES].mean().reset_index()
    np.testing.assert_allclose(means[VALUES], expected[VALUES], rtol=1e-5)
    wide = export(tmp_path / "r", tmp_path, epoch_means=True, wide=True)
    assert wide["step"].tolist() == [10, 20, 25]
    assert wide["loss/b/raw"].tolist() == means["raw"][means["loss"] == "b"].tolist()


def test_a_mean_is_over_finite_values(tmp_path: Path) -> None:
    values = [1.0, math.inf, 2.0, math.nan]
    rows = [LossRow(s, 1, s, "a", v, 2.0, 2 * v) for s, v in enumerate(values, 1)]
    write_losses(tmp_path / "r", [*rows, LossRow(5, 2, 5, "a", math.nan, 2.0, math.nan)])
    means = export(tmp_path / "r", tmp_path, epoch_means=True)
    np.testing.assert_array_equal(means["raw"], [1.5, np.nan])
    np.testing.assert_array_equal(means["weighted"], [3.0, np.nan])
    assert means["weight"].tolist() == [2.0, 2.0]


@in_blocks
@pytest.mark.parametrize("wide", [False, True])
def test_chosen_losses(tmp_path: Path, blocks: None, wide: bool) -> None:
    table = make_run(tmp_path / "r", losses=["a", "b", "c"])
    write_loss_tags(
        RunDirectory(tmp_path / "r").loss_tags, {"a": ("x",), "b": ("y",), "c": ("x", "z")}
    )

    def names(**options: Sequence[str]) -> list[str]:
        out = export(tmp_path / "r", tmp_path, wide=wide, **options)
        if wide:
            return [name.split("/")[1] for name in out if name.startswith("weight/")]
        found = out["loss"].unique().tolist()
        expected = table[table["loss"].isin(found)].reset_index(drop=True)
        pd.testing.assert_frame_equal(out, expected)
        return [str(name) for name in found]

    assert names(losses=["c", "b"]) == ["c", "b"]
    assert names(query=["x"]) == ["a", "c"]
    assert names(query=["z", "y"]) == (["b", "c"] if wide else ["c", "b"])


def test_several_runs(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", steps=12)
    two = make_run(tmp_path / "two", losses="c", seed=1)
    runs = [tmp_path / "one", tmp_path / "two"]
    expected = pd.concat([one.assign(run="one"), two.assign(run="two")], ignore_index=True)
    expected = expected[["run", *one.columns]]
    pd.testing.assert_frame_equal(export(runs, tmp_path), expected)
    pd.testing.assert_frame_equal(export(f"{tmp_path}/*o*", tmp_path), expected)
    # Different losses: the union of the columns, empty where a run has none.
    wide = export(runs, tmp_path, wide=True, every=5)
    assert wide["run"].tolist() == ["one"] * 3 + ["two"] * 5
    assert wide["loss/c/raw"].isna().tolist() == [True] * 3 + [False] * 5
    assert wide.columns[0] == "run"
    # Averages do not go on from one run to the next.
    smooth = export(runs, tmp_path, smooth=0.9)
    assert smooth["raw"][len(one)] == pytest.approx(two["raw"][0])
    means = export(runs, tmp_path, epoch_means=True, losses=["a", "c"])
    assert means[["run", "epoch", "loss"]].to_numpy().tolist() == [
        ["one", 1, "a"],
        ["one", 2, "a"],
        ["two", 1, "c"],
        ["two", 2, "c"],
    ]


def test_parquet_keeps_the_types(tmp_path: Path) -> None:
    table = make_run(tmp_path / "r")
    assert export_losses(tmp_path / "r", tmp_path / "out.parquet") == len(table)
    frame = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(frame, load_losses(tmp_path / "r"))
    pd.testing.assert_frame_equal(frame, typed(table))
    export_losses([tmp_path / "r"], tmp_path / "wide.PARQUET", Selection(wide=True))
    wide = pd.read_parquet(tmp_path / "wide.PARQUET")
    assert wide.dtypes["weight/b"] == "float32"
    assert wide["weight/b"].isna().sum() == 7


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"wide": True},
        {"smooth": 0.5},
        {"epoch_means": True},
        {"epoch_means": True, "wide": True},
    ],
)
@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_run_without_steps_has_columns(tmp_path: Path, options: Any, name: str) -> None:
    make_run(tmp_path / "r", steps=0)
    assert export_losses(tmp_path / "r", tmp_path / name, Selection(**options)) == 0
    read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
    columns = ["step", "epoch", "time"]
    columns += [] if options.get("wide") else ["loss", *VALUES]
    assert list(read(tmp_path / name).columns) == columns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0; it must be 1 or more"),
        ({"smooth": 1.0}, r"smoothed by 1; it must be in \[0, 1\)"),
        ({"smooth": math.nan}, "smoothed by nan"),
        ({"epoch_means": True, "every": 2}, "--epoch-means and --every contradict"),
        ({"epoch_means": True, "smooth": 0.5}, "--epoch-means and --smooth contradict"),
        ({"losses": ["a"], "query": ["x"]}, "--losses and --query contradict"),
        ({"losses": ["aa"]}, r"No run has a loss 'aa'\. Did you mean 'a'\? Allowed: a, b\."),
        ({"query": ["x"]}, "has no losses.json, so the tags of its losses are not known"),
    ],
)
def test_what_contradicts_itself_or_is_not_there(
    tmp_path: Path, options: Any, message: str
) -> None:
    make_run(tmp_path / "r")
    with pytest.raises(RunError, match=message):
        export(tmp_path / "r", tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_an_unknown_tag(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    write_loss_tags(RunDirectory(tmp_path / "r").loss_tags, {"a": ("pixel",), "b": ()})
    with pytest.raises(RunError, match=r"a tag 'pixl'\. Did you mean 'pixel'\? Allowed: pixel\."):
        export(tmp_path / "r", tmp_path, query=["pixl"])


def test_a_loss_recorded_twice_in_a_step_cannot_be_in_a_wide_table(tmp_path: Path) -> None:
    write_losses(tmp_path / "r", [LossRow(1, 1, 1, "a", 0.5, 1.0, 0.5)] * 2)
    with pytest.raises(RunError, match="twice for one step, so the table cannot be --wide"):
        export(tmp_path / "r", tmp_path, wide=True)
    assert len(export(tmp_path / "r", tmp_path)) == 2


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "losses.csv").write_text("step,epoch,time,loss,raw,weight,weighted\n1,2\n")
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(RunError, match="damaged"):
        export_losses([tmp_path / "bad"], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "out.csv", "r"]
    with pytest.raises(RunError, match="cannot be written"):
        export_losses([tmp_path / "r"], tmp_path / "no" / "out.csv")


def test_a_ledger_is_never_overwritten(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    for name in ("losses.csv", "metrics.csv"):
        before = (tmp_path / "r" / name).read_bytes()
        with pytest.raises(RunError, match="is the record of a run itself"):
            export_losses(tmp_path / "r", tmp_path / "r" / name, Selection(every=2))
        assert (tmp_path / "r" / name).read_bytes() == before


def test_a_name_that_would_need_quotes(tmp_path: Path) -> None:
    for name in ("a,b", "c"):
        make_run(tmp_path / name)
    with pytest.raises(RunError, match="contains a comma or a quotation mark"):
        export_losses([tmp_path / "a,b", tmp_path / "c"], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("name", "separator"),
    [
        *(("out.csv", ","), ("out.txt", ","), ("out", ","), ("out.TSV", "\t")),
        *(("out.csv.gz", ","), ("out.tsv.gz", "\t"), ("a.b.csv", ",")),
    ],
)
@pytest.mark.parametrize("smooth", [None, 0.5])
def test_a_file_is_what_its_name_says(
    tmp_path: Path, name: str, separator: str, smooth: float | None
) -> None:
    make_run(tmp_path / "r")
    expected = export(tmp_path / "r", tmp_path, smooth=smooth)
    rows = export_losses(tmp_path / "r", tmp_path / name, Selection(smooth=smooth))
    compression = "gzip" if name.endswith(".gz") else None
    table = pd.read_csv(tmp_path / name, sep=separator, compression=compression)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert rows == len(expected)


@pytest.mark.parametrize(
    "name",
    ["x.json", "x.xlsx", "x.feather", "x.parquet.gz", "x.gz", "x.csv.zip", "x.csv.xz", "x.html"],
)
def test_a_name_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "r")
    with pytest.raises(RunError, match=r"a table ends in \.csv, \.tsv, \.csv\.gz, .* or \.parquet"):
        export_losses(tmp_path / "r", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
