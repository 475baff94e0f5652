"""A run that an earlier version left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of version 1.0.0 that was stopped after the first of three steps of epoch 2 of 2."""
    return shutil.copytree(DATA / "stopped_run", tmp_path / "old_v1")
