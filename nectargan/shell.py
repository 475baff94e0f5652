"""What belongs to the shell at hand: paths with ``~`` and ``$NAME`` in them, and commands that are
printed to be typed."""

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
    """A path with its ``~`` and its environment variables replaced, as a shell does it with a word
    that is not quoted. What exists as it is written stays, and so does what stands for nothing."""
    return path if os.path.lexists(path) else os.path.expandvars(os.path.expanduser(path))


def stands_for_nothing(path: str) -> str:
    """What is left in an expanded path that nothing could take the place of, as the end of a
    sentence; empty for most paths, and for those that exist."""
    if os.path.lexists(path):
        return ""
    if path.startswith("~"):
        return f"there is no user '{path[1:].partition('/')[0]}'"
    variable = _VARIABLE.search(path)
    return f"{variable[0]} is not set" if variable else ""


def is_pattern(path: str) -> bool:
    """Whether a path has ``*``, ``?`` or ``[`` in it and is not the name of something."""
    return glob.has_magic(path) and not os.path.lexists(path)


def matches(pattern: str) -> list[Path]:
    """What a pattern stands for; version 10 comes after version 9."""
    return [Path(match) for match in sorted(glob.glob(pattern), key=_in_natural_order)]


def quoted(argument: str | os.PathLike[str]) -> str:
    """One argument, so that the shell at hand takes it as it is."""
    text = os.fspath(argument)
    if os.name == "nt":
        return subprocess.list2cmdline([text])
    if text.isprintable():
        return shlex.quote(text)
    # Control characters, and bytes that are not UTF-8: as bash, zsh and ksh read them.
    return "$'" + "".join(map(_escaped, text)) + "'"


def command_line(arguments: Iterable[str | os.PathLike[str]]) -> str:
    """A command that can be typed as it stands."""
    return " ".join(map(quoted, arguments))


def _escaped(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def _in_natural_order(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]
