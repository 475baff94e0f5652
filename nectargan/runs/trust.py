"""Whose code a run's config may name.

A config can name any importable class or function (of a loss, a network, a schedule, …), and
importing a module runs it. Who gives a config names these himself. A run that is resumed brings its
config along, and may come from somebody else: what it names is imported if this user gave that
config on this machine, which a code in the run directory shows, or says ``--trust``.
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

# As losses and networks, these run nothing but what is imported anyway.
_OWN = ("nectargan.losses.", "nectargan.models.", "torch.nn.")
_MODULES = re.compile(r"train\.(loss\.[^.]*|generator|discriminator)\.function")


def foreign_functions(config: Mapping[str, Any]) -> list[str]:
    """What a resolved config names by import path and is not part of this package; sorted."""
    return sorted(
        {
            path
            for key, path in _import_paths(config)
            if not (path.startswith(_OWN) and _MODULES.fullmatch(key))
        }
    )


def _import_paths(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """The dotted key and the value of everything called "function", wherever it is."""
    if isinstance(value, Mapping):
        if "schedule" in value:
            key += ".schedule"  # in place of a loss's term
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
    """Notes in a run directory that this user, on this machine, gave its config.

    Where the note cannot be kept, a later resume has to be told ``--trust``.
    """
    functions = foreign_functions(config)
    if functions:
        with suppress(OSError, RuntimeError), replacing(directory.trusted_functions) as part:
            part.write_text(_code(functions, _key(make=True)), encoding="ascii")


def check_trust(
    directory: RunDirectory,
    config: Mapping[str, Any],
    advice: str = "add --trust, or give a config of your own with -c",
) -> None:
    """Raises `RunError` if a run's own config names what `vouch_for` did not note.

    Args:
        directory: The run directory.
        config: Its config, resolved.
        advice: What to do once one has looked at it.
    """
    functions = foreign_functions(config)
    if not functions:
        return
    with suppress(OSError, RuntimeError):  # also no home
        noted = read_regular_text(directory.trusted_functions).strip()
        if hmac.compare_digest(noted.encode(), _code(functions, _key()).encode()):
            return
    told = ", ".join(f"'{name}'" for name in functions)
    raise RunError(
        f"The config in '{directory}' names {told}, which would be imported and run, and was not "
        f"given by this user on this machine; look at it, then {advice}."
    )


def _code(functions: list[str], key: bytes) -> str:
    return hmac.new(key, "\n".join(functions).encode(), hashlib.sha256).hexdigest()


def _key(make: bool = False) -> bytes:
    """The user's key, which nobody else can read; raises OSError if there is none."""
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
        raise OSError(f"'{path}' holds no key")
    return key
