"""A run that was changed on its way is shown as one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nectargan.analysis.compare import compare_runs
from nectargan.analysis.frames import load_runs
from nectargan.analysis.run_changes import changes_of
from nectargan.cli.main import main
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint, load_last
from nectargan.runs.resume import resumption_of
from nectargan.runs.run_list import summarize_runs
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

Make = Callable[..., Config]
RATE = "train.generator.learning_rate"


def resumed(run: Path, file: Path | None = None, **options: Any) -> None:
    content = load_checkpoint(file) if file else load_last(RunDirectory(run))
    changes = [(key.replace("__", "."), value) for key, value in options.items()]
    wanted = ConfigManager(content["config"], changes).data
    resumption = resumption_of(RunDirectory(run), content, wanted, file)
    Pix2pixTrainer(resumption.config, resumption).train()


def told(run: Path) -> list[str]:
    return [str(change) for change in changes_of(RunDirectory(run))]


@pytest.fixture
def run(tiny: Make) -> Path:
    """A run of two epochs at a constant rate."""
    options = {
        "save__model_save_rate": 1,
        RATE.replace(".", "__"): {"epochs": 2, "epochs_decay": 0},
    }
    return Pix2pixTrainer(tiny(**options)).train().path


def test_a_changed_learning_rate_is_shown_everywhere(run: Path, tiny: Make) -> None:
    original = (run / "config.json").read_bytes()
    assert told(run) == []
    assert "changes" not in load_runs(run.parent / "*")
    changes = {f"{RATE}.initial": 0.0001, f"{RATE}.epochs": 3}
    resumed(run, **changes)
    sentence = (
        "epoch 3: generator.learning_rate.epochs 2 to 3, generator.learning_rate.initial 0.0002 to "
        "0.0001"
    )
    assert told(run) == [sentence]
    assert (run / "config_original.json").read_bytes() == original
    other = Pix2pixTrainer(tiny()).train()
    frame = load_runs([run, other])
    assert frame.loc[run.name, "changes"] == sentence
    assert frame["changes"].isna().tolist() == [False, True]
    assert compare_runs([run, other]).loc[run.name, "changes"] == sentence
    assert [summary.changes for summary in summarize_runs(run.parent)] == [[sentence], []]
    printed = CliRunner().invoke(main, ["runs", str(run.parent)]).output
    assert "changed in" in printed
    shown = CliRunner().invoke(main, ["compare", str(run), str(other)]).output
    assert "changes" in shown

    # A second change is told beside the first, and the first config stays.
    resumed(run, **{"train.loss.G_L1": 7.0, f"{RATE}.epochs": 4})
    assert told(run)[0] == sentence
    assert told(run)[1].startswith("epoch 4: ")
    assert "loss.G_L1 100.0 to 7.0" in told(run)[1]
    assert (run / "config_original.json").read_bytes() == original


def test_a_change_of_the_device_is_not_listed(run: Path) -> None:
    resumed(run, run / "checkpoints" / "epoch_0001.pt", **{"logging.window_steps": 3})
    assert told(run) == []


def test_a_change_that_was_cut_off_is_none(run: Path) -> None:
    """A change after the second epoch, which the way back to the first undoes."""
    resumed(run, **{f"{RATE}.epochs": 3, "train.loss.G_L1": 7.0})
    assert len(told(run)) == 1
    resumed(run, run / "checkpoints" / "epoch_0001.pt", **{"train.loss.G_L1": 50.0})
    assert told(run) == ["epoch 2: loss.G_L1 100.0 to 50.0"]
    # Once more from the same place, without the change.
    resumed(run, run / "checkpoints" / "epoch_0001.pt")
    assert told(run) == []


def test_logs_of_version_1_0_and_invalid_logs(tmp_path: Path) -> None:
    log = tmp_path / "resumptions.jsonl"
    assert changes_of(RunDirectory(tmp_path)) == []
    line = {"time": 1, "epoch": 4, "step": 40}
    changes = [{"train.loss.G_L1": [100.0, 7.0], "logging.csv": [True, False]}, {}]
    log.write_text("".join(json.dumps({**line, "changes": each}) + "\n" for each in changes))
    assert told(tmp_path) == ["epoch 5: loss.G_L1 100.0 to 7.0"]
    for text in ("{", "[]", '{"history": [{"epoch": 1, "options": {"a": 3}}]}', "\0"):
        log.write_text(text)
        assert changes_of(RunDirectory(tmp_path)) == []
    if os.name != "nt":
        log.unlink()
        os.mkfifo(log)
        assert changes_of(RunDirectory(tmp_path)) == []
