"""The error messages for an invalid config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from nectargan.config.loss_options import NO_LOSS, LossTerm, ScheduleConfig, ShareConfig
from nectargan.config.network_options import FUNCTION, SECTIONS
from nectargan.config.schema import Config
from nectargan.credentials import public_address
from nectargan.errors import ConfigError, did_you_mean
from nectargan.wording import listed


def config_error(
    error: ValidationError, place: str, overridden: Sequence[str], flags: Mapping[str, str]
) -> ConfigError:
    """The error for an invalid config, with one sentence for each problem.

    Args:
        error: What pydantic found.
        place: Name of the config for messages, such as "config 'a.json'".
        overridden: The dotted keys that were overridden.
        flags: The command-line option that set a key, by the key; ``--set`` for all others.
    """
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
    return ConfigError(listed(f"The {place.removeprefix('the ')} cannot be used", sentences))


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
    return shortened(text)


def shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _without_union_tags(loc: tuple[Any, ...]) -> list[Any]:
    """The path in the file: a location without the names of union branches that pydantic adds."""
    path: list[Any] = []
    for index, part in enumerate(loc):
        after_option = index > 0 and (loc[:2] == ("train", "loss") and index == 3)
        after_option |= _is_network(loc) and index == 2
        after_weight = part in ("number", "schedule", "share") and loc[index - 1] == "weight"
        after_weight |= part in ("number", "schedule") and loc[index - 1] == "share"
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
        if "schedule" in loc[3:-1]:
            return ScheduleConfig
        return ShareConfig if "share" in loc[3:-1] else LossTerm
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
