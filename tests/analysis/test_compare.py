from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from nectargan.analysis.compare import (
    compare_runs,
    comparison_tables,
    render_comparison,
)
from nectargan.errors import RunError
from nectargan.record.ledger import Ledger, MetricRow

from .conftest import make_run, make_whole_run

KEYS = ["common.seed", "train.loss.G_L1"]
VALUES = ["status", "epoch", "loss/G_L1/raw", "loss/D_real/raw", "val/ssim", "val/l1"]
BESTS = ["best/ssim", "best/ssim_epoch", "best/l1", "best/l1_epoch"]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that differ in two options, and one without config and validation."""
    options = [("common.seed", 1), ("train.loss.G_L1", "linear 100->0 @ 1-2")]
    make_whole_run(tmp_path / "a", options, ssim=[0.5, 0.75, 0.7], l1=[0.25, 0.125, 0.2])
    make_whole_run(tmp_path / "b", [("train.loss.G_L1", 50)], ssim=[0.6], l1=[math.nan])
    make_run(tmp_path / "c", losses="x", seed=1)
    return [tmp_path / name for name in "abc"]


def test_what_differs_and_what_came_of_it(runs: list[Path]) -> None:
    frame = compare_runs(runs[:2])
    assert frame.index.tolist() == ["a", "b"]
    assert list(frame.columns) == KEYS + VALUES + BESTS
    assert frame["common.seed"].tolist() == [1, 0]
    assert frame["train.loss.G_L1"].tolist() == ["linear 100→0 @ 1–2", 50.0]
    assert frame["best/ssim"].tolist() == [0.75, np.float32(0.6)]
    assert frame["best/l1"].iloc[0] == 0.125
    assert frame["best/l1"].isna().tolist() == [False, True], "NaN is never the best"


def test_runs_of_other_kinds(runs: list[Path]) -> None:
    frame = compare_runs(runs)
    # Every option differs from that of a run without a config.
    assert frame["train.loss.G_L1"].isna().tolist() == [False, False, True]
    assert frame["loss/x/raw"].isna().tolist() == [True, True, False]
    assert frame["val/ssim"].isna().tolist() == [False, False, True]
    alone = compare_runs(runs[0])
    assert list(alone.columns) == VALUES + BESTS, "one run differs in nothing"


def test_as_text(runs: list[Path]) -> None:
    frame = compare_runs(runs[:2])
    csv = pd.read_csv(io.StringIO(render_comparison(frame, "csv")), index_col="run")
    assert csv["best/ssim"].astype("float32").tolist() == frame["best/ssim"].tolist()
    a, b = json.loads(render_comparison(frame, "json"))
    assert list(a) == ["run", *frame.columns]
    assert (a["run"], a["best/ssim"], a["best/ssim_epoch"]) == ("a", 0.75, 2)
    assert (b["best/ssim"], b["best/l1"], b["val/l1"], b["best/l1_epoch"]) == (
        0.6,
        None,
        None,
        None,
    )
    lines = render_comparison(frame, "md").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "a", "b"]
    assert set(lines[1]) == set("|-")
    assert ["loss.G_L1", "linear 100→0 @ 1–2", "50"] in cells
    assert ["best/ssim", "0.75* (2)", "0.6 (1)"] in cells
    assert ["best/l1", "0.125 (2)", ""] in cells


def test_many_runs_are_rows(tmp_path: Path) -> None:
    for number in range(12):
        make_run(tmp_path / f"v{number}", losses="a", seed=number)
    frame = compare_runs(f"{tmp_path}/v*")
    assert frame.index.tolist() == [f"v{number}" for number in range(12)]
    (table,) = comparison_tables(frame, 100)
    assert table.row_count == 12
    headers = [column.header for column in table.columns]
    assert headers == ["", "status", "epoch", "best/x", "loss/a/raw", "val/x"]


@pytest.mark.parametrize("count", [2, 5, 20])
def test_nothing_is_cut_at_80_columns(tmp_path: Path, count: int) -> None:
    for number in range(count):
        options = [("train.loss.G_L1", 10 * number), ("common.seed", number)]
        make_whole_run(
            tmp_path / f"a_rather_long_name_v{number}", options, ssim=[number / 99], l1=[0.25]
        )
    frame = compare_runs(f"{tmp_path}/a_*")
    text = io.StringIO()
    for table in comparison_tables(frame, 80):
        assert table.title == "a_rather_long_name_…"
        Console(file=text, width=80).print(table)
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    shown = shown.replace("a_rather_long_name_…", "")
    assert "…" not in shown
    cells = {cell.strip() for cell in re.split("[│┃\n]", shown)}
    assert {f"v{number}" for number in range(count)} <= cells
    assert {"loss.G_L1", "seed", f"{10 * (count - 1)}", "0.25 (1)"} <= cells
    best = f"{(count - 1) / 99:.4g}*"
    assert {cell.split()[0] for cell in cells if "*" in cell} == {best, "*"}


def test_the_best_is_marked(runs: list[Path]) -> None:
    cells = render_comparison(compare_runs(runs[:2]), "md")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in cells.splitlines()]
    assert ["best/ssim", "0.75* (2)", "0.6 (1)"] in rows
    assert ["val/ssim", "0.7*", "0.6"] in rows
    assert ["loss.G_L1", "linear 100→0 @ 1–2", "50"] in rows, "more is not better here"


def test_a_name_between_colons_is_not_an_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_whole_run(tmp_path / name, [("dataloader.dataroot", f"/data/:smile:/{name}")])
    assert "/data/:smile:/a" in render_comparison(compare_runs(f"{tmp_path}/*"), "md")


def test_less_of_an_error_is_better(tmp_path: Path) -> None:
    for name, l1 in (("x_a", 0.5), ("x_b", 0.25), ("x_c", 0.25)):
        make_whole_run(tmp_path / name, l1=[l1])
    told = render_comparison(compare_runs(f"{tmp_path}/x_*"), "md").splitlines()
    (row,) = (line for line in told if "best/l1" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["0.5 (1)", "0.25* (1)", "0.25* (1)"]


def test_sorting(tmp_path: Path) -> None:
    for name, weight, ssim, l1 in (
        ("a", 50, [0.2], [0.1]),
        ("b", "linear 1->0 @ 1-2", [0.6], [0.3]),
        ("c", 7, [0.4], [0.2]),
        ("d", 8, [], []),
    ):
        make_whole_run(tmp_path / name, [("train.loss.G_L1", weight)], ssim=ssim, l1=l1)
    runs = [tmp_path / name for name in "abcd"]
    order = {
        None: "abcd",
        "best/ssim": "bcad",
        "ssim": "bcad",
        "l1": "acbd",
        "val/l1": "acbd",
        "train.loss.G_L1": "cdab",
        "loss.G_L1": "cdab",
    }
    for sort, names in order.items():
        assert "".join(compare_runs(runs, sort=sort).index) == names, sort


def test_losses_are_means_of_the_last_epoch(tmp_path: Path) -> None:
    for name, mean in (("a", 0.5), ("b", 0.25)):
        make_whole_run(tmp_path / name)
        (tmp_path / name / "metrics.csv").unlink()
        metrics = Ledger(tmp_path / name / "metrics.csv", MetricRow)
        metrics.append([MetricRow(20, 2, 1, "epoch/loss/G_L1", np.float32(mean))])
        metrics.close()
    frame = compare_runs(f"{tmp_path}/*")
    assert frame["epoch/loss/G_L1"].tolist() == [0.5, 0.25]
    assert "loss/G_L1/raw" not in frame.columns
    assert "loss/D_real/raw" in frame.columns, "there is no mean of it"
    assert "mean G_L1" in render_comparison(frame, "md")


def test_options_without_effect_are_not_differences(tmp_path: Path) -> None:
    unused = [
        ("train.discriminator.learning_rate.initial", 0.1),
        ("dataloader.augmentations.input.gaussnoise_max", 0.5),
        ("logging.mlflow.every_n_steps", 7),
        ("common.experiment_name", "other"),
    ]
    off = [("logging.mlflow.enable", False)]
    make_whole_run(tmp_path / "a", off)
    make_whole_run(tmp_path / "b", [*off, *unused])
    assert [key for key in compare_runs(f"{tmp_path}/?").columns if "." in key] == []
    make_whole_run(tmp_path / "c", [*off, *unused, ("train.separate_lr_schedules", True)])
    frame = compare_runs(f"{tmp_path}/?")
    assert frame["train.discriminator.learning_rate.initial"].isna().tolist() == [1, 1, 0]


def test_what_cannot_be_compared(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(RunError, match="'nowhere' is not a run directory"):
        compare_runs([runs[0], "nowhere"])
    with pytest.raises(RunError, match=r"--sort nothing is not a column .* Allowed: best/l1,"):
        compare_runs(runs, sort="nothing")
