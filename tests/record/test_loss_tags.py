from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nectargan.errors import RunError
from nectargan.loggers.tracking import Tracker
from nectargan.losses.loss_manager import LossManager
from nectargan.record.loss_tags import read_loss_tags, write_loss_tags
from nectargan.record.run_directory import RunDirectory


def test_tags_of_all_losses_are_kept(tmp_path: Path) -> None:
    assert read_loss_tags(RunDirectory(tmp_path).loss_tags) is None
    write_loss_tags(RunDirectory(tmp_path).loss_tags, {"a": ("x", "y")})
    write_loss_tags(RunDirectory(tmp_path).loss_tags, {"b": (), "a": ("x",)})
    assert read_loss_tags(RunDirectory(tmp_path).loss_tags) == {"a": ["x"], "b": []}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {}}'])
def test_damage(tmp_path: Path, content: str) -> None:
    (tmp_path / "losses.json").write_text(content)
    with pytest.raises(RunError, match=r"losses\.json' is damaged"):
        read_loss_tags(RunDirectory(tmp_path).loss_tags)
    write_loss_tags(RunDirectory(tmp_path).loss_tags, {"a": ("x",)})
    assert read_loss_tags(RunDirectory(tmp_path).loss_tags) == {"a": ["x"]}


def test_the_tracker_notes_tags_as_soon_as_a_loss_is_on_record(tmp_path: Path) -> None:
    losses = LossManager()
    losses.register_loss_fn("a", torch.abs, tags=["x"])
    losses.register_loss_fn("b", torch.abs)
    with Tracker(losses, tmp_path) as tracker:
        losses.compute_loss("a", torch.ones(()), epoch=1)
        tracker.flush()
        assert read_loss_tags(RunDirectory(tmp_path).loss_tags) == {"a": ["x"]}
        losses.compute_loss("b", torch.ones(()), epoch=1)
    assert read_loss_tags(RunDirectory(tmp_path).loss_tags) == {"a": ["x"], "b": []}


def test_without_a_ledger_there_are_no_tags(tmp_path: Path) -> None:
    losses = LossManager()
    losses.register_loss_fn("a", torch.abs, tags=["x"])
    with Tracker(losses, tmp_path, csv=False):
        losses.compute_loss("a", torch.ones(()), epoch=1)
    assert list(tmp_path.iterdir()) == []
