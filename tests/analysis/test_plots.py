from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nectargan.analysis.plots import plot_comparison, plot_run
from nectargan.analysis.schedule_plot import plot_schedules
from nectargan.errors import RunError
from nectargan.record.ledger import Ledger, LossRow, MetricRow
from nectargan.record.loss_tags import write_loss_tags
from nectargan.record.run_directory import RunDirectory
from nectargan.scheduling.data import Schedule

from .conftest import make_run, make_whole_run, write_losses


def test_a_panel_for_each_loss_with_its_values_and_weights(
    tmp_path: Path, figures: list[Figure]
) -> None:
    table = make_run(tmp_path / "r", losses="abc")
    plot_run(tmp_path / "r", tmp_path / "out.png")
    (figure,) = figures
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    # In the order of their first appearance: "b" begins in step 8. Then validation.
    assert [axes.get_title(loc="left") for axes in panels] == ["a", "c", "b", "val/x"]
    assert panels[3].lines[0].get_ydata().tolist() == [2.5, 5.0]
    weights = [axes for axes in figure.axes if axes.get_ylabel() == "weight"]
    for name, panel, twin in zip("acb", panels[:3], weights, strict=True):
        own = table[table["loss"] == name]
        raw = panel.lines[0]
        np.testing.assert_array_equal(raw.get_xdata(), own["step"])
        np.testing.assert_array_equal(raw.get_ydata(), own["raw"].astype("float32"))
        np.testing.assert_array_equal(twin.lines[0].get_ydata(), own["weight"].astype("float32"))
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"


def test_the_average_continues_after_an_infinity(tmp_path: Path, figures: list[Figure]) -> None:
    values = [math.inf if step == 4 else 0.5 for step in range(1, 11)]
    rows = [LossRow(s, 1, s, "a", v, 2.0, 1.0) for s, v in enumerate(values, 1)]
    write_losses(tmp_path / "r", rows)
    assert plot_run(tmp_path / "r", tmp_path / "out.png") == [tmp_path / "out.png"]
    (panel,) = figures[0].axes
    np.testing.assert_allclose(panel.lines[1].get_ydata(), values)
    assert panel.get_title("left") == "a, weight 2", "a constant weight has no axis"
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["raw", "raw, smoothed (0.333)"]


def test_smoothing_can_be_chosen(tmp_path: Path, figures: list[Figure]) -> None:
    table = make_run(tmp_path / "r", losses="a")
    plot_run(tmp_path / "r", tmp_path / "out.png", smooth=0.8)
    plot_run(tmp_path / "r", tmp_path / "out.png", smooth=0)
    smooth, plain = (figure.axes[0] for figure in figures)
    expected = table["raw"].ewm(alpha=0.2).mean()
    np.testing.assert_allclose(smooth.lines[1].get_ydata(), expected, rtol=1e-4, atol=1e-6)
    assert len(plain.lines) == 1


def test_a_logarithmic_axis_where_all_values_are_above_0(
    tmp_path: Path, figures: list[Figure]
) -> None:
    values = {"small": [0.02, 0.2, math.inf, 3.0], "signed": [0.5, -0.5, 0.1, 0.2]}
    rows = [
        LossRow(step, 1, step, name, values[name][step - 1], 1.0, 1.0)
        for step in range(1, 5)
        for name in values
    ]
    write_losses(tmp_path / "r", rows)
    plot_run(tmp_path / "r", tmp_path / "out.png", log=True)
    small, signed = figures[0].axes[:2]
    assert (small.get_yscale(), signed.get_yscale()) == ("log", "linear")
    assert "0.1" in [text.get_text() for text in small.get_yticklabels()]


