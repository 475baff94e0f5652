"""Reference of all config keys, for ``nectargan config explain`` and as a JSON Schema for editors.

Everything is generated from the types and docstrings of the schema.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from nectargan.config.balancing_options import BalancerConfig
from nectargan.config.base import Section
from nectargan.config.loss_options import ScheduleConfig, ShareConfig
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, did_you_mean

Node = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "object": "section",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}

# What may be written as a text instead of a section.
_NOTATIONS: dict[type[Section], str] = {
    ScheduleConfig: "A schedule in one line: linear 100->0 @ 1-200.",
    ShareConfig: "A share in one line: share 0.2.",
    BalancerConfig: "The name or the import path of the rule.",
}


@functools.cache
def json_schema() -> Node:
    """The JSON Schema (draft 2020-12) of a config file."""
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    for section, notation in _NOTATIONS.items():
        text = {"type": "string", "description": notation}
        definitions[section.__name__] = {"anyOf": [text, definitions[section.__name__]]}
    _tidy(schema)
    # With this key, a JSON file can name its schema; see `read_document`.
    schema["properties"]["$schema"] = {"type": "string"}
    return {"$schema": _DIALECT, **schema, "title": "NectarGAN config"}


def _tidy(node: Node) -> None:
    """Removes generated titles and the defaults of whole sections, which are only clutter."""
    node.pop("title", None)
    if isinstance(node.get("default"), dict):
        del node["default"]
    if "oneOf" in node:
        # oneOf would reject options that fit several networks.
        node["anyOf"] = node.pop("oneOf")
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    for each in node.get("anyOf", ()):
        _tidy(each)
    for name in ("properties", "$defs"):
        for each in node.get(name, {}).values():
            _tidy(each)
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            _tidy(node[name])


class Key(NamedTuple):
    """The documentation of one config key.

    Attributes:
        key: The dotted key; ``NAME`` stands for a name that the user chooses.
        text: The docstring in one line.
        types: The alternative types of the value, with their bounds.
        default: The default value as JSON; empty for a section and for a required key.
        below: The keys of the section, if it is one.
    """

    key: str
    text: str
    types: list[str]
    default: str
    below: list[Key]


def explain_key(key: str) -> Key:
    """Looks up the documentation of a config key.

    Args:
        key: A dotted key, such as ``train.loss.G_L1``; empty for the whole config.

    Raises:
        ConfigError: If there is no such key.
    """
    node = json_schema()
    path: list[str] = []
    for name in key.split(".") if key else ():
        found = _child_keys(node).get(name) or _of_any_name(node)
        if found is None:
            raise ConfigError(_unknown(key, path, name, _child_keys(node)))
        path.append(name)
        # A key without a docstring gets that of its section.
        node = found if _description(found) else {**found, "description": _description(node)}
    return _described(key, node)


def all_keys() -> list[str]:
    """Every key of every section, in the order of the schema."""
    return [each.key for each in _walk(explain_key(""))]


def _walk(key: Key) -> Iterator[Key]:
    for below in key.below:
        yield below
        yield from _walk(below)


def _described(key: str, node: Node) -> Key:
    below = _child_keys(node)
    any_name = _of_any_name(node)
    if any_name is not None:
        below = {"NAME": any_name, **below} if _child_keys(any_name) else below
    prefix = f"{key}." if key else ""
    keys = [_described(f"{prefix}{name}", each) for name, each in below.items()]
    default = json.dumps(node["default"]) if "default" in node else ""
    return Key(key, _description(node), _types(node), default, keys)


def _resolved(node: Node) -> Node:
    if "$ref" in node:
        definition = json_schema()["$defs"][node["$ref"].rpartition("/")[2]]
        return {**definition, **{name: node[name] for name in node if name != "$ref"}}
    return node


def _alternatives(node: Node) -> Iterator[Node]:
    """The alternatives of a node, with ``$ref`` and ``anyOf`` resolved."""
    node = _resolved(node)
    if "anyOf" not in node:
        yield node
    for each in node.get("anyOf", ()):
        yield from _alternatives(each)


def _child_keys(node: Node) -> Node:
    """The keys of a section, or of all sections that the value of a node may be."""
    keys: Node = {}
    for each in _alternatives(node):
        for name, found in each.get("properties", {}).items():
            known = keys.setdefault(name, found)
            if "const" in known and known is not found:  # the name of a network
                names = [*known.get("enum", [known["const"]]), found["const"]]
                keys[name] = {**known, "enum": names}
    keys.pop("$schema", None)
    return keys


def _of_any_name(node: Node) -> Node | None:
    """The node of the values in a section with free names; ``None`` for other sections."""
    for each in _alternatives(node):
        found = each.get("additionalProperties")
        if found:
            return found if isinstance(found, dict) else {}
    return None


def _description(node: Node) -> str:
    return str(_resolved(node).get("description", ""))


def _types(node: Node) -> list[str]:
    found = list(_alternatives(node))
    return [_type(each, with_text=len(found) > 1) for each in found]


def _type(node: Node, with_text: bool = False) -> str:
    """A type as text, such as "whole number, at least 1, at most 8"."""
    if "enum" in node or "const" in node:
        return ", ".join(json.dumps(each) for each in node.get("enum", [node.get("const")]))
    kind = node.get("type", "anything")
    if kind == "array":
        return f"list, each {' or '.join(_types(node.get('items', {})))}"
    word = _WORDS.get(kind, str(kind))
    if kind == "object" and node.get("additionalProperties"):
        word = "section of any names"
    short = ", ".join([word, *_bounds(node)])
    text = node.get("description", "").partition(". ")[0].rstrip(".")
    return f"{short}: {text}" if with_text and text else short


def _bounds(node: Node) -> Iterable[str]:
    return (f"{word} {node[name]:.12g}" for name, word in _BOUNDS.items() if name in node)


def _unknown(key: str, path: list[str], name: str, allowed: Iterable[str]) -> str:
    place = f"in {'.'.join(path)}" if path else "in a config"
    meant = (key.rpartition(".")[2], name)
    elsewhere = [each for each in all_keys() if each.rpartition(".")[2] in meant]
    sentence = f"There is no key '{name}' {place}."
    if elsewhere:
        return f"{sentence} Did you mean '{elsewhere[0]}'?"
    names = list(allowed)
    return sentence + (did_you_mean(name, names) if names else " It is not a section.")
