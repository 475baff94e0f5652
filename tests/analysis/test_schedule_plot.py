"""Schedules that are drawn over a finished run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from nectargan.analysis.curves import curves_of
from nectargan.analysis.gradient_plot import gradient_curves_of
from nectargan.analysis.schedule_plot import plot_schedules
from nectargan.analysis.sources import open_sources
from nectargan.errors import RunError
from nectargan.scheduling.data import Schedule
from tests.gradient_rows import write_gradients

from .conftest import make_run

SCHEDULES = {
    "weight/G_L1": Schedule("linear", 1, 3, 100.0, 0.0),
    "weight/G_GAN": Schedule("constant", initial_value=1.0),
    "lr/generator": Schedule("linear", 1, 3, 0.2, 0.0),
}


def test_the_schedule_is_drawn_over_losses_and_shares_of_a_run(
    tmp_path: Path, figures: list[Figure]
) -> None:
    make_run(tmp_path / "r", losses=["G_L1", "G_GAN"])
    write_gradients(tmp_path / "r", losses=["G_L1", "G_GAN"])
    plot_schedules(SCHEDULES, 3, tmp_path / "s.png", tmp_path / "r")
    (figure,) = figures
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert [title for title in titles if title] == [
        "lr/generator: linear",
        "weight/G_L1: linear",
        "weight/G_L1, share of the gradient: linear",
    ]
    _, weight, share = (panel for panel in figure.axes if panel.get_title(loc="left"))
    loss_behind, share_behind = (p for p in figure.axes if not p.get_title(loc="left"))
    for panel in (weight, share):
        np.testing.assert_allclose(panel.lines[0].get_ydata(), [100.0, 50.0, 0.0])
    (source,) = open_sources(tmp_path / "r")
    curve = curves_of(source, "epoch").losses["G_L1"]
    applied = weight.lines[1]
    assert (applied.get_label(), applied.get_linestyle()) == ("applied by r", "--")
    np.testing.assert_array_equal(applied.get_xdata(), curve.x)
    np.testing.assert_array_equal(applied.get_ydata(), curve.weights)
    low, high = weight.get_ylim()
    assert low <= min(0.0, curve.weights.min()) < max(100.0, curve.weights.max()) <= high
    assert len(share.lines) == 1
    np.testing.assert_array_equal(loss_behind.lines[0].get_xdata(), curve.x)
    np.testing.assert_array_equal(loss_behind.lines[0].get_ydata(), curve.smooth)
    gradients = gradient_curves_of(source, "epoch")
    np.testing.assert_array_equal(share_behind.lines[0].get_ydata(), gradients.shares["G_L1"])


def test_a_run_without_gradients_and_one_without_the_loss(
    tmp_path: Path, figures: list[Figure]
) -> None:
    make_run(tmp_path / "r", losses=["G_L1"])
    plot_schedules(SCHEDULES, 3, tmp_path / "s.png", tmp_path / "r")
    assert len(figures[0].axes) == 3  # two schedules, and the loss behind one of them
    make_run(tmp_path / "other", losses=["G_L2"])
    with pytest.raises(RunError, match="has no loss whose weight or share is drawn: weight/G_L1"):
        plot_schedules(SCHEDULES, 3, tmp_path / "no.png", tmp_path / "other")
    with pytest.raises(RunError, match="stands for 2 runs; name one"):
        plot_schedules(SCHEDULES, 3, tmp_path / "no.png", str(tmp_path / "*"))
    assert not (tmp_path / "no.png").exists()