@pytest.mark.parametrize("tagged", [False, True])
def test_one_file_for_each_network(tmp_path: Path, figures: list[Figure], tagged: bool) -> None:
    make_run(tmp_path / "r", losses=["G_L1", "D_real", "fm"])
    if tagged:
        write_loss_tags(
            RunDirectory(tmp_path / "r").loss_tags,
            {"G_L1": ("G",), "D_real": ("D",), "fm": ("pixel", "G")},
        )
    drawn = plot_run(tmp_path / "r", tmp_path / "out.svg", split=True)
    names = ["out_G.svg", "out_D.svg"] + ([] if tagged else ["out_other.svg"])
    # Validation looks at what the generator makes.
    assert [path.name for path in drawn] == names
    titles = [[a.get_title("left") for a in f.axes if a.get_title("left")] for f in figures]
    expected = [["G_L1", "fm", "val/x"], ["D_real"]]
    assert titles == (expected if tagged else [["G_L1", "val/x"], ["D_real"], ["fm"]])
    assert all(path.read_text().startswith("<?xml") for path in drawn)


def test_size_and_format(tmp_path: Path, figures: list[Figure]) -> None:
    make_run(tmp_path / "r")
    plot_run(tmp_path / "r", tmp_path / "out.pdf", size=(3.5, 2.0))
    assert figures[0].get_size_inches().tolist() == [3.5, 2.0]
    content = (tmp_path / "out.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content, "journals refuse bitmap fonts"
    with pytest.raises(RunError, match=r"out\.gif' is not a picture: it must end in \.png"):
        plot_run(tmp_path / "r", tmp_path / "out.gif")
    for size in ((0, 3), (3, -1), (1000, 3), (math.nan, 3)):
        with pytest.raises(RunError, match=r"cannot be .* inches; each side must be above 0"):
            plot_run(tmp_path / "r", tmp_path / "new.png", size=size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pdf", "r"]


def test_schedules_are_drawn_at_every_epoch(tmp_path: Path, figures: list[Figure]) -> None:
    schedules = {
        "weight/a": Schedule("linear", 1, 5, 8.0, 0.0),
        "weight/b": Schedule("linear", 1, 5, 8.0, 0.0, interval="step"),
    }
    plot_schedules(schedules, 6, tmp_path / "out.png")
    a, b = figures[0].axes
    assert a.get_title(loc="left") == "weight/a: linear"
    assert a.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    assert list(a.lines[0].get_ydata()) == [8.0, 6.0, 4.0, 2.0, 0.0, 0.0]
    assert len(b.lines[0].get_xdata()) > 50, "one that moves per step is drawn as a line"


def test_only_what_moves_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    schedules = {
        "a": Schedule("constant", initial_value=3.0),
        "b": Schedule("linear", 1, 5, 8.0, 0.0),
    }
    plot_schedules(schedules, 6, tmp_path / "out.png")
    plot_schedules({"a": schedules["a"]}, 6, tmp_path / "out.png")
    titles = [[axes.get_title("left") for axes in figure.axes] for figure in figures]
    assert titles == [["b: linear"], ["a: constant"]], "of what stays the same, all there is"


def test_epochs_on_the_axis(tmp_path: Path, figures: list[Figure]) -> None:
    # Two epochs of four steps, and half of a third one.
    rows = [LossRow(s, 1 + (s - 1) // 4, s, "a", 1.0, float(s), 1.0) for s in range(1, 11)]
    write_losses(tmp_path / "r", rows)
    metrics = Ledger(tmp_path / "r" / "metrics.csv", MetricRow)
    metrics.append([MetricRow(4 * e, e, e, "val/x", np.float32(e)) for e in (1, 2)])
    metrics.close()
    plot_run(tmp_path / "r", tmp_path / "out.png", x="epoch")
    a, validation = (axes for axes in figures[0].axes if axes.get_title("left"))
    assert a.lines[0].get_xdata().tolist() == [s / 4 for s in range(1, 11)]
    assert validation.lines[0].get_xdata().tolist() == [1, 2]
    assert a.get_xlabel() == validation.get_xlabel() == "epoch"


@pytest.fixture
def three_runs(tmp_path: Path) -> list[Path]:
    """Two runs that differ in an option, and one without config and validation."""
    options = [("train.loss.G_L1", "linear 100->0 @ 1-2")]
    make_whole_run(tmp_path / "a", options, ssim=[0.5, 0.75, 0.7])
    make_whole_run(tmp_path / "b", [("train.loss.G_L1", 50)], ssim=[0.6])
    make_run(tmp_path / "c", losses="x", seed=1)
    return [tmp_path / name for name in "abc"]


def test_a_panel_for_each_loss_with_a_line_for_each_run(
    three_runs: list[Path], tmp_path: Path, figures: list[Figure]
) -> None:
    plot_comparison(three_runs, tmp_path / "out.png", smooth=0.5, size=(8, 6))
    (figure,) = figures
    panels = {axes.get_title("left"): axes for axes in figure.axes if axes.get_title("left")}
    assert list(panels) == ["G_L1", "D_real", "x", "val/ssim", "val/x"]
    assert [len(panel.lines) for panel in panels.values()] == [2, 2, 1, 2, 1]
    twins = [axes for axes in figure.axes if axes.get_ylabel() == "weight (dotted)"]
    table = pd.read_csv(three_runs[1] / "losses.csv")
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


def constant_run(directory: Path, weight: float, ssim: float | None = None) -> None:
    rows = [LossRow(s, 1, s, "G_L1", np.float32(s), weight, 1.0) for s in range(1, 6)]
    write_losses(directory, rows)
    metrics = Ledger(directory / "metrics.csv", MetricRow)
    if ssim is not None:
        metrics.append([MetricRow(5, 1, 5, "val/ssim", np.float32(ssim))])
    metrics.close()


def test_constant_weights_are_in_the_title(tmp_path: Path, figures: list[Figure]) -> None:
    for number, weight in enumerate((0.1, 10.0, 10.0)):
        constant_run(tmp_path / f"r{number}", weight)
    plot_comparison(f"{tmp_path}/r?", tmp_path / "out.png")
    plot_comparison([tmp_path / "r1", tmp_path / "r2"], tmp_path / "out.png")
    titles = [[axes.get_title("left") for axes in figure.axes] for figure in figures]
    assert titles == [["G_L1, weights 0.1, 10"], ["G_L1, weight 10"]]


def test_of_many_runs_the_best_have_colors(tmp_path: Path, figures: list[Figure]) -> None:
    for number in range(20):
        constant_run(tmp_path / f"x_v{number}", 1.0, None if number == 7 else number / 64)
    plot_comparison(f"{tmp_path}/x_v*", tmp_path / "out.png")
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    best = [f"v{number}: val/ssim {number / 64:.4g}" for number in (19, 18, 17, 16, 15)]
    assert labels == [*best, "15 others"]
    panel = figures[0].axes[0]
    assert len(panel.lines) == 20
    colors = [line.get_color() for line in panel.lines]
    assert len(set(colors)) == 6
    assert colors.count("0.7") == 15
    others = {line.get_zorder() for line in panel.lines if line.get_color() == "0.7"}
    assert max(others) < min(line.get_zorder() for line in panel.lines[-5:])


def test_many_runs_without_validation_have_a_color_each(
    tmp_path: Path, figures: list[Figure]
) -> None:
    for number in range(12):
        constant_run(tmp_path / f"x_v{number}", 1.0)
    plot_comparison(f"{tmp_path}/x_v*", tmp_path / "out.png")
    assert len({tuple(line.get_color()) for line in figures[0].axes[0].lines}) == 12


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    make_run(tmp_path / "r", steps=0)
    with pytest.raises(RunError, match="no losses to plot"):
        plot_run(tmp_path / "r", tmp_path / "out.png")
    for draw in (plot_comparison, plot_run):
        with pytest.raises(RunError, match="losses to plot"):
            draw(tmp_path / "r", tmp_path / "out.png")
    with pytest.raises(RunError, match="is not a picture"):
        plot_comparison([tmp_path / "r"], tmp_path / "out")
    with pytest.raises(RunError, match="cannot be written"):
        plot_schedules({"a": Schedule()}, 3, tmp_path / "no" / "out.png")
    assert not (tmp_path / "out.png").exists()
