from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from nectargan.analysis.gradient_plot import plot_gradients
from nectargan.errors import RunError
from nectargan.record.ledger import GradientRow, Ledger
from tests.gradient_rows import write_gradients

from .conftest import make_run


def areas(panel: Any) -> Any:
    """The upper edge of each area of a stacked panel, ``(areas, points)``."""
    edges = []
    for area in panel.collections:
        (path,) = area.get_paths()
        x, y = path.vertices.T
        edges.append([y[x == each].max() for each in np.unique(x)])
    return np.array(edges)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 12])
def test_areas_are_shares_and_lines_are_cosines(
    tmp_path: Path, figures: list[Figure], count: int
) -> None:
    losses = [f"loss_{number}" for number in range(count)]
    make_run(tmp_path / "r", losses=losses)
    table = write_gradients(tmp_path / "r", losses=losses)
    plot_gradients(tmp_path / "r", tmp_path / "out.png", smooth=0)
    (figure,) = figures
    shares, cosines = figure.axes
    by_step = table.pivot(index="step", columns="loss", values="share")[losses]
    np.testing.assert_allclose(areas(shares), by_step.cumsum(axis=1).T, rtol=1e-5)
    expected = table.pivot(index="step", columns="loss", values="cosine")
    # Two losses have the same cosine, and one has none. The last line is the axis at 0.
    shown = {1: [], 2: losses[:1]}.get(count, losses)
    assert len(cosines.lines) == len(shown) + 1
    for name, line in zip(shown, cosines.lines, strict=False):
        np.testing.assert_allclose(line.get_ydata(), expected[name], rtol=1e-5)
    (legend,) = figure.legends
    assert [text.get_text().split()[0] for text in legend.get_texts()] == losses
    share = by_step[losses[0]].iloc[-1]
    assert legend.get_texts()[0].get_text() == f"loss_0 ({100 * share:.3g} % at the end)"
    colors = {to_rgb(area.get_facecolor()[0]) for area in shares.collections}  # type: ignore[attr-defined]
    assert len(colors) == count, "each loss has a color of its own"
    with Image.open(tmp_path / "out.png") as image:
        assert image.width == 1500


def test_curves_are_smoothed_and_drawn_over_epochs(tmp_path: Path, figures: list[Figure]) -> None:
    make_run(tmp_path / "r", losses=["a", "b", "c"])
    table = write_gradients(tmp_path / "r", losses=["a", "b", "c"])
    plot_gradients(tmp_path / "r", tmp_path / "out.svg", x="epoch", smooth=0.8)
    shares, cosines = figures[0].axes
    own = table[table["loss"] == "a"]
    line = cosines.lines[0]
    np.testing.assert_allclose(line.get_xdata(), own["step"] / 10)
    average = own["cosine"].ewm(alpha=0.2, adjust=True).mean()
    np.testing.assert_allclose(line.get_ydata(), average, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(areas(shares)[-1], 1.0, rtol=1e-5)
    assert shares.get_xlabel() == cosines.get_xlabel() == "epoch"


def test_steps_without_shares_and_losses_that_were_not_computed(
    tmp_path: Path, figures: list[Figure]
) -> None:
    nan, inf = math.nan, math.inf
    make_run(tmp_path / "r")
    ledger = Ledger(tmp_path / "r" / "gradients.csv", GradientRow)
    ledger.append(
        [
            GradientRow(1, 1, 1, "a", 1.0, 1.0, nan),
            GradientRow(2, 1, 2, "a", 0.0, nan, nan),  # all gradients were zero
            GradientRow(2, 1, 2, "b", 0.0, nan, nan),
            GradientRow(3, 1, 3, "a", inf, nan, 0.5),  # an overflow
            GradientRow(3, 1, 3, "b", 2.0, 0.0, 0.5),
            GradientRow(4, 1, 4, "b", 3.0, 0.75, -0.5),
            GradientRow(4, 1, 4, "a", 1.0, 0.25, -0.5),
        ]
    )
    ledger.close()
    plot_gradients(tmp_path / "r", tmp_path / "out.png", smooth=0)
    shares, cosines = figures[0].axes
    assert areas(shares).tolist() == [[1.0, 0.25], [1.0, 1.0]]
    assert cosines.lines[0].get_xdata().tolist() == [1, 4]  # type: ignore[union-attr]
    np.testing.assert_array_equal(cosines.lines[0].get_ydata(), [nan, -0.5])


def test_several_runs_have_a_row_each_and_share_their_colors(
    tmp_path: Path, figures: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    for name, losses in (("x_v1", ["G_GAN", "G_L1"]), ("x_v2", ["G_L1", "G_VGG"])):
        make_run(tmp_path / name, losses=losses)
        write_gradients(tmp_path / name, losses=losses)
    make_run(tmp_path / "x_v3")
    with caplog.at_level(logging.WARNING, "nectargan"):
        plot_gradients(str(tmp_path / "x_*"), tmp_path / "out.png")
    assert "x_v3' has no gradients.csv" in caplog.text
    figure = figures[0]
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == [
        "v1: share of the gradient",
        "cosine between G_GAN and G_L1",
        "v2: share of the gradient",
        "cosine between G_L1 and G_VGG",
    ]
    first, second = figure.axes[0], figure.axes[2]
    l1 = [first.collections[1], second.collections[0]]
    assert l1[0].get_facecolor().tolist() == l1[1].get_facecolor().tolist()  # type: ignore[attr-defined]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["G_GAN", "G_L1", "G_VGG"]


def test_nothing_to_plot(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    with pytest.raises(RunError, match=r"has no gradients\.csv"):
        plot_gradients(tmp_path / "r", tmp_path / "out.png")
    write_gradients(tmp_path / "r", range(0))
    with pytest.raises(RunError, match="has no gradients to plot yet"):
        plot_gradients(tmp_path / "r", tmp_path / "out.png")
    write_gradients(tmp_path / "r")
    with pytest.raises(RunError, match="is not a picture: it must end in"):
        plot_gradients(tmp_path / "r", tmp_path / "out.bmp")
    with pytest.raises(RunError, match="cannot be smoothed by 1"):
        plot_gradients(tmp_path / "r", tmp_path / "out.png", smooth=1.0)
    assert not list(tmp_path.glob("out*"))
    assert pd.read_csv(tmp_path / "r" / "gradients.csv").shape == (40, 7)
