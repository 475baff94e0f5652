"""In plots, the line of a fork leaves that of its parent at the checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nectargan.analysis import plots
from nectargan.analysis.branches import Branch, branch_of, parent_of
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
