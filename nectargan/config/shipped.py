"""The configs that come with NectarGAN, by name.

A name, such as ``facades``, stands for a shipped config unless a file has that very name: a file is
named with its suffix. A file ``facades.json`` in the working directory therefore never takes the
place of the shipped one unseen; a warning says that it is there.
"""

from __future__ import annotations

import filecmp
import os
import warnings
from os import PathLike
from pathlib import Path

from nectargan.errors import did_you_mean
from nectargan.shell import expanded

SUFFIXES = (".json", ".yaml", ".yml")


def shipped_configs() -> dict[str, Path]:
    """The files by their names, in alphabetical order."""
    package = Path(__file__).parents[1]
    # In a clone they are beside the package, from where the build puts them into it.
    folder = next(
        (f for f in (package / "configs", package.parent / "configs") if f.is_dir()), None
    )
    files = sorted(folder.iterdir()) if folder else []
    return {file.stem: file for file in files if file.suffix in SUFFIXES}


def find_config(source: str | PathLike[str]) -> tuple[Path, str]:
    """The file that a path or the name of a shipped config stands for.

    Returns:
        The file, which need not exist, and what messages call it.
    """
    path, name = Path(expanded(os.fspath(source))), os.fspath(source)
    shipped = shipped_configs().get(name)
    if shipped is None or path.is_file():
        return path, f"config file '{name}'"
    for own in _candidates(path):
        if own.is_file() and not _is_the_same(own, shipped):
            warnings.warn(
                f"'{name}' is the config that comes with NectarGAN; for the file here write "
                f"'{own}'.",
                stacklevel=2,
            )
    return shipped, f"config '{name}' that comes with NectarGAN"


def meant_by(source: str | PathLike[str]) -> str:
    """The end of a sentence about a path that is no file: what it may have been meant for."""
    path, names = Path(source), shipped_configs()
    found = next((f for f in (path / "config.json", *_candidates(path)) if f.is_file()), None)
    if found is not None:
        return f" Did you mean '{found}'?"
    if path.stem in names and path.suffix in SUFFIXES:
        return f" Did you mean '{path.stem}', which comes with NectarGAN?"
    if path.name != os.fspath(source) or path.suffix:
        return ""
    return did_you_mean(path.name, names).replace(" Allowed:", " These come with NectarGAN:")


def _is_the_same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False  # it is not read


def _candidates(path: Path) -> list[Path]:
    """The files that ``path`` may stand for if it lacks its suffix, or the folder ``configs``."""
    beside = [path.parent / f"{path.name}{suffix}" for suffix in SUFFIXES]
    return [*beside, *(Path("configs") / file.name for file in beside)]
