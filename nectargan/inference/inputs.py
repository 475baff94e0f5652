"""Which images are to be used, and where what is made of them goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from nectargan.dataset.listing import SUFFIX_LIST, list_folder, passed_over
from nectargan.errors import DataError
from nectargan.files import is_stream
from nectargan.images.suffixes import IMAGE_SUFFIXES
from nectargan.inference.picture_files import suffix_for
from nectargan.shell import expanded, is_pattern, matches

STREAM = "-"


class Job(NamedTuple):
    """An image and the file that is made of it; ``None`` stands for standard input and output."""

    source: Path | None
    target: Path | None


class Inputs(NamedTuple):
    """What was found.

    Attributes:
        jobs: An image each, in natural order within each folder.
        notes: What was passed over, in words.
    """

    jobs: list[Job]
    notes: list[str]


def find_inputs(
    inputs: Sequence[str],
    output: str,
    channels: int,
    recursive: bool = False,
    suffix: str | None = None,
    name_suffix: str = "",
) -> Inputs:
    """Lists images and names the files to write.

    Args:
        inputs: Files, folders, patterns, or "-" for standard input.
        output: The folder to write to, which keeps the folders below each folder of ``inputs``; or
            the file, for a single one; or "-".
        channels: Of what is written.
        recursive: Take the folders in folders too.
        suffix: Of the files to write, such as ".png"; otherwise that of each input.
        name_suffix: Goes between the name and the suffix.

    Raises:
        DataError: an input does not exist or holds no image, two would be written to one file, or
            the folder cannot be written to.
    """
    out = Path(expanded(output))
    notes: list[str] = []
    found: list[tuple[Path | None, Path]] = []  # with the path relative to the output folder
    for name in inputs:
        found += _found(name, recursive, out, notes)
    if _is_one_file(found, output, out):
        target = None if output == STREAM else out
        if target is not None and suffix is None and target.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"'{output}' has no suffix of an image ({SUFFIX_LIST}); give --format.")
        if target is not None and not is_stream(target):
            _check_folder(target.parent)
        return Inputs([_checked(Job(found[0][0], target))], notes)
    jobs = []
    for source, relative in found:
        kind = suffix_for(suffix or relative.suffix.lower(), channels)
        # As it was written where it stays the same, such as ".JPG".
        kind = relative.suffix if relative.suffix.lower() == kind else kind
        target = out / relative.with_name(f"{relative.stem}{name_suffix}{kind}")
        jobs.append(_checked(Job(source, target)))
    _check_targets(jobs)
    _check_folder(out)
    return Inputs(jobs, notes)


def _is_one_file(found: list[tuple[Path | None, Path]], output: str, out: Path) -> bool:
    """Whether ``output`` is the one file to write, not a folder."""
    is_output = output == STREAM
    if len(found) > 1:
        if is_output or out.is_file():
            raise DataError(f"'{output}' takes one image, and there are {len(found)}.")
        return False
    if found[0][0] is None and out.is_dir():
        raise DataError("An image from standard input needs the name of a file: -o FILE.")
    is_new_file = out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir()
    return is_output or out.is_file() or is_new_file or found[0][0] is None


def _found(
    name: str, recursive: bool, out: Path, notes: list[str]
) -> list[tuple[Path | None, Path]]:
    if name == STREAM:
        return [(None, Path("stdin.png"))]
    path = expanded(name)
    if is_pattern(path):
        paths = matches(path)
        if not paths:
            raise DataError(f"The pattern '{name}' matches nothing.")
        # Whoever writes "photos/*" means the images among what there is.
        paths = [
            p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES or (recursive and p.is_dir())
        ]
        if not paths:
            raise DataError(f"The pattern '{name}' matches no image; read are {SUFFIX_LIST}.")
    else:
        paths = [Path(path)]
    found: list[tuple[Path | None, Path]] = []
    for each in paths:
        if each.is_dir():
            inside = list(_in_folder(each, recursive, out, notes))
            if not inside:
                raise DataError(_no_image(each, recursive))
            found += [(p, p.relative_to(each)) for p in inside]
        elif each.exists() or each.is_symlink():
            found.append((each, Path(each.name)))
        else:
            raise DataError(f"'{name}' does not exist.")
    return found


def _in_folder(folder: Path, recursive: bool, out: Path, notes: list[str]) -> Iterator[Path]:
    try:
        listing = list_folder(folder)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read: {error.strerror}.") from None
    notes += [note] if (note := passed_over(folder, listing)) else []
    yield from listing.images
    for below in listing.folders if recursive else ():
        # A link to a folder above would never end, and what an earlier call wrote is no input.
        if not below.is_symlink() and below.resolve() != out.resolve():
            yield from _in_folder(below, recursive, out, notes)


def _no_image(folder: Path, recursive: bool) -> str:
    listing = list_folder(folder)
    advice = " Its folders are read with --recursive." if listing.folders and not recursive else ""
    return f"'{folder}' contains no image; found: {listing}. Images end in {SUFFIX_LIST}.{advice}"


def _checked(job: Job) -> Job:
    """Raises `DataError` if an image would be written over itself."""
    source, target = job
    if source is not None and target is not None and source.exists() and target.exists():
        if target.is_dir():
            raise DataError(f"'{target}' is a folder, and an image is to be written there.")
        if source.samefile(target):
            raise DataError(
                f"'{source}' would be written over itself; give another -o, or --suffix."
            )
    return job


def _check_targets(jobs: list[Job]) -> None:
    """Raises `DataError` if two images would be written to one file."""
    first: dict[Path | None, Path | None] = {}
    for source, target in jobs:
        if target in first:
            raise DataError(
                f"'{first[target]}' and '{source}' would both be written to '{target}'; use "
                "different folders, or leave --format out."
            )
        first[target] = source


def _check_folder(folder: Path) -> None:
    """Raises `DataError` unless files can be written to a folder, which may not exist yet."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        # No look at permissions: some file systems know better.
        with TemporaryDirectory(prefix=".nectargan-", dir=there):
            pass
    except OSError as error:
        raise DataError(f"'{folder}' cannot be written to: {error.strerror}.") from None
