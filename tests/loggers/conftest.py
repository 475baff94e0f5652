from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    """The tracking URI of an empty database of the test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
