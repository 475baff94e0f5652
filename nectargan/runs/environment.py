"""Describes the machine and the versions of a run."""

from __future__ import annotations

import getpass
import os
import platform
import sys
from pathlib import Path

import torch

from nectargan import shell
from nectargan.credentials import public_argument
from nectargan.runs.git import git_metadata
from nectargan.version import __version__


def describe_environment(device: torch.device) -> dict[str, str]:
    """Versions, device, command line and git commit, as tags for MLflow.

    Tags that begin with ``mlflow.`` fill columns of its UI.
    """
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    tags = {
        "nectargan.version": __version__,
        "torch.version": torch.__version__,
        "cuda.version": torch.version.cuda or "none",
        "python.version": platform.python_version(),
        "device": gpu,
        "host": platform.node(),
        "command": own_command_line(),
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
    }
    user = _user()
    if user:
        tags["mlflow.user"] = user
    tags |= git_metadata(Path())
    return tags


def own_command_line() -> str:
    """The command that started this process, quoted for a shell, without users and passwords in
    addresses."""
    program = Path(sys.argv[0]).name or "python"
    return shell.command_line([program, *map(public_argument, sys.argv[1:])])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # in a container, the user may have no name
        return os.environ.get("USERNAME", "")
