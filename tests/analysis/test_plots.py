from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nectargan.analysis.plots import plot_run, plot_schedules
from nectargan.errors import RunError
from nectargan.loggers.ledger import LossRow
from nectargan.loggers.loss_tags import write_loss_tags
from nectargan.scheduling.data import Schedule

from .conftest import make_run, write_losses


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, which are saved all the same."""
    seen: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: object, **options: object) -> None:
        seen.append(self)
        save(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return seen


def test_a_panel_for_each_loss_with_its_values_and_weights(
    tmp_path: Path, figures: list[Figure]
) -> None:
    table = make_run(tmp_path / "r", losses="abc")
    plot_run(tmp_path / "r", tmp_path / "out.png")
    (figure,) = figures
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    # In the order of their first appearance: "b" begins in step 8.
    assert [axes.get_title(loc="left") for axes in panels] == ["a", "c", "b"]
    weights = [axes for axes in figure.axes if axes.get_ylabel() == "weight"]
    for name, panel, twin in zip("acb", panels, weights, strict=True):
        own = table[table["loss"] == name]
        raw = panel.lines[0]
        np.testing.assert_array_equal(raw.get_xdata(), own["step"])
        np.testing.assert_array_equal(raw.get_ydata(), own["raw"].astype("float32"))
        np.testing.assert_array_equal(twin.lines[0].get_ydata(), own["weight"].astype("float32"))
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"


def test_the_average_goes_on_after_an_infinity(tmp_path: Path, figures: list[Figure]) -> None:
    values = [math.inf if step == 4 else 0.5 for step in range(1, 11)]
    rows = [LossRow(s, 1, s, "a", v, 2.0, 1.0) for s, v in enumerate(values, 1)]
    write_losses(tmp_path / "r", rows)
    assert plot_run(tmp_path / "r", tmp_path / "out.png") == [tmp_path / "out.png"]
    panel, weights = figures[0].axes
    np.testing.assert_allclose(panel.lines[1].get_ydata(), values)
    low, high = weights.get_ylim()
    assert (low + high) / 2 == 2.0, "a constant weight is a line in the middle"
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["raw", "raw, smoothed (0.333)", "weight"]


def test_smoothing_can_be_chosen(tmp_path: Path, figures: list[Figure]) -> None:
    table = make_run(tmp_path / "r", losses="a")
    plot_run(tmp_path / "r", tmp_path / "out.png", smooth=0.8)
    plot_run(tmp_path / "r", tmp_path / "out.png", smooth=0)
    smooth, plain = (figure.axes[0] for figure in figures)
    expected = table["raw"].ewm(alpha=0.2).mean()
    np.testing.assert_allclose(smooth.lines[1].get_ydata(), expected, rtol=1e-4, atol=1e-6)
    assert len(plain.lines) == 2, "values, and the weight's entry in the legend"


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
        write_loss_tags(tmp_path / "r", {"G_L1": ("G",), "D_real": ("D",), "fm": ("pixel", "G")})
    drawn = plot_run(tmp_path / "r", tmp_path / "out.svg", split=True)
    names = ["out_G.svg", "out_D.svg"] + ([] if tagged else ["out_other.svg"])
    assert [path.name for path in drawn] == names
    titles = [[a.get_title("left") for a in f.axes if a.get_title("left")] for f in figures]
    assert titles == ([["G_L1", "fm"], ["D_real"]] if tagged else [["G_L1"], ["D_real"], ["fm"]])
    assert all(path.read_text().startswith("<?xml") for path in drawn)


def test_size_and_format(tmp_path: Path, figures: list[Figure]) -> None:
    make_run(tmp_path / "r")
    plot_run(tmp_path / "r", tmp_path / "out.pdf", size=(3.5, 2.0))
    assert figures[0].get_size_inches().tolist() == [3.5, 2.0]
    content = (tmp_path / "out.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content, "journals refuse bitmap fonts"
    with pytest.raises(RunError, match=r"out\.gif' names no picture; it must end in \.png"):
        plot_run(tmp_path / "r", tmp_path / "out.gif")
    for size in ((0, 3), (3, -1), (1000, 3), (math.nan, 3)):
        with pytest.raises(RunError, match=r"cannot be .* inches; each must be above 0"):
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


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    make_run(tmp_path / "r", steps=0)
    with pytest.raises(RunError, match="no losses to plot"):
        plot_run(tmp_path / "r", tmp_path / "out.png")
    with pytest.raises(RunError, match="cannot be written"):
        plot_schedules({"a": Schedule()}, 3, tmp_path / "no" / "out.png")
    assert not (tmp_path / "out.png").exists()
