"""Classes and functions that a config names by their import path, such as ``my_package.MyLoss``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from nectargan.errors import ConfigError

_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*[.:][^\W\d]\w*")


def is_import_path(text: object) -> bool:
    """Whether a text has the form of an import path, which a name has not: "package.Name"."""
    return isinstance(text, str) and _PATH.fullmatch(text) is not None


def import_path(place: str, path: str) -> Any:
    """What an import path names.

    Modules are looked for where Python looks for them, and then in the working directory, where a
    command that was installed does not look.

    Args:
        place: Where the path stands, for messages: "train.generator.function".
        path: "package.module.Name", or "package.module:Name".

    Raises:
        ConfigError: it cannot be imported.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(_import_module(module), name)
    except Exception as error:
        # Importing runs foreign code, which may raise anything.
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{place} is '{path}', which cannot be imported: {reason}.") from None


def _import_module(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != module.partition(".")[0] or here in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        return importlib.import_module(module)


def call_imported(
    place: str,
    path: str,
    found: Callable[..., Any],
    arguments: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> Any:
    """Calls what a config names with the arguments that it gives.

    Args:
        place: Where the arguments stand, for messages: "train.generator.arguments".
        path: The import path.
        found: What it names.
        arguments: Keyword arguments of the config.
        extra: Further keyword arguments, which those of the config replace.

    Raises:
        ConfigError: the arguments are refused.
    """
    try:
        return found(**{**(extra or {}), **arguments})
    except Exception as error:
        # Foreign code may raise anything.
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{place} are {dict(arguments)}, which '{path}' refuses: {reason}."
        ) from None
