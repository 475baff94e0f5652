"""`ConfigManager`: reads a run's config, overrides single options, checks it, saves it."""

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
from nectargan.wording import listed

Override = tuple[str, Any]

# Far more than a config can need; what is above would exhaust the stack, or the memory.
_DEEPEST = 32
_MOST_VALUES = 100_000


class ConfigManager:
    """A resolved config.

    Args:
        source: A JSON or YAML file (by suffix), the name of a config that comes with NectarGAN (see
            `nectargan.config.shipped`), a dictionary of the same shape, or ``None`` for the
            defaults. Files of NectarGAN v0.2.3 are migrated, with warnings.
        overrides: ``(dotted key, value)`` pairs that replace single options, later ones last. A
            pair's place in messages is ``--set``.
        flags: What else a user may have typed for an option, by its dotted key: ``--device``.

    Attributes:
        data: The typed `Config`.

    Raises:
        ConfigError: the file cannot be read, or a key or a value in it cannot be used.
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
        """Makes the run ``epochs`` long: the phases of the learning rate keep their proportion.

        Raises:
            ConfigError: ``epochs`` is below 1, or above what a config may say.
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
        """Writes the resolved config as JSON; reading it gives an equal one."""
        save_config(self.data, Path(path))


def load_config(
    source: str | PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Reads and checks a config; all that it leaves out has its default::

        config = load_config("facades", {"train.loss.G_L1": 50.0})

    Args:
        source: As for `ConfigManager`.
        overrides: Values of single options by their dotted keys.

    Raises:
        ConfigError: as from `ConfigManager`.
    """
    return ConfigManager(source, (overrides or {}).items()).data


def save_config(config: Config, path: Path) -> None:
    """Writes ``config`` to ``path`` as JSON that `ConfigManager` reads to an equal one."""
    text = json.dumps(config.model_dump(mode="json"), indent=4, ensure_ascii=False)
    with replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def parse_override(text: str) -> Override:
    """Splits ``a.b.c=value``; the value is JSON where it parses as JSON, text otherwise.

    Raises:
        ConfigError: there is no ``=``, or no key before it.
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
            f"--set {_cut(key.strip())} has a value that is nested too deeply."
        ) from None


def read_document(source: str | PathLike[str]) -> tuple[dict[str, Any], str]:
    """What a config file says, and what messages call the file; nothing in it is checked.

    Raises:
        ConfigError: it cannot be read, or does not hold sections.
    """
    path, place = find_config(source)
    document = _read(path, place)
    document.pop("$schema", None)  # for editors
    return document, place


def _read(path: Path, place: str) -> dict[str, Any]:
    try:
        text = read_regular_text(path, encoding="utf-8-sig")  # Windows editors add a mark
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
        reason = " ".join(str(error).split()) or "nested too deeply"
        kind = "YAML" if path.suffix.lower() in (".yaml", ".yml") else "JSON"
        hint = f"; {BACKSLASHES}" if "escape" in reason else ""
        raise ConfigError(f"The {place} is not valid {kind}: {reason}{hint}.") from None
    if not isinstance(document, dict):
        raise ConfigError(f"The {place} must hold sections such as 'train', not {document!r:.60}.")
    return document


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_unique([name for name, _ in pairs])
    return dict(pairs)


def _require_unique(names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice}' is given twice")


class _YamlLoader(yaml.SafeLoader):
    """Plain YAML that refuses a key given twice, and reads numbers as JSON does."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        _require_unique([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return node


# YAML 1.1, which PyYAML speaks, takes 2e-4 for a text, 010 for 8, 1:30 for 90 and 2024-01-01 for a
# date. The other texts stay texts.
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
        raise ConfigError(f"--set {_cut(key)} has {len(parents) + 1} parts; no key is that deep.")
    for depth, name in enumerate(parents):
        document = document.setdefault(name, {})
        if not isinstance(document, dict):
            above = ".".join(parents[: depth + 1])
            raise ConfigError(f"--set {key}: {above} is {document!r}, which has no '{last}' in it.")
    document[last] = value


def _check_extent(document: Mapping[str, Any], place: str) -> None:
    """Raises `ConfigError` for a document that is nested too deeply, or has too many values.

    YAML's aliases can make either from a short text, even a document that contains itself.
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


# --- validation, and errors a person can read ------------------------------------------------


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
        # One of our own validators; the text is its sentence.
        if isinstance(value, Mapping):  # a section: not shown, for there may be an address in it
            return f"{where}: {item['ctx']['error']}".rstrip(".") + "."
        return f"{where} cannot be {_shown(value)}: {item['ctx']['error']}".rstrip(".") + "."
    wanted = re.sub(r"^(Input|String) should", "it should", item["msg"])
    if item["type"] == "model_type":
        wanted = "it must be a section of options"
    return f"{where} cannot be {_shown(value)}: {wanted}."


def _shown(value: object) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, float) else repr(value)
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _without_union_tags(loc: tuple[Any, ...]) -> list[Any]:
    """The dotted path in the file: pydantic adds the branch of a union to a location."""
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
    """The end of a sentence about an unknown key, the last part of ``path``: what could have been
    meant by it, and what is allowed there."""
    name = str(path[-1])
    section = _section_at(path[:-1], loc)
    if section is None:
        return "."
    if _is_network(loc) and len(path) == 3:
        beside = f" of '{loc[2]}'"
        if loc[2] == FUNCTION:
            beside = " beside 'function': what that takes stands in 'arguments'"
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
