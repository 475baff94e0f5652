"""Warm start: a new run begins with the weights of a checkpoint, and with nothing else of it.

Only tensors are read from the file. What its config names is not imported, so no trust is needed:
the networks are those of the new run's own config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from nectargan.config.config_manager import ConfigManager
from nectargan.config.dotted import dotted
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, NectarGANError
from nectargan.files import digest_of_file
from nectargan.runs.checkpoint import checkpoint_at, load_checkpoint
from nectargan.runs.misfits import tensor_misfits

_SHAPING = ("train.generator.", "train.discriminator.", "dataloader.load.")
_NOT_SHAPING = ("learning_rate.", "optimizer.")


def warm_start(config: Config, networks: Mapping[str, nn.Module]) -> None:
    """Loads the weights of ``train.init_from``, if it is given, and notes the file's digest in the
    config.

    Args:
        config: The config of a new run; its ``train.init_from_digest`` is set.
        networks: The networks by name; changed in place.

    Raises:
        CheckpointError: the file cannot be read, is not the one whose digest is given, or its
            weights do not fit; then nothing was changed.
    """
    if config.train.init_from is not None:
        states, digest = _fitting_states(config, networks)
        for name, network in networks.items():
            network.load_state_dict(states[name])
        config.train.init_from_digest = digest


def check_warm_start(config: Config, networks: Mapping[str, nn.Module]) -> None:
    """Raises what `warm_start` would raise; the networks may be on the meta device."""
    if config.train.init_from is not None:
        _fitting_states(config, networks)


def _fitting_states(
    config: Config, networks: Mapping[str, nn.Module]
) -> tuple[dict[str, Any], str]:
    """The states of the networks by name, and the digest of the file."""
    wanted = config.train.init_from_digest
    try:
        file = checkpoint_at(Path(config.train.init_from or ""))
        content = load_checkpoint(file)
        digest = digest_of_file(file)
    except CheckpointError as error:
        raise CheckpointError(f"train.init_from: {error}") from None
    except OSError as error:
        raise CheckpointError(f"train.init_from: '{file}': {error.strerror}.") from None
    if wanted not in (None, digest):
        raise CheckpointError(
            f"train.init_from: the SHA-256 of '{file}' is {digest}, and train.init_from_digest is "
            f"{wanted}; put the file back, or remove the digest to use this one."
        )
    states: dict[str, Any] = content["networks"]
    misfits = [f"it has no {name}" for name in networks if name not in states]
    for name, network in networks.items():
        if name in states:
            misfits += tensor_misfits(states[name], network.state_dict(), name)
    if misfits:
        options = "".join(f" ({told})" for told in _other_options(content["config"], config))
        raise CheckpointError(
            f"train.init_from: the weights in '{file}' do not fit this run{options}: "
            f"{'; '.join(misfits)}."
        )
    return states, digest


def _other_options(theirs: Mapping[str, Any], ours: Config) -> Iterator[str]:
    """The options of the networks that differ, in one phrase, if there are any."""
    with suppress(NectarGANError):
        before, now = dotted(ConfigManager(theirs).data), dotted(ours)
        differing = [
            f"{key} was {before.get(key)}, not {now.get(key)}"
            for key in dict.fromkeys([*now, *before])
            if key.startswith(_SHAPING)
            and not any(part in key for part in _NOT_SHAPING)
            and before.get(key) != now.get(key)
        ]
        if differing:
            yield ", ".join(differing)
