"""Checkpoints: one file that describes itself, so that no flag is needed to use it again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ConfigError
from nectargan.files import replacing
from nectargan.losses.vgg import UNREADABLE
from nectargan.models.unet import UnetGenerator
from nectargan.trainers.components import build_generator
from nectargan.version import __version__

FORMAT = 1
FOLDER = "checkpoints"


def save_checkpoint(
    path: Path, config: Config, epoch: int, step: int, networks: Mapping[str, torch.nn.Module]
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: The file.
        config: The run's resolved config.
        epoch: Epochs done.
        step: Steps done.
        networks: "generator" and any others, by name.
    """
    content = {
        "format": FORMAT,
        "nectargan_version": __version__,
        "config": config.model_dump(mode="json"),
        "epoch": epoch,
        "step": step,
        "networks": {name: network.state_dict() for name, network in networks.items()},
    }
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        torch.save(content, part)


def load_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; it cannot run code.

    Args:
        path: A checkpoint, or a run directory for the newest one in it.

    Returns:
        What `save_checkpoint` wrote.

    Raises:
        CheckpointError: there is none, or the file is torn, foreign or from a newer version.
    """
    path = _newest(Path(path)) if Path(path).is_dir() else Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a foreign file's pickle; the error says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"Checkpoint '{path}' cannot be read: {error.strerror}.") from None
    except UNREADABLE:
        raise CheckpointError(f"'{path}' is no checkpoint of NectarGAN, or is damaged.") from None
    if not isinstance(content, dict) or not {"format", "config", "networks"} <= content.keys():
        raise CheckpointError(f"'{path}' is no checkpoint of NectarGAN.")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"'{path}' has checkpoint format {content['format']!r}; this version reads {FORMAT}."
        )
    return content


def load_generator(path: str | PathLike[str], device: str | torch.device = "cpu") -> UnetGenerator:
    """The generator of a checkpoint, in eval mode.

    Args:
        path: A checkpoint, or a run directory for the newest one in it.
        device: Where to put it.

    Returns:
        A network from ``(N, input_nc, H, W)`` to ``(N, output_nc, H, W)``, float32 in [-1, 1].

    Raises:
        CheckpointError: see `load_checkpoint`; or its parts do not fit together.
    """
    content = load_checkpoint(path)
    try:
        generator = build_generator(ConfigManager(content["config"]).data)
        generator.load_state_dict(content["networks"]["generator"])
    except (ConfigError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The generator in '{path}' cannot be loaded: {reason}.") from None
    return generator.to(device).eval()


def _newest(run: Path) -> Path:
    found = [path for path in (run / FOLDER).glob("epoch_*.pt") if path.stem[6:].isdecimal()]
    paths = sorted(found, key=lambda path: int(path.stem[6:]))
    if not paths:
        raise CheckpointError(f"'{run}' holds no checkpoint.")
    return paths[-1]
