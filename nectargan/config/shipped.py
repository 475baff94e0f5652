"""The configs that come with NectarGAN.

A name without a suffix, such as ``facades``, means a shipped config, unless a file of exactly this
name exists. A file ``facades.json`` must be named with its suffix. If it exists and the user writes
``facades``, a warning points it out.
"""

from __future__ import annotations

import filecmp
import os
import warnings
from os import PathLike
from pathlib import Path

from nectargan.errors import did_you_mean
from nectargan.shell import expanded

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")


def shipped_configs() -> dict[str, Path]:
    """The paths of the shipped configs by name, in alphabetical order."""
    package = Path(__file__).parents[1]
    # In a clone, the folder is next to the package; the build copies it into the package.
    folder = next(
        (f for f in (package / "configs", package.parent / "configs") if f.is_dir()), None
    )
    files = sorted(folder.iterdir()) if folder else []
    return {file.stem: file for file in files if file.suffix in CONFIG_SUFFIXES}


def find_config(source: str | PathLike[str]) -> tuple[Path, str]:
    """Finds the file of a config.

    Args:
        source: A path, or the name of a shipped config.

    Returns:
        The path of the file, which may not exist, and a name of the file for messages.
    """
    path, name = Path(expanded(os.fspath(source))), os.fspath(source)
    shipped = shipped_configs().get(name)
    if shipped is None or path.is_file():
        return path, f"config file '{name}'"
    for own in _candidates(path):
        if own.is_file() and not _is_the_same(own, shipped):
            warnings.warn(
                f"'{name}' means the config that comes with NectarGAN; to use the file here, write "
                f"'{own}'.",
                stacklevel=2,
            )
    return shipped, f"config '{name}' that comes with NectarGAN"


def meant_by(source: str | PathLike[str]) -> str:
    """Text to end a message about a missing config file: suggestions of what was meant."""
    path, names = Path(source), shipped_configs()
    found = next((f for f in (path / "config.json", *_candidates(path)) if f.is_file()), None)
    if found is not None:
        return f" Did you mean '{found}'?"
    if path.stem in names and path.suffix in CONFIG_SUFFIXES:
        return f" Did you mean '{path.stem}', which comes with NectarGAN?"
    if path.name != os.fspath(source) or path.suffix:
        return ""
    return did_you_mean(path.name, names).replace(" Allowed:", " These come with NectarGAN:")


def _is_the_same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False  # unreadable files count as different


def _candidates(path: Path) -> list[Path]:
    """The files that may be meant by a path without a suffix, here and in ``configs``."""
    beside = [path.parent / f"{path.name}{suffix}" for suffix in CONFIG_SUFFIXES]
    return [*beside, *(Path("configs") / file.name for file in beside)]
