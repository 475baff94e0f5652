"""What a run should say about where it ran."""

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
    """Versions, device, command line and git commit, as tags for a tracker.

    Those that begin with ``mlflow.`` fill the columns that its UI has for them.
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
    """The command that started this process, as a shell takes it; of addresses only scheme, host,
    port and path."""
    program = Path(sys.argv[0]).name or "python"
    return shell.command_line([program, *map(public_argument, sys.argv[1:])])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a name for its user
        return os.environ.get("USERNAME", "")
