"""Imports classes and functions that a config names by import path, like ``my_package.MyLoss``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from nectargan.errors import ConfigError
from nectargan.wording import one_line

_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*[.:][^\W\d]\w*")


def is_import_path(text: object) -> bool:
    """Whether a text has the form of an import path, such as "package.Name" (not just "Name")."""
    return isinstance(text, str) and _PATH.fullmatch(text) is not None


def import_path(place: str, path: str) -> Any:
    """Imports the object that an import path names.

    Modules are searched for on ``sys.path`` and then in the working directory, which is not on
    ``sys.path`` in an installed command.

    Args:
        place: The config key, for error messages, such as "train.generator.function".
        path: "package.module.Name" or "package.module:Name".

    Raises:
        ConfigError: If it cannot be imported.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(_import_module(module), name)
    except Exception as error:
        # The imported code may raise any exception.
        reason = one_line(error)[:200]
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
    """Calls an imported function or class with the arguments that the config gives.

    Args:
        place: The config key of the arguments, for error messages, such as
            "train.generator.arguments".
        path: The import path.
        found: The imported function or class.
        arguments: Keyword arguments from the config.
        extra: Default keyword arguments; those from the config override them.

    Raises:
        ConfigError: If the call raises an exception.
    """
    try:
        return found(**{**(extra or {}), **arguments})
    except Exception as error:
        # The imported code may raise any exception.
        reason = one_line(error)[:200]
        raise ConfigError(
            f"{place} are {dict(arguments)}, which '{path}' refuses: {reason}."
        ) from None
