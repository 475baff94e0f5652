"""`ConfigManager` reads a config, overrides single options, validates it and saves it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from nectargan.config.base import BACKSLASHES, MOST_EPOCHS
from nectargan.config.loss_options import NO_LOSS, LossTerm, ScheduleConfig
from nectargan.config.migration import migrate
from nectargan.config.network_options import FUNCTION, SECTIONS
from nectargan.config.schema import Config
from nectargan.config.shipped import find_config, meant_by
from nectargan.credentials import public_address
from nectargan.errors import ConfigError, did_you_mean
from nectargan.files import read_regular_text, replacing
from nectargan.wording import listed, one_line

Override = tuple[str, Any]

# Limits far above what a config needs. A larger document could exhaust the stack or the memory.
_DEEPEST = 32
_MOST_VALUES = 100_000


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
        _check_extent(document, place)
        self.data: Config = _validate(document, place, keys, flags or {})

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
            f"--set {_shortened(key.strip())} has a value that is nested too deeply."
        ) from None


def read_document(source: str | PathLike[str]) -> tuple[dict[str, Any], str]:
    """Reads a config file without validating the options in it.

    Returns:
        The document, and a name of the file for messages.

    Raises:
        ConfigError: If the file cannot be read, is not valid JSON or YAML, or is not a mapping.
    """
    path, place = find_config(source)
    document = _read(path, place)
    document.pop("$schema", None)  # only read by editors
    return document, place


def _read(path: Path, place: str) -> dict[str, Any]:
    try:
        text = read_regular_text(path, encoding="utf-8-sig")  # some editors write a BOM
    except UnicodeDecodeError:
        raise ConfigError(f"The {place} is not UTF-8 text.") from None
    except OSError as error:
        hint = meant_by(path)
        raise ConfigError(f"The {place} cannot be read: {error.strerror}.{hint}") from None
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            document = yaml.load(text, _YamlLoader)  # noqa: S506 - it is a SafeLoader
        else:
            document = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = one_line(error) or "nested too deeply"
        kind = "YAML" if path.suffix.lower() in (".yaml", ".yml") else "JSON"
        hint = f"; {BACKSLASHES}" if "escape" in reason else ""
        raise ConfigError(f"The {place} is not valid {kind}: {reason}{hint}.") from None
    if not isinstance(document, dict):
        raise ConfigError(
            f"The {place} must contain sections such as 'train', not {document!r:.60}."
        )
    return document


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_unique([name for name, _ in pairs])
    return dict(pairs)


def _require_unique(names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice}' is given twice")


class _YamlLoader(yaml.SafeLoader):
    """Safe YAML loader that rejects duplicate keys and reads numbers as in JSON."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        _require_unique([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return node


# PyYAML implements YAML 1.1, which reads 2e-4 as text, 010 as 8, 1:30 as 90 and 2024-01-01 as a
# date. With the patterns below, 2e-4 is a number and the others are text.
_NUMBERS = {
    "int": r"[-+]?(0|[1-9]\d*)$",
    "float": r"[-+]?(\d+[eE][-+]?\d+|(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\.inf)$|\.nan$",
}
_YamlLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in {*_NUMBERS, "timestamp"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _NUMBERS.items():
    _YamlLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list("-+.0123456789")
    )


