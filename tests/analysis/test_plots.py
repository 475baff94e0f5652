from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nectargan.analysis.plots import plot_run, plot_schedules
from nectargan.errors import RunError
from nectargan.loggers.ledger import Ledger, LossRow
from nectargan.scheduling.data import Schedule

from .test_history import make_run


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
        np.testing.assert_array_equal(raw.get_ydata(), own["raw"])
        np.testing.assert_array_equal(twin.lines[0].get_ydata(), own["weight"])
    with Image.open(tmp_path / "out.png") as image:
        assert image.format == "PNG"


def test_the_mean_goes_on_after_an_infinity(tmp_path: Path, figures: list[Figure]) -> None:
    directory = tmp_path / "r"
    directory.mkdir()
    rows = [LossRow(s, 1, s, "a", math.inf if s == 4 else 0.5, 2.0, 1.0) for s in range(1, 11)]
    Ledger(directory / "losses.csv", LossRow).append(rows)
    plot_run(directory, tmp_path / "out.png")
    _, mean = figures[0].axes[0].lines
    np.testing.assert_allclose(mean.get_ydata(), np.full(10, 0.5))
    weights = figures[0].axes[1]
    low, high = weights.get_ylim()
    assert (low + high) / 2 == 2.0, "a constant weight is a line in the middle"


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
