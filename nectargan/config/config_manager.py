"""`ConfigManager` reads a config, overrides single options, validates it and saves it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nectargan.config.base import MOST_EPOCHS
from nectargan.config.documents import DEEPEST, check_extent, read_document
from nectargan.config.error_messages import config_error, shortened
from nectargan.config.migration import migrate
from nectargan.config.schema import Config
from nectargan.errors import ConfigError
from nectargan.files import replacing

Override = tuple[str, Any]


class ConfigManager:
    """Reads and validates a config.

    Args:
        source: The path of a JSON or YAML file (by suffix), the name of a config that comes with
            NectarGAN (see `nectargan.config.shipped`), a dictionary, or ``None`` for the defaults.
            Configs of NectarGAN v0.2.3 are migrated, with warnings.
        overrides: ``(dotted key, value)`` pairs that replace single options; of two pairs with the
            same key, the later one wins. Messages name a pair as ``--set KEY``.
        flags: Command-line options, such as ``--device``, by the dotted key that they set. Messages
            name these instead of ``--set``.

    Attributes:
        data: The validated `Config`.

    Raises:
        ConfigError: If the file cannot be read, or a key or a value is invalid.
    """

    def __init__(
        self,
        source: str | PathLike[str] | Mapping[str, Any] | None = None,
        overrides: Iterable[Override] = (),
        flags: Mapping[str, str] | None = None,
    ) -> None:
        if source is None or isinstance(source, Mapping):
            place, document = "the config", copy.deepcopy(dict(source or {}))
        else:
            document, place = read_document(source)
        document = migrate(document)
        keys = []
        for key, value in overrides:
            _override(document, key, value)
            keys.append(key)
        check_extent(document, place)
        try:
            self.data = Config.model_validate(document)
        except ValidationError as error:
            raise config_error(error, place, keys, flags or {}) from None

    def set_epochs(self, epochs: int) -> None:
        """Sets the length of the run and scales the phases of the learning rates to it.

        Args:
            epochs: The number of epochs.

        Raises:
            ConfigError: If ``epochs`` is out of range.
        """
        if not 1 <= epochs <= MOST_EPOCHS:
            raise ConfigError(f"A run cannot have {epochs} epochs; 1 to {MOST_EPOCHS} are allowed.")
        for network in (self.data.train.generator, self.data.train.discriminator):
            rate = network.learning_rate
            constant = round(epochs * rate.epochs / max(1, rate.epochs + rate.epochs_decay))
            network.learning_rate = rate.model_copy(
                update={"epochs": constant, "epochs_decay": epochs - constant}
            )

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the config with all defaults to a JSON file. Reading it gives an equal config."""
        save_config(self.data, Path(path))


def load_config(
    source: str | PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Reads and validates a config; missing options get their default values::

        config = load_config("facades", {"train.loss.G_L1": 50.0})

    Args:
        source: The path of a JSON or YAML file, the name of a config that comes with NectarGAN, a
            dictionary, or ``None`` for the defaults.
        overrides: Values of single options by their dotted keys.

    Raises:
        ConfigError: If the file cannot be read, or a key or a value is invalid.
    """
    return ConfigManager(source, (overrides or {}).items()).data


def save_config(config: Config, path: Path) -> None:
    """Writes a config to a JSON file. Reading it with `ConfigManager` gives an equal config."""
    text = json.dumps(config.model_dump(mode="json"), indent=4, ensure_ascii=False)
    with replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def parse_override(text: str) -> Override:
    """Splits ``a.b.c=value`` into key and value.

    The value is parsed as JSON. If it is not valid JSON, it is taken as text.

    Raises:
        ConfigError: If there is no ``=``, or no key before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form section.key=value.")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value
    except RecursionError:
        raise ConfigError(
            f"--set {shortened(key.strip())} has a value that is nested too deeply."
        ) from None


def _override(document: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    if len(parents) >= DEEPEST:
        raise ConfigError(
            f"--set {shortened(key)} has {len(parents) + 1} parts, more than any config key."
        )
    for depth, name in enumerate(parents):
        document = document.setdefault(name, {})
        if not isinstance(document, dict):
            above = ".".join(parents[: depth + 1])
            raise ConfigError(f"--set {key}: {above} is {document!r}, not a section with '{last}'.")
    document[last] = value
