"""Checkpoints: one file that describes itself, so that no flag is needed to use it again."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nectargan.build import build_generator
from nectargan.config.config_manager import ConfigManager
from nectargan.errors import CheckpointError, ConfigError
from nectargan.files import open_regular
from nectargan.losses.vgg import UNREADABLE
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.training_state import FORMAT, CheckpointFile, TrainingState, validated
from nectargan.runs.trust import check_trust, foreign_functions
from nectargan.shell import expanded

log = logging.getLogger("nectargan")


def load_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; it cannot run code.

    Args:
        path: A checkpoint, or a run directory for the newest one in it.

    Returns:
        The content of the file, which has what `CheckpointFile` has; see `TrainingState.read`.

    Raises:
        CheckpointError: there is none, or the file is torn, foreign or from a newer version.
    """
    path = _newest(RunDirectory(path)) if Path(path).is_dir() else Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a foreign file's pickle; the error says enough
            with open_regular(path) as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"Checkpoint '{path}' cannot be read: {error.strerror}.") from None
    except UNREADABLE:
        raise CheckpointError(f"'{path}' is no checkpoint of NectarGAN, or is damaged.") from None
    validated(CheckpointFile, content, f"'{path}' is no checkpoint of NectarGAN")
    if not 1 <= content["format"] <= FORMAT:
        raise CheckpointError(
            f"'{path}' has checkpoint format {content['format']!r}; this version reads up to "
            f"{FORMAT}."
        )
    return dict(content)


def load_last(run: RunDirectory) -> dict[str, Any]:
    """The newest checkpoint of a run that can be read and resumed from; one that cannot is passed
    over with a warning.

    Raises:
        CheckpointError: there is none.
    """
    problems: list[CheckpointError] = []
    for path in reversed(run.list_checkpoints()):
        try:
            content = load_checkpoint(path)
            TrainingState.read(content, path)
        except CheckpointError as error:
            problems.append(error)
            continue
        for problem in problems:
            log.warning("%s Going on from one before it.", problem)
        return content
    raise problems[0] if problems else CheckpointError(f"'{run}' holds no checkpoint.")


def load_generator(
    path: str | PathLike[str], device: str | torch.device = "cpu", trust: bool = False
) -> nn.Module:
    """The generator of a checkpoint, in eval mode.

    Args:
        path: A checkpoint, or a run directory for the newest one in it.
        device: Where to put it.
        trust: Import a generator that is none of NectarGAN's, whoever made the run. Without this,
            it is imported if this user trained it on this machine; see `nectargan.runs.trust`.

    Returns:
        A network from ``(N, input_nc, H, W)`` to ``(N, output_nc, H, W)``, float32 in [-1, 1]. A
        built-in one raises `ModelError` for sizes that do not fit it; both sides must be a multiple
        of its ``multiple``.

    Raises:
        CheckpointError: see `load_checkpoint`; or its parts do not fit together.
        RunError: the generator would have to be imported, and is not trusted.
    """
    path = expanded(os.fspath(path))
    content = load_checkpoint(path)
    if not trust:
        check_generator_trust(content, path)
    return generator_of(content, path).to(device).eval()


def check_generator_trust(content: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Raises `RunError` if the generator of a checkpoint would have to be imported, and this user
    did not train it on this machine.

    Args:
        content: Of the checkpoint.
        path: Where it was read from: a checkpoint in a run directory, or that directory.
    """
    train = content["config"].get("train")
    generator = train.get("generator") if isinstance(train, Mapping) else None
    if foreign_functions({"train": {"generator": generator}}):
        place = Path(path).resolve()
        directory = place if place.is_dir() else place.parent.parent
        check_trust(RunDirectory(directory), content["config"], "pass trust=True to load_generator")


def generator_of(content: Mapping[str, Any], path: str | PathLike[str]) -> nn.Module:
    """The generator in the content of a checkpoint that was read from ``path``; it is imported if
    it is none of NectarGAN's.

    Raises:
        CheckpointError: its parts do not fit together.
    """
    try:
        generator = build_generator(ConfigManager(content["config"]).data)
        generator.load_state_dict(content["networks"]["generator"])
    except (ConfigError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The generator in '{path}' cannot be loaded: {reason}.") from None
    return generator


def _newest(run: RunDirectory) -> Path:
    paths = run.list_checkpoints()
    if not paths:
        raise CheckpointError(f"'{run}' holds no checkpoint.")
    return paths[-1]
