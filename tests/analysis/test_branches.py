"""In plots, the line of a fork leaves that of its parent at the checkpoint."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nectargan.analysis import plots
from nectargan.analysis.branches import Branch, branch_of, parent_of
from nectargan.analysis.curves import epochs_with_fractions
from nectargan.analysis.export import Selection, export_losses
from nectargan.analysis.frames import load_gradients, load_losses
from nectargan.analysis.gradient_plot import plot_gradients
from nectargan.analysis.live import LiveRun
from nectargan.analysis.report.charts import Arrays, curves_of_page
from nectargan.analysis.sources import LedgerSource, open_sources
from nectargan.config.config_manager import ConfigManager
from nectargan.record.lineage import read_ancestors
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.start import Request
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from ..conftest import TINY


def forked(place: object, *overrides: tuple[str, Any]) -> RunDirectory:
    return Pix2pixTrainer(Request(None, overrides).fork(str(place)).resolve()).train()


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, pairs_root: Path) -> list[RunDirectory]:
    """A run of three epochs of three steps, two forks of it, and a fork of the first fork."""
    overrides = [
        ("dataloader.dataroot", str(pairs_root)),
        ("common.output_directory", str(tmp_path_factory.mktemp("family"))),
        ("save.model_save_rate", 1),
        ("train.generator.learning_rate", {"epochs": 3, "epochs_decay": 0}),
    ]
    parent = Pix2pixTrainer(ConfigManager(TINY, overrides).data).train()
    one = forked(f"{parent}@1", ("train.loss.G_GAN", 5.0))
    other = forked(f"{parent}@1", ("train.loss.G_GAN", 9.0))
    return [parent, one, other, forked(f"{one}@2", ("train.loss.G_GAN", 20.0))]


Drawn = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drawn:
    """Draws a picture; returns the lines in its panels: by title and color, x and y."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, file: figures.append(figure))

    def draw(plot: Callable[..., object], *arguments: object) -> dict[str, dict[str, Any]]:
        plot(*arguments, tmp_path / "x.png", smooth=0)
        return {
            axes.get_title(loc="left").partition(",")[0]: {
                str(line.get_color()): (line.get_xdata(), line.get_ydata())
                for line in axes.get_lines()
            }
            for axes in figures[-1].axes
            if axes.get_title(loc="left")
        }

    return draw


def raw(run: RunDirectory, loss: str) -> pd.Series[float]:
    rows = pd.read_csv(run.losses)
    return rows[rows["loss"] == loss].set_index("step")["raw"].astype("float32")


def test_a_fork_begins_on_the_line_of_its_parent(family: list[RunDirectory], drawn: Drawn) -> None:
    parent, one, _, grandchild = family
    lines = drawn(plots.plot_comparison, [str(run) for run in (parent, one, grandchild)])["G_L1"]
    assert {color: x.tolist() for color, (x, _) in lines.items()} == {
        "C0": [*range(1, 10)],
        "C1": [3, 4, 5, 6, 7, 8, 9],  # from the last step before the fork on
        "C2": [6, 7, 8, 9],
    }
    assert lines["C1"][1][0] == raw(parent, "G_L1")[3]
    assert lines["C2"][1][0] == raw(one, "G_L1")[6]
    np.testing.assert_array_equal(lines["C1"][1][1:], raw(one, "G_L1"))