def _override(document: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    if len(parents) >= _DEEPEST:
        raise ConfigError(
            f"--set {_shortened(key)} has {len(parents) + 1} parts, more than any config key."
        )
    for depth, name in enumerate(parents):
        document = document.setdefault(name, {})
        if not isinstance(document, dict):
            above = ".".join(parents[: depth + 1])
            raise ConfigError(f"--set {key}: {above} is {document!r}, not a section with '{last}'.")
    document[last] = value


def _check_extent(document: Mapping[str, Any], place: str) -> None:
    """Raises `ConfigError` if a document is nested too deeply or has too many values.

    With YAML aliases, a short text can describe such a document, or one that contains itself.
    """
    count = 0
    level: list[Any] = [document]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in level:
            below += item.values() if isinstance(item, Mapping) else item
            count += len(item)
            if count > _MOST_VALUES:
                raise ConfigError(f"The {place} has more than {_MOST_VALUES} values.")
        level = [item for item in below if isinstance(item, (Mapping, list, tuple))]
        if not level:
            return
    raise ConfigError(
        f"The {place} is nested deeper than {_DEEPEST} levels, or refers to itself; it must be a "
        "tree of sections."
    )


# --- validation and its error messages -------------------------------------------------------


def _validate(
    document: dict[str, Any], place: str, overridden: list[str], flags: Mapping[str, str]
) -> Config:
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        sentences = []
        for item in error.errors(include_url=False):
            path = _without_union_tags(item["loc"])
            if item["type"] == NO_LOSS:
                path += ["loss", item["ctx"]["loss"]]
            key = ".".join(map(str, path))
            unknown = item["type"] == "extra_forbidden"
            from_set = any(
                f"{key}.".startswith(f"{k}.") or (unknown and k.startswith(f"{key}."))
                for k in overridden
            )
            where = f"{key} in {place}" if key else f"{place[0].upper()}{place[1:]}"
            if from_set:
                where = flags.get(key, f"--set {key}")
            sentences.append(_sentence(item, path, where))
        what = f"The {place.removeprefix('the ')} cannot be used"
        raise ConfigError(listed(what, sentences)) from None


def _sentence(item: Any, path: list[Any], where: str) -> str:
    if item["type"] == "extra_forbidden":
        return f"{where} is not a known key{_known_keys(path, item['loc'])}"
    if item["type"] == "missing":
        return f"{where} is missing."
    if item["type"] == NO_LOSS:
        return f"{where} {item['msg']}"
    value = item["input"]
    if path[-1:] == ["tracking_uri"] and isinstance(value, str):
        value = public_address(value)
    if item["type"] == "value_error":
        # From one of our own validators, which write the second half of the sentence.
        if isinstance(value, Mapping):  # a section is not shown, as it may contain credentials
            return f"{where}: {item['ctx']['error']}".rstrip(".") + "."
        return f"{where} cannot be {_abbreviated(value)}: {item['ctx']['error']}".rstrip(".") + "."
    wanted = re.sub(r"^(Input|String) should", "it should", item["msg"])
    if item["type"] == "model_type":
        wanted = "it must be a section of options"
    return f"{where} cannot be {_abbreviated(value)}: {wanted}."


def _abbreviated(value: object) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, float) else repr(value)
    return _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _without_union_tags(loc: tuple[Any, ...]) -> list[Any]:
    """The path in the file: a location without the names of union branches that pydantic adds."""
    path: list[Any] = []
    for index, part in enumerate(loc):
        after_option = index > 0 and (loc[:2] == ("train", "loss") and index == 3)
        after_option |= _is_network(loc) and index == 2
        after_weight = part in ("number", "schedule") and loc[index - 1] == "weight"
        if (
            after_option
            or after_weight
            or part in (*("int", "list[int]", "built_in_metric", "own_metric"),)
        ):
            continue
        path.append(part)
    return path


def _is_network(loc: Sequence[Any]) -> bool:
    return loc[0:1] == ("train",) and len(loc) > 1 and loc[1] in SECTIONS


def _known_keys(path: list[Any], loc: tuple[Any, ...]) -> str:
    """Text to end a message about an unknown key, the last part of ``path``.

    It suggests a similar key or lists the allowed keys.
    """
    name = str(path[-1])
    section = _section_at(path[:-1], loc)
    if section is None:
        return "."
    if _is_network(loc) and len(path) == 3:
        beside = f" of '{loc[2]}'"
        if loc[2] == FUNCTION:
            beside = " beside 'function'; put the arguments of that class into 'arguments'"
        return f"{beside}.{did_you_mean(name, section.model_fields)}"
    elsewhere = [key for key in _all_keys(Config) if key.rpartition(".")[2] == name]
    if elsewhere and name not in section.model_fields:
        return f". Did you mean '{elsewhere[0]}'?"
    if not section.model_fields:
        return ". Nothing is allowed there."
    return f".{did_you_mean(name, section.model_fields)}"


def _section_at(path: list[Any], loc: tuple[Any, ...]) -> type[BaseModel] | None:
    if path[:2] == ["train", "loss"] and len(path) > 2:
        return ScheduleConfig if "schedule" in loc[3:-1] else LossTerm
    section: type[BaseModel] = Config
    if _is_network(loc) and len(path) > 1:
        section, path = SECTIONS[loc[1]][loc[2]], path[2:]
    for name in path:
        field = section.model_fields.get(str(name))
        if field is None:
            return None
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return None
        section = models[0]
    return section


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if prefix == "train." and name in SECTIONS:
            usual = next(iter(SECTIONS[name].values()))
            keys += _all_keys(usual, f"{prefix}{name}.")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _all_keys(field.annotation, f"{prefix}{name}.")
    return keys
