from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nectargan.analysis.compare import (
    compare_runs,
    comparison_table,
    plot_comparison,
    render_comparison,
)
from nectargan.errors import RunError

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
    assert ["train.loss.G_L1", "linear 100→0 @ 1–2", "50"] in cells
    assert ["best/ssim", "0.75 (2)", "0.6 (1)"] in cells
    assert ["best/l1", "0.125 (2)", ""] in cells


def test_many_runs_are_rows(tmp_path: Path) -> None:
    for number in range(12):
        make_run(tmp_path / f"v{number}", losses="a", seed=number)
    frame = compare_runs(f"{tmp_path}/v*")
    assert frame.index.tolist() == [f"v{number}" for number in range(12)]
    table = comparison_table(frame)
    assert table.row_count == 12
    headers = [column.header for column in table.columns]
    assert headers == ["", "status", "epoch", "loss/a/raw", "val/x", "best/x"]


def test_a_panel_for_each_loss_with_a_line_for_each_run(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    plot_comparison(runs, tmp_path / "out.png", smooth=0.5, size=(8, 6))
    (figure,) = figures
    panels = {axes.get_title("left"): axes for axes in figure.axes if axes.get_title("left")}
    assert list(panels) == ["G_L1", "D_real", "x"]
    assert [len(panel.lines) for panel in panels.values()] == [2, 2, 1]
    twins = [axes for axes in figure.axes if axes.get_ylabel() == "weight"]
    table = pd.read_csv(runs[1] / "losses.csv")
    own = table[table["loss"] == "G_L1"]
    line, dotted = panels["G_L1"].lines[1], twins[0].lines[1]
    expected = own["raw"].ewm(alpha=0.5).mean()
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(dotted.get_ydata(), own["weight"].astype("float32"))
    assert dotted.get_linestyle() == ":"
    assert line.get_color() == dotted.get_color() != panels["G_L1"].lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    with Image.open(tmp_path / "out.png") as image:
        assert image.width == 1200


def test_what_cannot_be_compared(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(RunError, match="'nowhere' is no run directory"):
        compare_runs([runs[0], "nowhere"])
    make_run(tmp_path / "empty", steps=0)
    with pytest.raises(RunError, match="None of the runs has losses"):
        plot_comparison([tmp_path / "empty"], tmp_path / "out.png")
    with pytest.raises(RunError, match="names no picture"):
        plot_comparison(runs, tmp_path / "out")
    assert not (tmp_path / "out.png").exists()
