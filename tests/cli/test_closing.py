from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import nectargan
from nectargan.analysis import load_runs
from nectargan.cli.closing import closing_lines
from nectargan.record.run_directory import RunDirectory
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from ..conftest import Config
from .conftest import Run


def lines_of(stdout: str) -> dict[str, str]:
    """The closing lines by their labels."""
    lines = stdout[stdout.index("\nRun: ") :].strip().splitlines()
    return {line[:9].strip(): line[9:] for line in lines}


def test_the_end_of_a_run_says_what_it_came_to(run: Run, config_file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "it's 5 $"
    sinks = [f"logging.{sink}.enable=true" for sink in ("tensorboard", "mlflow")]
    options = [*sinks, "logging.mlflow.log_model=false", "save.keep_best=val/l1"]
    settings = [part for option in options for part in ("--set", option)]
    result = run("train", "-c", config_file, "-o", odd, *settings)
    assert result.exit_code == 0, result.output
    lines = lines_of(result.stdout)
    directory = odd / "tiny_v1"
    assert lines["Run:"].startswith(f"{directory} (epoch 2 of 2, 0:00:")
    row = load_runs([directory]).iloc[0]
    best = directory / "checkpoints" / "best.pt"
    epoch = row["best/l1_epoch"]
    assert lines["Best:"] == f"val/l1 {row['best/l1']:.4g} in epoch {epoch}: {best}"
    program, *arguments = shlex.split(lines["View:"])
    assert shutil.which(program)
    assert arguments == ["ui", str(odd)]
    program, *arguments = shlex.split(lines["Use:"])
    assert shutil.which(program)
    assert arguments == ["apply", str(best), "IMAGE...", "-o", "OUT"]
    model = eval(lines["Python:"], {"nectargan": nectargan})  # noqa: S307 - what we print
    assert model.generate(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    losses = eval(lines["pandas:"], {"pandas": pd})  # noqa: S307 - what we print
    assert losses["step"].max() == 6
    assert os.listdir() == [], "nothing belongs in the current directory"


def test_a_server_is_named(tiny: Any) -> None:
    config: Config = tiny(
        logging__mlflow={"enable": True, "tracking_uri": "https://me:secret@there:5"}
    )
    trainer = Pix2pixTrainer(config)
    trainer.directory = RunDirectory("runs/x_v1")
    lines = [line for line in closing_lines(trainer, 3725.0) if "MLflow" in line]
    assert len(lines) == 1
    assert lines[0].endswith("there:5")
    assert "secret" not in lines[0]


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_what_was_not_kept_is_not_promised(tiny: Any, tmp_path: Path, has_checkpoint: bool) -> None:
    trainer = Pix2pixTrainer(tiny())
    trainer.directory, trainer.epoch = RunDirectory(tmp_path / "x_v1"), 2
    trainer.bests = {"val/ssim": (0.5, 1)}
    folder = trainer.directory / "checkpoints"
    folder.mkdir(parents=True)
    if has_checkpoint:
        (folder / "last.pt").touch()
    told = "\n".join(closing_lines(trainer, 3725.0))
    assert "(epoch 2 of 2, 1:02:05)" in told
    assert "val/ssim 0.5 in epoch 1: its checkpoint was not kept" in told
    assert ("last.pt" in told) == ("load_model" in told) == has_checkpoint


@pytest.mark.skipif(os.name == "nt", reason="the shell's quotes are those of POSIX")
def test_an_interrupted_run_says_how_to_go_on(
    run: Run, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Pix2pixTrainer.train_step

    def interrupted(trainer: Pix2pixTrainer, source: torch.Tensor, target: torch.Tensor) -> None:
        plain(trainer, source, target)
        if trainer.step == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Pix2pixTrainer, "train_step", interrupted)
    odd = tmp_path / "it's odd"
    result = run("train", "-c", config_file, "-o", odd)
    assert result.exit_code == 130, result.output
    program, *arguments = shlex.split(lines_of(result.stdout)["Resume:"])
    assert shutil.which(program)
    assert arguments == ["--resume", str(odd / "tiny_v1")]
    monkeypatch.setattr(Pix2pixTrainer, "train_step", plain)
    result = run("train", *arguments)
    assert result.exit_code == 0, result.output
    assert "Resume:" not in lines_of(result.stdout)
    assert RunDirectory(odd / "tiny_v1").read_status() == ("FINISHED", "")
    result = run("train", *arguments)
    assert result.exit_code == 0
    assert result.stdout == (
        f"'{odd / 'tiny_v1'}' is finished after 2 epochs; add --epochs N to train longer.\n"
    )
    assert RunDirectory(odd / "tiny_v1").read_status() == ("FINISHED", "")
