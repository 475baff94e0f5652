"""Names of shards: tar files that hold the images of a data set, as WebDataset writes them.

A data set of shards is given as one text instead of a folder:

    data/{train,val}-{000000..000099}.tar          braces are expanded as in bash
    data/train-*.tar::data/val-*.tar               several patterns
    http://host/train-{000000..000099}.tar         on a server
    data/train-{000000..000099}.tar#rgb,depth      which files of a sample are input and target

The split of a shard is the word train, val or test in its file name, or the name of its folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from nectargan.errors import DataError
from nectargan.shell import expanded, is_pattern, matches

# The splits, and other common names of them.
SPLIT_NAMES = {
    "train": ("training",),
    "val": ("valid", "validation", "dev", "eval"),
    "test": ("testing", "tests"),
}

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_TAR = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz)$", re.IGNORECASE)
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_MOST_SHARDS = 1_000_000


class ShardSet(NamedTuple):
    """The shards of a data set.

    Attributes:
        text: The patterns, without the names of files of a sample.
        places: The path or address of each shard, by split.
        parts: Which files of a sample are used: input and target, or one file with both; empty if
            they are recognized by their names.
    """

    text: str
    places: dict[str, list[str]]
    parts: tuple[str, ...]


def is_address(place: str) -> bool:
    """Whether a text is an address (URL) instead of a path."""
    return _ADDRESS.match(place) is not None


def find_shards(root: str | Path) -> ShardSet | None:
    """The shards that a data set consists of; ``None`` if it has none.

    Args:
        root: Patterns as described above, or a folder. In a folder, tar files whose names contain
            a split are shards.

    Raises:
        DataError: If a pattern cannot be expanded or matches nothing, an address has a password or
            parameters, or a name contains two splits.
        OSError: If the folder cannot be read.
    """
    text, _, names = str(root).partition("#")
    if Path(root).is_dir() or not names_shards(text):
        # The path of a folder may contain "#".
        text, names = (str(root), "") if Path(root).is_dir() else (text, names)
        places = _in_folder(Path(text)) if Path(text).is_dir() else []
        return ShardSet(text, _by_split(places), _parts(names)) if places else None
    places = [place for pattern in text.split("::") for place in _places(pattern)]
    return ShardSet(text, _by_split(places), _parts(names))


def names_shards(root: str) -> bool:
    """Whether a text consists of names of tar files, or addresses; they need not exist."""
    patterns = root.partition("#")[0].split("::")
    return any(is_address(each) or _TAR.search(each.rstrip("}")) for each in patterns)


def absolute(root: str) -> str:
    """The data set as seen from any folder: paths become absolute, addresses stay as they are."""
    text, sign, names = root.partition("#")
    if Path(root).is_dir() or not names_shards(text):
        return str(Path(root).resolve())
    places = (p if is_address(p) else str(Path(expanded(p)).absolute()) for p in text.split("::"))
    return "::".join(places) + sign + names


def name_of(root: str) -> str:
    """A short name of a data set: the name of its folder, or of the first shard pattern."""
    return absolute(root).partition("#")[0].partition("::")[0].replace("\\", "/").rpartition("/")[2]


def expand_braces(pattern: str) -> Iterator[str]:
    """Expands ``{a,b}`` and ``{000..099}`` (also with a step, ``{0..9..3}``) as bash does.

    Other braces are kept as they are.
    """
    for begin, end in _braces(pattern):
        inside = pattern[begin + 1 : end]
        choices = _choices(inside)
        if choices is not None:
            tails = list(expand_braces(pattern[end + 1 :]))
            yield from (pattern[:begin] + choice + tail for choice in choices for tail in tails)
            return
    yield pattern


def _braces(pattern: str) -> Iterator[tuple[int, int]]:
    """Positions of each opening brace and the brace that closes it."""
    for begin, character in enumerate(pattern):
        depth = 0
        for end in range(begin, len(pattern) if character == "{" else begin):
            depth += {"{": 1, "}": -1}.get(pattern[end], 0)
            if depth == 0:
                yield begin, end
                break


def _choices(inside: str) -> list[str] | None:
    found = _RANGE.fullmatch(inside)
    if found:
        first, last, step = found[1], found[2], abs(int(found[3] or 1)) or 1
        is_padded = any(re.match(r"-?0\d", each) for each in (first, last))
        width = max(len(first), len(last)) if is_padded else 0
        low, high = int(first), int(last)
        if abs(high - low) // step >= _MOST_SHARDS:
            raise DataError(f"{{{inside}}} are more than {_MOST_SHARDS:,} shards.")
        numbers = range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
        return [f"{number:0{width}d}" for number in numbers]
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return None if len(parts) == 1 else [text for part in parts for text in expand_braces(part)]


def _places(pattern: str) -> list[str]:
    """The shards that one pattern stands for, in its order."""
    if is_address(pattern):
        address = urlsplit(pattern)
        if address.username is not None or address.query:
            raise DataError(
                f"The address of shards on {address.hostname} has a user name, a password or "
                "parameters, which a run would record; give an address without them."
            )
        return list(expand_braces(pattern))
    path = expanded(pattern)
    if Path(path).exists():
        return [path]
    places = []
    for each in expand_braces(path):
        found = [str(match) for match in matches(each)] if is_pattern(each) else [each]
        if not found:
            raise DataError(f"{each}: the pattern matches nothing.")
        places += found
    missing = [place for place in places if not Path(place).exists()]
    if len(missing) == len(places) > 1:
        raise DataError(f"{pattern}: none of the {len(places)} shards exists, such as {places[0]}.")
    return places


def _in_folder(folder: Path) -> list[str]:
    found = [path for path in folder.iterdir() if _TAR.search(path.name) and path.is_file()]
    found = [path for path in found if not path.name.startswith(".") and _words(path.name)]
    return [str(path) for path in sorted(found, key=lambda path: path.name)]


def _by_split(places: list[str]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for place in places:
        path = PurePosixPath(place.replace("\\", "/"))
        folder = [split for split, names in _NAMES.items() if path.parent.name.lower() in names]
        found = _words(path.name) or folder or ["train"]
        if len(found) > 1:
            raise DataError(f"{place}: the name contains {' and '.join(found)}; name one split.")
        splits.setdefault(found[0], []).append(place)
    return splits


_NAMES = {split: {split, *others} for split, others in SPLIT_NAMES.items()}


def _words(name: str) -> list[str]:
    """The splits whose names are words of a file name."""
    words = set(re.findall("[a-z]+", name.lower()))
    return [split for split, names in _NAMES.items() if words & names]


def _parts(names: str) -> tuple[str, ...]:
    parts = tuple(name.strip().strip(".").lower() for name in names.split(",")) if names else ()
    if len(parts) > 2 or not all(parts) or len(set(parts)) < len(parts):
        raise DataError(
            f"'#{names}' must name input and target of a sample, such as #rgb,depth, or one "
            "image that holds both, such as #png."
        )
    return parts
