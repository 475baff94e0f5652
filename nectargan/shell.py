"""Shell syntax: expands ``~`` and ``$NAME`` in paths, and quotes commands for the user."""

from __future__ import annotations

import glob
import os
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

_VARIABLE = re.compile(r"\$\w+|\$\{[^}]*\}")


def expanded(path: str) -> str:
    """Expands ``~`` and environment variables in a path, as a shell does.

    A path that exists as written is returned unchanged. Unknown users and variables are kept.
    """
    return path if os.path.lexists(path) else os.path.expandvars(os.path.expanduser(path))


def stands_for_nothing(path: str) -> str:
    """Says which user or variable in an expanded path is unknown, as the end of a sentence.

    Empty if there is none, or if the path exists.
    """
    if os.path.lexists(path):
        return ""
    if path.startswith("~"):
        return f"there is no user '{path[1:].partition('/')[0]}'"
    variable = _VARIABLE.search(path)
    return f"{variable[0]} is not set" if variable else ""


def is_pattern(path: str) -> bool:
    """Whether a path contains ``*``, ``?`` or ``[`` and does not exist."""
    return glob.has_magic(path) and not os.path.lexists(path)


def matches(pattern: str) -> list[Path]:
    """The paths that match a glob pattern, in natural order ("run-9" before "run-10")."""
    return [Path(match) for match in sorted(glob.glob(pattern), key=_in_natural_order)]


def quoted(argument: str | os.PathLike[str]) -> str:
    """Quotes one argument for the shell of this system."""
    text = os.fspath(argument)
    if os.name == "nt":
        return subprocess.list2cmdline([text])
    if text.isprintable():
        return shlex.quote(text)
    # $'...' of bash, zsh and ksh can contain control characters and bytes that are not UTF-8.
    return "$'" + "".join(map(_escaped, text)) + "'"


def command_line(arguments: Iterable[str | os.PathLike[str]]) -> str:
    """Quotes and joins arguments into a command line that can be typed into a shell."""
    return " ".join(map(quoted, arguments))


def _escaped(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def _in_natural_order(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]
