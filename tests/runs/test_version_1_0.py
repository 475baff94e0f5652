"""Runs that version 1.0 made are read, compared, resumed, applied and sent like those of today.

In ``tests/data/version_1_0``: ``old_v1``, a finished run of two epochs with a scheduled weight;
``swept_v1`` and ``swept_v2``, the points of a sweep; ``tracked``, a loop with `track`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from nectargan import load_generator, load_losses, load_metrics, load_runs
from nectargan.cli.main import main

DATA = Path(__file__).parents[1] / "data"
NAMES = ["old_v1", "swept_v1", "swept_v2", "tracked"]

Run = Callable[..., Result]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output directory with these runs, beside the data that they were trained on."""
    shutil.copytree(DATA / "version_1_0", tmp_path / "runs")
    shutil.copytree(DATA / "stopped_run_pairs", tmp_path / "pairs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Path("runs")


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])


def test_they_are_listed(runs: Path, run: Run) -> None:
    result = run("runs", runs)
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in NAMES[:3])


def test_they_are_compared(runs: Path, run: Run) -> None:
    result = run("compare", *(runs / name for name in NAMES[:3]), "--format", "json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["run"] for row in rows] == NAMES[:3]
    assert [row["train.loss.G_L1"] for row in rows] == ["linear 100→10 @ 1–2", 10.0, 100.0]
    assert [row["status"] for row in rows] == ["FINISHED"] * 3


def test_they_are_exported(runs: Path, run: Run) -> None:
    result = run("export-csv", runs / "old_v1", "-o", "wide.csv")
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv("wide.csv")) > 0


def test_they_are_read_as_frames(runs: Path) -> None:
    losses = load_losses(runs / "old_v1")
    scheduled = losses[losses["loss"] == "G_L1"]
    assert scheduled["weight"].tolist() == [100, 100, 10, 10]
    written = pd.read_csv(runs / "old_v1" / "losses.csv")
    assert losses["weighted"].to_numpy() == pytest.approx(written["weighted"].to_numpy())
    metrics = load_metrics(runs / "old_v1")
    assert metrics[metrics["metric"] == "val/ssim"]["epoch"].tolist() == [1, 2]
    table = load_runs([runs / name for name in NAMES[:3]])
    assert table["step"].tolist() == [4, 4, 4]
    assert table["train.loss.G_L1"].tolist() == ["linear 100→10 @ 1–2", 10.0, 100.0]


def test_the_record_of_a_custom_loop_is_read(runs: Path) -> None:
    losses = load_losses(runs / "tracked")
    assert losses["weight"].tolist() == pytest.approx([10, 10, 5.5, 5.5, 1, 1])
    assert losses["raw"].tolist() == pytest.approx([1 / step for step in range(1, 7)])
    assert load_metrics(runs / "tracked")["value"].tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_finished_one_says_so_and_goes_on_with_more_epochs(runs: Path, run: Run) -> None:
    old = runs / "old_v1"
    before = (old / "losses.csv").read_bytes()
    result = run("train", "--resume", old)
    assert result.exit_code == 0, result.output
    assert "is finished after 2 epochs; add --epochs N to train longer." in result.output
    assert (old / "losses.csv").read_bytes() == before
    result = run("train", "--resume", old, "--epochs", "3", "--no-tensorboard", "--no-mlflow")
    assert result.exit_code == 0, result.output
    assert (old / "losses.csv").read_bytes().startswith(before)
    assert load_losses(old)["step"].unique().tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", NAMES[:3])
def test_their_generators_are_loaded(runs: Path, name: str) -> None:
    with torch.no_grad():
        generated = load_generator(runs / name)(torch.zeros(1, 3, 32, 32))
    assert generated.shape == (1, 3, 32, 32)
    assert generated.abs().max() <= 1


def test_they_are_sent_to_an_mlflow_that_does_not_know_them(
    runs: Path, run: Run, empty_store: Path
) -> None:
    shutil.copy(empty_store, "new.db")
    result = run("sync", runs / "old_v1", "--mlflow-uri", "sqlite:///new.db")
    assert result.exit_code == 0, result.output
    sent = json.loads((runs / "old_v1" / "mlflow_run.json").read_text())["run_id"]
    ours = load_losses(runs / "old_v1")
    theirs = load_losses(f"mlflow:{sent}", "sqlite:///new.db")
    assert theirs["step"].max() == ours["step"].max() == 4
    keys = ["loss", "step"]
    for frame in (ours, theirs):
        frame["loss"] = frame["loss"].astype(str)
    columns = [*keys, "raw", "weight"]
    ours, theirs = (each.sort_values(keys)[columns] for each in (ours, theirs))
    assert theirs.to_numpy().tolist() == ours.to_numpy().tolist()


def test_imports_of_its_readme() -> None:
    from nectargan.trainers.checkpoint import load_generator as earlier_path

    assert earlier_path is load_generator
