"""What a run should say about where it ran."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch

from nectargan.version import __version__


def describe_environment(device: torch.device) -> dict[str, str]:
    """Versions, device and git commit, as tags for a tracker."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    tags = {
        "nectargan.version": __version__,
        "torch.version": torch.__version__,
        "python.version": platform.python_version(),
        "device": gpu,
        "host": platform.node(),
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def _git(*arguments: str) -> str:
    """Output of a git command in the current directory; empty where there is no repository."""
    git = shutil.which("git")
    if git is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, no shell
            [git, *arguments], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
