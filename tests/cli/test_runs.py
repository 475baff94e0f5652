from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import nectargan
from nectargan.config.schema import Config
from nectargan.losses.loss_manager import LossManager
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from .conftest import Run


def test_sync_names_the_loggers_that_a_run_does_not_have(
    run: Run, tiny: Callable[..., Config]
) -> None:
    directory = Pix2pixTrainer(tiny(logging__tensorboard={"enable": True})).train()
    result = run("sync", directory)
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        ["TensorBoard: had everything.", "MLflow: the run does not log to it."],
    )
    for options in (["--anew"], ["--mlflow-uri", "sqlite:///other.db"]):
        result = run("sync", directory, *options)
        told = f"'{directory}' does not log to MLflow: logging.mlflow.enable is false in its config"
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr
    assert not Path("other.db").exists()


@pytest.mark.parametrize("command", [["sync"], ["rm", "-y"]])
def test_the_run_of_a_custom_loop_says_why_it_cannot_be_sent(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    losses, directory = LossManager(), tmp_path / "own"
    losses.register_loss_fn("L1", nn.L1Loss())
    with nectargan.track(losses, directory):
        losses.compute_loss_xy("L1", torch.zeros(1), torch.ones(1), epoch=1)
    result = run(*command, directory)
    assert result.exit_code == 2
    assert f"'{directory}' was recorded by nectargan.track, which writes no config.json" in (
        result.stderr
    )
    assert (directory / "losses.csv").is_file()
