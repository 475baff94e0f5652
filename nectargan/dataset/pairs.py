"""Finding the pairs of a data set, and checking every image before the first step.

A data root holds the splits `train`, `val` and `test` in one of three layouts:

    train/1.png                    one image, A on the left half and B on the right
    trainA/1.png   trainB/1.jpg    two folders, matched by the name without its suffix
    train/A/1.png  train/B/1.jpg   the same, nested
"""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from nectargan.errors import DataError

SPLITS = ("train", "val", "test")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

# Pillow converts these to 8 bit by clipping (F) or not at all (LAB).
UNUSABLE_MODES = frozenset({"F", "LAB"})

# What Pillow's decoders raise on damaged files, besides DecompressionBombError.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
)

_MOST_LINES = 20


@dataclass(frozen=True)
class Pair:
    """Two images of one scene.

    Args:
        name: The file name without its suffix, unique in its split.
        a: The image A, or one image with A on the left half and B on the right.
        b: The image B; None for a side-by-side image.
    """

    name: str
    a: Path
    b: Path | None = None


@dataclass(frozen=True)
class SplitSummary:
    """One split that passed the check. `str()` of it is a line to print.

    Args:
        split: Its name, such as "train".
        layout: Where its images are, such as "trainA + trainB".
        pairs: Its pairs, in natural order.
        smallest: Least height and least width of one image of a pair, in pixels.
        largest: Greatest height and greatest width of one image of a pair, in pixels.
    """

    split: str
    layout: str
    pairs: tuple[Pair, ...]
    smallest: tuple[int, int]
    largest: tuple[int, int]

    def __str__(self) -> str:
        sizes = [f"{h} x {w}" for h, w in dict.fromkeys((self.smallest, self.largest))]
        plural = "" if len(self.pairs) == 1 else "s"
        return (
            f"{self.split}: {len(self.pairs)} pair{plural} in {self.layout}, {' to '.join(sizes)}"
        )


def find_pairs(root: str | Path, split: str) -> list[Pair]:
    """The pairs of one split in natural order (img2 before img10), without opening an image.

    Hidden files and files that are no images by suffix are ignored.

    Raises:
        DataError: The split is not there, has no images, or a name has no partner or several
            files; every problem is listed.
    """
    problems = _root_problems(Path(root))
    if not problems:
        found = _scan(Path(root), split)
        problems = found.problems
    _raise_if(problems)
    return found.pairs


def list_splits(root: str | Path) -> list[str]:
    """The names of `SPLITS` that have a folder of any layout under `root`."""
    return [split for split in SPLITS if _layouts(Path(root), split)]


def check_data(
    root: str | Path,
    required: Sequence[str] = ("train",),
    optional: Sequence[str] = ("val",),
) -> dict[str, SplitSummary]:
    """Reads every image of the splits once, and says all that is wrong with them in one error.

    Args:
        root: The folder with the splits.
        required: Splits that must be there.
        optional: Splits that are checked if they are there.

    Returns:
        A summary by split, with its pairs, ready for `PairedDataset`.

    Raises:
        DataError: Lists, one a line, each missing folder or partner, doubled name, unreadable,
            truncated or oversized file, odd width and mixed size within a pair.
    """
    root = Path(root)
    _raise_if(_root_problems(root))
    splits = [*required, *(name for name in optional if _layouts(root, name))]
    found = {split: _scan(root, split) for split in splits}
    probes = _probe_all(
        path
        for scan in found.values()
        for pair in scan.pairs
        for path in (pair.a, pair.b)
        if path is not None
    )
    problems = [problem for scan in found.values() for problem in scan.problems]
    problems += [probe for probe in probes.values() if isinstance(probe, str)]
    sizes = {
        split: [_pair_size(pair, probes, problems) for pair in scan.pairs]
        for split, scan in found.items()
    }
    _raise_if(problems)
    return {split: _summary(split, scan, sizes[split]) for split, scan in found.items()}


@dataclass(frozen=True)
class _Scan:
    layout: str
    pairs: list[Pair]
    problems: list[str]


def _root_problems(root: Path) -> list[str]:
    if root.is_dir():
        return []
    return [f"{root}: {'not a directory' if root.exists() else 'no such directory'}"]


def _raise_if(problems: Sequence[str]) -> None:
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(f"The data set cannot be used: {problems[0]}")
    lines = [f"The data set cannot be used, {len(problems)} problems:", *problems[:_MOST_LINES]]
    if len(problems) > _MOST_LINES:
        lines.append(f"and {len(problems) - _MOST_LINES} more")
    raise DataError("\n  ".join(lines))


