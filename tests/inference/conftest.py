"""A run that was trained, shared by the tests of what is done with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nectargan.config.config_manager import ConfigManager
from nectargan.record.run_directory import RunDirectory
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import TINY


@pytest.fixture(scope="session")
def trained(pairs_root: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of two epochs, with a best checkpoint and two of epochs; not to be changed."""
    overrides = [
        ("dataloader.dataroot", str(pairs_root)),
        ("common.output_directory", str(tmp_path_factory.mktemp("trained"))),
        ("save.model_save_rate", 1),
        ("save.keep_best", "val/l1"),
        ("save.example_save_rate", 1),
    ]
    return Pix2pixTrainer(ConfigManager(TINY, overrides).data).train(display=None)
