"""Reading checkpoints. A checkpoint contains the config, so it can be used without any options."""

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
from nectargan.build_values import ValueMappings
from nectargan.config.config_manager import ConfigManager
from nectargan.errors import CheckpointError, ConfigError, DataError
from nectargan.files import TORCH_LOAD_ERRORS, open_regular
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.training_state import FORMAT, CheckpointFile, TrainingState, validated
from nectargan.runs.trust import check_trust, foreign_functions
from nectargan.shell import expanded
from nectargan.wording import one_line

log = logging.getLogger("nectargan")


def load_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. No code from the file is executed.

    Args:
        path: A checkpoint, or a run directory to read its newest checkpoint.

    Returns:
        The content of the file, with the fields of `CheckpointFile`; see `TrainingState.read`.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, was not written by NectarGAN or
            is from a newer version.
    """
    path = checkpoint_at(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other pickles; the error is enough
            with open_regular(path) as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"Checkpoint '{path}' cannot be read: {error.strerror}.") from None
    except TORCH_LOAD_ERRORS:
        raise CheckpointError(
            f"'{path}' is not a checkpoint of NectarGAN, or is damaged."
        ) from None
    validated(CheckpointFile, content, f"'{path}' is not a checkpoint of NectarGAN")
    if not 1 <= content["format"] <= FORMAT:
        raise CheckpointError(
            f"'{path}' has checkpoint format {content['format']!r}; this version reads up to "
            f"{FORMAT}."
        )
    return dict(content)


def checkpoint_at(place: str | PathLike[str]) -> Path:
    """The newest checkpoint of a run directory, or ``place`` if it is no directory.

    Raises:
        CheckpointError: the directory holds no checkpoint.
    """
    if not Path(place).is_dir():
        return Path(place)
    run = RunDirectory(place)
    paths = run.list_checkpoints()
    if not paths:
        raise CheckpointError(f"'{run}' holds no checkpoint.")
    return paths[-1]


def load_last(run: RunDirectory) -> dict[str, Any]:
    """The content of the `newest_checkpoint`; raises CheckpointError."""
    return newest_checkpoint(run)[1]


def newest_checkpoint(run: RunDirectory) -> tuple[Path, dict[str, Any]]:
    """The file and the content of the newest checkpoint of a run that can be resumed. Damaged ones
    are skipped with a warning.

    Raises:
        CheckpointError: there is no such checkpoint.
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
            log.warning("%s An earlier checkpoint is used instead.", problem)
        return path, content
    raise problems[0] if problems else CheckpointError(f"'{run}' holds no checkpoint.")


def load_generator(
    path: str | PathLike[str], device: str | torch.device = "cpu", trust: bool = False
) -> nn.Module:
    """The generator of a checkpoint, in eval mode.

    Args:
        path: A checkpoint, or a run directory to read its newest checkpoint.
        device: The device to load the generator on.
        trust: Whether a generator that is not part of NectarGAN may be imported from any run.
            By default it is imported only if this user trained it on this machine; see
            `nectargan.runs.trust`.

    Returns:
        A network from ``(N, input_nc, H, W)`` to ``(N, output_nc, H, W)``, float32 in [-1, 1]. For
        a built-in network, H and W must be multiples of its attribute ``multiple``; otherwise it
        raises `ModelError`.

    Raises:
        CheckpointError: see `load_checkpoint`; or the weights do not fit the generator.
        RunError: the generator is not part of NectarGAN and not trusted.
    """
    path = expanded(os.fspath(path))
    content = load_checkpoint(path)
    if not trust:
        check_generator_trust(content, path)
    return generator_of(content, path).to(device).eval()


def check_generator_trust(
    content: Mapping[str, Any],
    path: str | PathLike[str],
    advice: str = "pass trust=True to load_generator",
) -> None:
    """Raises `RunError` if the generator of a checkpoint is not part of NectarGAN and this user did
    not train it on this machine.

    Args:
        content: The content of the checkpoint.
        path: The checkpoint in a run directory, or the run directory.
        advice: What the user can do, for the error message.
    """
    train = content["config"].get("train")
    generator = train.get("generator") if isinstance(train, Mapping) else None
    if foreign_functions({"train": {"generator": generator}}):
        place = Path(path).resolve()
        directory = place if place.is_dir() else place.parent.parent
        check_trust(RunDirectory(directory), content["config"], advice)


def mappings_in(content: Mapping[str, Any], path: str | os.PathLike[str]) -> ValueMappings | None:
    """The value mappings in a checkpoint read from ``path``; ``None`` for plain 8-bit images.

    Raises:
        CheckpointError: they are damaged.
    """
    found = content.get("values")
    try:
        return None if found is None else ValueMappings.from_dict(found)
    except DataError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error}") from None


def generator_of(content: Mapping[str, Any], path: str | PathLike[str]) -> nn.Module:
    """Builds the generator of a checkpoint read from ``path``; imports it if it is not part
    of NectarGAN.

    Raises:
        CheckpointError: the generator cannot be built, or the weights do not fit it.
    """
    try:
        generator = build_generator(ConfigManager(content["config"]).data)
        generator.load_state_dict(content["networks"]["generator"])
    except (ConfigError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = one_line(error)[:200]
        raise CheckpointError(f"The generator in '{path}' cannot be loaded: {reason}.") from None
    return generator
