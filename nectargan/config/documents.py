"""Reads a config file as a dictionary, without knowing the options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from nectargan.config.base import BACKSLASHES
from nectargan.config.shipped import find_config, meant_by
from nectargan.errors import ConfigError
from nectargan.files import read_regular_text
from nectargan.wording import one_line

# Limits far above what a config needs. A larger document could exhaust the stack or the memory.
DEEPEST = 32
_MOST_VALUES = 100_000


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


def check_extent(document: Mapping[str, Any], place: str) -> None:
    """Raises `ConfigError` if a document is nested too deeply or has too many values.

    With YAML aliases, a short text can describe such a document, or one that contains itself.
    """
    what = f"The {place.removeprefix('the ')}"
    count = 0
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for item in level:
            below += item.values() if isinstance(item, Mapping) else item
            count += len(item)
            if count > _MOST_VALUES:
                raise ConfigError(f"{what} has more than {_MOST_VALUES} values.")
        level = [item for item in below if isinstance(item, (Mapping, list, tuple))]
        if not level:
            return
    raise ConfigError(
        f"{what} is nested deeper than {DEEPEST} levels, or refers to itself; it must be a "
        "tree of sections."
    )
