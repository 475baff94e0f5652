"""The file in a run directory that says which MLflow run belongs to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nectargan.files import read_regular_text, replacing
from nectargan.record.run_directory import RunDirectory


def read_run_file(directory: RunDirectory) -> dict[str, Any]:
    """The content of the file; empty if it does not exist or cannot be read."""
    try:
        known = json.loads(read_regular_text(directory.mlflow_run))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_run_file(directory: RunDirectory, content: Mapping[str, Any]) -> None:
    """Replaces the content of the file; raises OSError."""
    with replacing(directory.mlflow_run) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def remember_run(directory: RunDirectory, run_id: str | None) -> None:
    """Writes the file again if it was lost; raises OSError."""
    if run_id and not directory.mlflow_run.exists():
        write_run_file(directory, {"run_id": run_id})


def forget_run(directory: RunDirectory) -> None:
    """Deletes the file, so that the MLflow sink creates a new run."""
    directory.mlflow_run.unlink(missing_ok=True)