def test_what_forks_share_is_grey_without_their_parent(
    family: list[RunDirectory], drawn: Drawn
) -> None:
    parent, one, other, _ = family
    found = drawn(plots.plot_comparison, [str(one), str(other)])
    lines = found["G_L1"]
    assert lines["0.6"][0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(lines["0.6"][1], raw(parent, "G_L1")[:3])
    assert lines["C0"][0].tolist() == lines["C1"][0].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert found["val/ssim"]["0.6"][0].tolist() == [3]


def test_the_plot_of_a_fork_has_its_parent_going_on(
    family: list[RunDirectory], drawn: Drawn
) -> None:
    parent, one, *_ = family
    lines = drawn(plots.plot_run, str(one))["G_L1"]
    assert lines["C0"][0].tolist() == [*range(1, 10)]
    assert lines["0.6"][0].tolist() == [3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(lines["0.6"][1], raw(parent, "G_L1")[2:])
    assert lines["0.4"][0] == [3, 3]  # the place of the fork


def test_a_parent_is_found_by_its_rows(family: list[RunDirectory], tmp_path: Path) -> None:
    parent, one, other, grandchild = family
    sources = open_sources([str(run) for run in family], lineage=True)
    (first,) = read_ancestors(one)
    assert [branch_of(source, sources) for source in sources] == [
        None,
        Branch(first, True),
        Branch(read_ancestors(other)[0], True),
        Branch(read_ancestors(grandchild)[1], True),
    ]
    moved = LedgerSource(RunDirectory(shutil.copytree(parent, tmp_path / "elsewhere_v1")))
    assert branch_of(sources[1], [moved]) == Branch(first, True)
    assert branch_of(sources[3], [moved]) == Branch(first, True)
    assert branch_of(sources[1], [sources[2]]) == Branch(first, False)
    # It went back and made the step again: it is the parent no longer.
    rows = moved.directory.losses.read_text().splitlines(keepends=True)
    again = [line.replace(",1,1", ",1,2", 1) if line.startswith("3,") else line for line in rows]
    moved.directory.losses.write_text("".join(again))
    assert branch_of(sources[1], [moved]) == Branch(first, False)
    found = parent_of(sources[1])
    assert found is not None
    assert found.directory == parent
    assert parent_of(sources[0]) is None


# --- with and without the record of the parent ---------------------------------------------------


def test_lineage_may_be_left_out_of_plots(family: list[RunDirectory], drawn: Drawn) -> None:
    _, one, other, _ = family
    lines = drawn(partial(plots.plot_run, lineage=False), str(one))["G_L1"]
    assert {color: x.tolist() for color, (x, _) in lines.items()} == {"C0": [4, 5, 6, 7, 8, 9]}
    lines = drawn(partial(plots.plot_comparison, lineage=False), [str(one), str(other)])["G_L1"]
    assert [x.tolist() for x, _ in lines.values()] == 2 * [[4, 5, 6, 7, 8, 9]]


def test_gradients_of_a_fork_begin_with_those_of_its_parent(
    family: list[RunDirectory], figures: list[Figure], tmp_path: Path
) -> None:
    _, one, *_ = family
    plot_gradients(one.path, tmp_path / "x.png")
    plot_gradients(one.path, tmp_path / "x.png", lineage=False)
    (mark, *_), without = (figure.axes[0].lines for figure in figures)
    assert (list(mark.get_xdata()), len(without)) == ([3, 3], 0)
    limits = [figure.axes[0].get_xlim() for figure in figures]
    assert limits == [(1, 9), (4, 9)]


def test_an_export_of_a_fork_is_as_load_losses_reads_it(
    family: list[RunDirectory], tmp_path: Path
) -> None:
    *_, grandchild = family
    for selection, load in ((None, load_losses), (Selection(gradients=True), load_gradients)):
        for lineage, first in ((True, 1), (False, 7)):
            rows = export_losses(grandchild, tmp_path / "x.csv", selection, lineage=lineage)
            frame = load(grandchild.path, lineage=lineage)
            exported = pd.read_csv(tmp_path / "x.csv")
            assert (rows, exported["step"].min()) == (len(frame), first)
            assert exported["step"].tolist() == frame["step"].tolist()


def test_the_report_of_a_fork_begins_with_its_parent(family: list[RunDirectory]) -> None:
    *_, grandchild = family
    for lineage, first in ((True, 1), (False, 7)):
        (source,) = open_sources(grandchild.path, lineage=lineage)
        arrays = Arrays()
        curves = curves_of_page(source, 2000, arrays)
        groups = {curve["group"] for curve in curves}
        assert {"Losses, raw", "Gradients, share", "Validation"} <= groups
        for curve in curves:
            if curve["group"] in ("Losses, raw", "Gradients, share"):
                text = arrays.texts[curve["step"]]
                steps = np.frombuffer(base64.b64decode(text[1:]), "<i4")
                assert steps.tolist() == [*range(first, 10)]


def test_a_fork_is_watched_with_what_its_parent_recorded(family: list[RunDirectory]) -> None:
    _, one, *_ = family
    live, own = LiveRun(one), LiveRun(one, lineage=False)
    assert (live.step, live.epoch, live.metrics) == (own.step, own.epoch, own.metrics)
    assert len(live.trends["G_L1"]) == 9
    assert list(own.trends["G_L1"]) == list(live.trends["G_L1"])[3:]
    assert [str(each) for each in live.ancestors] == [f"{family[0].name}, epoch 1"]


def test_a_fork_that_has_just_begun_shows_where_it_begins(
    family: list[RunDirectory], tmp_path: Path
) -> None:
    fork = RunDirectory(shutil.copytree(family[1].path, tmp_path / "fork"))
    for ledger in (fork.losses, fork.metrics, fork.gradients):
        ledger.write_bytes(ledger.read_bytes().partition(b"\n")[0] + b"\n")
    live = LiveRun(fork)
    assert (live.step, live.epoch, live.metrics_epoch) == (3, 1, 1)
    assert live.total_steps == 9
    assert "val/ssim" in live.metrics
    assert live.images_per_second is None
    own = LiveRun(fork, lineage=False)
    assert (own.step, own.losses, own.metrics) == (0, {}, {})


def test_epochs_of_a_fork_in_mid_epoch_end_where_they_end() -> None:
    """Without the rows of its parent, the first epoch has only its last steps."""
    rows = pd.DataFrame({"step": range(5, 13), "epoch": [1, 2, 2, 2, 2, 2, 3, 3]})
    source = LedgerSource(RunDirectory("nowhere"))
    x = epochs_with_fractions(rows, source)
    assert x.tolist() == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4])
