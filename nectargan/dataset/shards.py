"""Finds the pairs in the shards of a data set.

Files of a shard with one key, which is the path up to the first dot of the name, are a sample:

    0001.input.png  0001.target.png     two images; also 0001.a.png and 0001.b.png
    0001.png                            one image, input on the left half and target on the right

All other files of a sample are ignored.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nectargan.dataset.remote_shards import (
    RemoteShard,
    keep_members,
    kept_members,
    shard_on_server,
)
from nectargan.dataset.shard_names import is_address
from nectargan.errors import DataError
from nectargan.images.suffixes import IMAGE_SUFFIXES
from nectargan.sources import Member, Shard, ShardFile
from nectargan.wording import counted

_CONVENTIONS = (("input", "target"), ("a", "b"))
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_META = re.compile(r"__[^/]*__($|/)")  # not part of any sample
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BLOCK = 512  # bytes of a tar header


class Sample(NamedTuple):
    """A pair in a shard.

    Attributes:
        name: Unique in its split, and usable as a file name.
        input: The input image, or input and target side by side.
        target: The target image; None for a side-by-side image.
    """

    name: str
    input: Member
    target: Member | None


class Samples(NamedTuple):
    """The samples of several shards, with everything that is wrong with them."""

    samples: list[Sample]
    problems: list[str]
    warnings: list[str]


def read_samples(places: Sequence[str], parts: Sequence[str] = ()) -> Samples:
    """Finds the pairs in shards, in the order of the shards and their files.

    Args:
        places: Path of each shard.
        parts: Which files of a sample are used, see `ShardSet`.
    """
    found, problems, warnings = list[Sample](), list[str](), list[str]()
    twice = [place for place, count in Counter(places).items() if count > 1]
    problems += [f"{place}: this shard is named more than once" for place in twice]
    with ThreadPoolExecutor() as pool:
        for place, members in zip(places, pool.map(_members_or_problem, places), strict=True):
            if isinstance(members, str):
                problems.append(members)
                continue
            before = len(found) + len(problems)
            unused = _pair(members, parts, found, problems)
            if len(found) + len(problems) == before:
                warnings.append(f"{place}: it has no images.")
            elif unused:
                such = f"such as {unused[0]}"
                warnings.append(f"{place}: {counted(len(unused), 'sample')} ignored, {such}.")
    return Samples(_unique(found), problems, warnings)


def list_members(shard: Shard) -> list[Member]:
    """All regular files in a shard, in their order.

    Raises:
        DataError: If it is not an uncompressed tar file, is damaged, or ends too early.
        OSError: If it cannot be read.
    """
    members = list[Member]()
    with shard.open() as file:
        head = file.read(_BLOCK)
        for magic, name in _COMPRESSIONS.items():
            if head.startswith(magic):
                raise DataError(
                    f"{shard}: it is compressed with {name}; images are read at their place in the "
                    "tar file, so decompress it"
                )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    if info.isreg() and not info.issparse():
                        members.append(Member(shard, info.name, info.offset_data, info.size))
                    tar.members = []  # type: ignore[attr-defined]  # keeps every header
                end = tar.offset
        except (tarfile.TarError, ValueError) as error:
            if not head:
                raise DataError(f"{shard}: it is empty, not a tar file") from None
            if members:
                raise DataError(
                    f"{shard}: damaged or incomplete after {members[-1].path}"
                ) from None
            raise DataError(f"{shard}: it is not a tar file ({error})") from None
        # tarfile ends at the first header that it does not understand.
        file.seek(end)
        if not _ends_here(file.read(_BLOCK)):
            after = members[-1].path if members else "its beginning"
            raise DataError(f"{shard}: damaged or incomplete after {after}")
    return members


def _ends_here(block: bytes) -> bool:
    return len(block) == _BLOCK and not any(block)


def _members_or_problem(place: str) -> list[Member] | str:
    try:
        if not is_address(place):
            return list_members(ShardFile.of(Path(place)))
        shard = shard_on_server(place)
        if not isinstance(shard, RemoteShard):
            return list_members(shard)
        members = kept_members(shard)
        if members is None:
            keep_members(shard, members := list_members(shard))
        return members
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{place}: cannot be read ({error.strerror})"


def _pair(
    members: Sequence[Member], parts: Sequence[str], found: list[Sample], problems: list[str]
) -> list[str]:
    """Adds the samples of a shard and their problems; returns the keys that have no image."""
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        match = _KEY.fullmatch(member.path.removeprefix("./"))
        if match is None or _META.match(member.path):
            continue
        sample = samples.setdefault(match[1], {})
        if match[2].lower() in sample:
            problems.append(f"{member}: this name occurs twice in the shard")
        sample[match[2].lower()] = member
    unused = []
    for key, sample in samples.items():
        images = {ext: m for ext, m in sample.items() if m.suffix.lower() in IMAGE_SUFFIXES}
        try:
            chosen = _sides(images, sample, parts)
        except DataError as error:
            problems.append(f"{next(iter(sample.values())).shard}/{key}: {error}")
            continue
        if chosen is None:
            unused.append(key)
        else:
            found.append(Sample(key, *chosen))
    return unused


def _sides(
    images: Mapping[str, Member], sample: Mapping[str, Member], parts: Sequence[str]
) -> tuple[Member, Member | None] | None:
    """Input and target of a sample; ``None`` if it has none of them."""
    if not parts:
        used = [names for names in _CONVENTIONS if any(_of(images, name) for name in names)]
        if not used and len(images) <= 1:
            return (next(iter(images.values())), None) if images else None
        if len(used) != 1:
            raise DataError(
                f"it has the images {', '.join(images)}; name input and target after the shards, "
                "such as #input,target, or one image with both, such as #png"
            )
        parts = used[0]
    chosen = [_of(images, name) for name in parts]
    if not any(chosen):
        return None
    for name, some in zip(parts, chosen, strict=True):
        if len(some) > 1:
            raise DataError(f"it has several images for '{name}'")
        if not some:
            others = _of(sample, name)
            hint = f"; '{others[0]}' has an unsupported suffix" if others else ""
            raise DataError(f"it has no image for '{name}'{hint}")
    first, *rest = (sample[some[0]] for some in chosen)
    return first, rest[0] if rest else None


def _of(files: Mapping[str, Member], name: str) -> list[str]:
    """The extensions that belong to a name: "rgb" to rgb.png, and "png" to png."""
    return [ext for ext in files if name in (ext, ext.rpartition(".")[0])]


def _unique(samples: Sequence[Sample]) -> list[Sample]:
    """Gives samples unique names that can be file names: the key, if needed after the shard."""
    names = [sample.name.replace("/", "_") for sample in samples]
    if len(set(names)) < len(names):
        names = [
            f"{PurePosixPath(sample.input.shard.name).stem}_{name}"
            for sample, name in zip(samples, names, strict=True)
        ]
    counts = Counter[str]()
    unique = []
    for sample, name in zip(samples, names, strict=True):
        counts[name] += 1
        unique.append(sample._replace(name=name if counts[name] == 1 else f"{name}_{counts[name]}"))
    return unique
