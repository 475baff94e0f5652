"""``nectargan explain`` prints what `explain` finds in a run directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nectargan.analysis.explain import explain_run
from nectargan.config.schema import Config
from nectargan.record.run_directory import RunDirectory
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from .conftest import Run


@pytest.fixture
def directory(tiny: Callable[..., Config]) -> RunDirectory:
    return Pix2pixTrainer(tiny()).train()


def test_the_sentences_and_their_figures(run: Run, directory: RunDirectory) -> None:
    found = explain_run(directory)
    assert [each.topic for each in found] == ["pull", "conflict", "balance", "validation"]
    result = run("explain", directory)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"- {each.text}" for each in found]
    content = json.loads(run("explain", directory, "--json").stdout)
    assert content["run"] == str(directory)
    assert content["findings"] == [json.loads(json.dumps(each._asdict())) for each in found]
    assert sum(content["findings"][0]["figures"]["share"].values()) == pytest.approx(1)


def test_without_gradients_it_says_what_losses_and_metrics_show(
    run: Run, directory: RunDirectory
) -> None:
    directory.gradients.unlink()
    metrics = directory.metrics.read_text().splitlines(keepends=True)
    kept = [line for line in metrics if "gradient/" not in line and "discriminator/" not in line]
    directory.metrics.write_text("".join(kept))
    result = run("explain", directory)
    assert "is not on record (no gradients)" in result.stdout
    for word in ("cosine", "accuracy", "share of"):
        assert word not in result.stdout


def test_directories_without_a_run_or_a_record(
    run: Run, directory: RunDirectory, tmp_path: Path
) -> None:
    result = run("explain", tmp_path / "none_v1")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "does not exist" in result.stderr
    empty = RunDirectory(shutil.copytree(directory, tmp_path / "empty_v1"))
    for ledger in (empty.losses, empty.metrics, empty.gradients):
        ledger.write_text(ledger.read_text().splitlines(keepends=True)[0])
    assert run("explain", empty).stdout == f"'{empty}' has no losses on record yet.\n"
    empty.losses.unlink()
    assert "it has no losses.csv" in run("explain", empty).stderr


def test_a_run_that_is_finished_ends_with_them(run: Run, config_file: Path, tmp_path: Path) -> None:
    result = run("train", "-c", config_file)
    found = explain_run(RunDirectory(tmp_path / "runs" / "tiny_v1"))
    lines = result.stdout.splitlines()
    at = lines.index("What the record shows:")
    assert lines[at + 1 : at + 1 + len(found)] == [f"- {each.text}" for each in found]
    assert lines[at + 1 + len(found)].startswith("Run: ")