def _natural(name: str) -> tuple[list[str | int], str]:
    """A sort key: digits compare as numbers, letters without case, ties by the exact name."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    images = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        # A link that leads nowhere is an image that cannot be read, not one that is not there.
        if path.is_file() or (path.is_symlink() and not path.is_dir())
    )
    return sorted(images, key=lambda path: _natural(path.name))


def _layouts(root: Path, split: str) -> dict[str, tuple[Path, ...]]:
    """The layouts a split is found in: its one or two folders, by the layout's name."""
    whole = root / split
    twos = {
        f"{split}A + {split}B": (root / f"{split}A", root / f"{split}B"),
        f"{split}/A + {split}/B": (whole / "A", whole / "B"),
    }
    layouts: dict[str, tuple[Path, ...]] = {
        name: folders for name, folders in twos.items() if any(f.is_dir() for f in folders)
    }
    if _images(whole) or (whole.is_dir() and not layouts):
        layouts[f"{split} (side by side)"] = (whole,)
    return layouts


def _scan(root: Path, split: str) -> _Scan:
    layouts = _layouts(root, split)
    if not layouts:
        wanted = f"{split}/, {split}A/ and {split}B/, or {split}/A/ and {split}/B/"
        return _Scan("", [], [f"{root}: the split '{split}' is missing; it is read from {wanted}"])
    if len(layouts) > 1:
        names = ", ".join(layouts)
        return _Scan("", [], [f"{root}: '{split}' is there in several layouts ({names}); keep one"])
    ((layout, folders),) = layouts.items()
    problems: list[str] = []
    named = [_by_name(folder, problems) for folder in folders]
    if len(folders) == 1:
        return _Scan(layout, [Pair(name, path) for name, path in named[0].items()], problems)
    a, b = named
    if a and b:  # an empty folder is one problem, not one for each image in the other
        for mine, others, folder in ((a, b, folders[1]), (b, a, folders[0])):
            problems += [
                f"{path}: no partner of this name in {folder}"
                for name, path in mine.items()
                if name not in others
            ]
    return _Scan(layout, [Pair(name, a[name], b[name]) for name in a if name in b], problems)


def _by_name(folder: Path, problems: list[str]) -> dict[str, Path]:
    """The images of a folder by stem; what is wrong is added to `problems`."""
    named: dict[str, Path] = {}
    for path in _images(folder):
        first = named.setdefault(path.stem, path)
        if first is not path:
            problems.append(f"{path}: same name as {first.name}; names must be unique")
    if not named:
        problems.append(f"{folder}: {'no images' if folder.is_dir() else 'folder is missing'}")
    return named


def _probe_all(paths: Iterable[Path]) -> dict[Path, tuple[int, int] | str]:
    paths = list(paths)
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # Set here, not in the threads: warning filters belong to the whole process.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return dict(zip(paths, pool.map(_probe, paths), strict=True))


def _probe(path: Path) -> tuple[int, int] | str:
    """Height and width as displayed, after a full read of the file; or what is wrong with it."""
    try:
        with Image.open(path) as image:
            if image.mode in UNUSABLE_MODES:
                return f"{path}: pixels of mode {image.mode} are not supported; use 8 or 16 bit"
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            # A JPEG read at 1/8 scale is still read to its end, in a fraction of the time.
            image.draft("L", (1, 1))
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return (
            f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels, which Pillow takes for an attack"
        )
    except UnidentifiedImageError:
        return f"{path}: not an image, or its header is damaged"
    except UNREADABLE as error:
        return f"{path}: unreadable or truncated ({getattr(error, 'strerror', None) or error})"
    return (width, height) if turned else (height, width)


def _pair_size(
    pair: Pair, probes: Mapping[Path, tuple[int, int] | str], problems: list[str]
) -> tuple[int, int]:
    """Height and width of either image of the pair; what is wrong is added to `problems`."""
    a = probes[pair.a]
    b = a if pair.b is None else probes[pair.b]
    if isinstance(a, str) or isinstance(b, str):
        return 0, 0  # reported already
    if pair.b is not None:
        if a != b:
            sizes = f"{a[0]} x {a[1]}, but {pair.b} is {b[0]} x {b[1]}"
            problems.append(f"{pair.a}: {sizes} (height x width)")
        return a
    height, width = a
    if width % 2:
        problems.append(f"{pair.a}: the width {width} is odd; it should be two equal halves")
    return height, width // 2


def _summary(split: str, scan: _Scan, sizes: Sequence[tuple[int, int]]) -> SplitSummary:
    heights, widths = zip(*sizes, strict=True)
    smallest, largest = (min(heights), min(widths)), (max(heights), max(widths))
    return SplitSummary(split, scan.layout, tuple(scan.pairs), smallest, largest)
