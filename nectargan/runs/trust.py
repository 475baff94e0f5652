"""Decides whether code that the config of a run names may be imported.

A config can name any importable class or function, for example of a loss, a network or a schedule.
Importing a module runs its code. A config that the user gives is trusted. A run directory contains
its own config, which may come from somebody else. What it names is imported only if this user gave
this config on this machine, which a keyed hash in the run directory proves, or with ``--trust``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nectargan.errors import RunError
from nectargan.files import read_regular_text, replacing
from nectargan.imports import is_import_path
from nectargan.record.run_directory import RunDirectory

# Losses and networks from these modules are harmless.
_OWN = ("nectargan.losses.", "nectargan.models.", "torch.nn.")
_MODULES = re.compile(r"train\.(loss\.[^.]*|generator|discriminator)\.function")


def foreign_functions(config: Mapping[str, Any]) -> list[str]:
    """The import paths in a resolved config that are not part of this package, sorted."""
    return sorted(
        {
            path
            for key, path in _import_paths(config)
            if not (path.startswith(_OWN) and _MODULES.fullmatch(key))
        }
    )


def _import_paths(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """The dotted key and the value of each import path in a config."""
    if isinstance(value, Mapping):
        if "schedule" in value:
            key += ".schedule"  # instead of the whole term of a loss
        for name, below in value.items():
            if name == "function" and isinstance(below, str):
                yield f"{key}.function", below
            elif name != "arguments" or not isinstance(value.get("function"), str):
                yield from _import_paths(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for below in value:
            if key == "validation.metrics" and is_import_path(below):
                yield key, str(below)
            yield from _import_paths(below, key)


def vouch_for(directory: RunDirectory, config: Mapping[str, Any]) -> None:
    """Writes a keyed hash to a run directory, which proves that this user gave its config.

    If it cannot be written, a later resume needs ``--trust``.
    """
    functions = foreign_functions(config)
    if functions:
        with suppress(OSError, RuntimeError), replacing(directory.trusted_functions) as part:
            part.write_text(_code(functions, _key(make=True)), encoding="ascii")


def check_trust(
    directory: RunDirectory,
    config: Mapping[str, Any],
    advice: str = "add --trust, or give your own config with -c",
) -> None:
    """Raises `RunError` if the config of a run names functions that `vouch_for` did not record.

    Args:
        directory: The run directory.
        config: Its resolved config.
        advice: What the user can do after checking the config, for the message.
    """
    functions = foreign_functions(config)
    if not functions:
        return
    with suppress(OSError, RuntimeError):  # RuntimeError: there is no home directory
        recorded = read_regular_text(directory.trusted_functions).strip()
        if hmac.compare_digest(recorded.encode(), _code(functions, _key()).encode()):
            return
    names = ", ".join(f"'{name}'" for name in functions)
    raise RunError(
        f"The config in '{directory}' names {names}, which would be imported and run, but this "
        f"user did not give this config on this machine; check it, then {advice}."
    )


def _code(functions: list[str], key: bytes) -> str:
    return hmac.new(key, "\n".join(functions).encode(), hashlib.sha256).hexdigest()


def _key(make: bool = False) -> bytes:
    """The key of this user, in a file that only they can read; raises OSError if there is none."""
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    path = (Path(home) if home else Path("~/.local/state").expanduser()) / "nectargan" / "key"
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_hex(32).encode())
    key = path.read_bytes()
    if len(key) < 64:
        raise OSError(f"'{path}' does not contain a key")
    return key
