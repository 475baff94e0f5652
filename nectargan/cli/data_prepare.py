"""``nectargan data pair``, ``split`` and ``crop``: make a data set of one's own images."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import click

from nectargan.cli.common import Command, WholeNumber
from nectargan.cli.paths import DATA, INPUT, OUTPUT
from nectargan.cli.progress import progress_bar
from nectargan.output import say
from nectargan.wording import counted

MOST_PIXELS = 8192 * 8192  # of an image that `pair` resizes
SPLIT = click.Choice(["train", "val", "test"])
NEW_FOLDER = click.option(
    "-o", "--output", "out", type=OUTPUT, required=True, help="The new folder."
)


# Click declares the class as generic, but older versions cannot subscript it.
class ImageSize(click.ParamType):  # type: ignore[type-arg]
    """Height and width in pixels, as 256 or 256x512."""

    name = "HEIGHTxWIDTH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Returns height and width."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
        if not found:
            self.fail(f"{value!r} is not a size in pixels such as 256 or 256x512.", param, ctx)
        height, width = int(found[1]), int(found[2] or found[1])
        if height * width > MOST_PIXELS:
            self.fail(
                f"{value!r} has {height * width:,} pixels; at most {MOST_PIXELS:,} are allowed.",
                param,
                ctx,
            )
        return height, width


@click.command(
    cls=Command,
    examples=(
        "nectargan data pair labels photos -o pairs",
        r"nectargan data pair maps photos -o pairs --pattern '(\d+)' --side-by-side --resize 256",
    ),
)
@click.argument("a", type=INPUT)
@click.argument("b", type=INPUT)
@NEW_FOLDER
@click.option("--split", type=SPLIT, default="train", help="The split that the pairs are for.")
@click.option(
    "--pattern",
    metavar="REGEX",
    help="Pair names for which the groups of this expression are equal, not whole names.",
)
@click.option("--by-order", is_flag=True, help="Pair by natural order of the names.")
@click.option(
    "--as",
    "how",
    type=click.Choice(["links", "copies", "manifest"]),
    default="links",
    help="Links or copies of the files, or only a list of them (pairs.csv).",
)
@click.option("--side-by-side", is_flag=True, help="Write A and B of a pair into one new file.")
@click.option("--resize", "size", type=ImageSize(), help="Write new files of this size.")
@click.option("--grey", is_flag=True, help="Write new files with one channel.")
def pair(
    a: Path,
    b: Path,
    out: Path,
    split: str,
    pattern: str | None,
    by_order: bool,
    how: Literal["links", "copies", "manifest"],
    side_by_side: bool,
    size: tuple[int, int] | None,
    grey: bool,
) -> None:
    """Make a data set from the images of folder A and those of folder B.

    Images are paired by their names without suffix.
    """
    from nectargan.dataset.preparing import pairing
    from nectargan.dataset.preparing.placing import Placed, place, require_outside

    require_outside(out, a, b)
    if by_order and pattern is not None:
        raise click.UsageError("--by-order and --pattern exclude each other.")
    is_new = side_by_side or grey or size is not None
    if is_new and _is_given("how"):
        raise click.UsageError(
            "--side-by-side, --resize and --grey write new files; leave out --as."
        )
    pairs = pairing.match_order(a, b) if by_order else pairing.match_names(a, b, pattern)
    if is_new:
        pairing.write_pictures(pairs, split, out, size, grey, side_by_side)
    elif how == "manifest":
        pairing.write_manifest(pairs, split, out)
    else:
        place([Placed(split, each.name, each) for each in pairs], out, how)
    say(f"{counted(len(pairs), 'pair')} for {split} in {out}.")


@click.command(
    "split",
    cls=Command,
    examples=(
        "nectargan data split pairs -o dataset --val 0.1 --test 50",
        r"nectargan data split pairs -o dataset --val 0.2 --group-by '^(scene\d+)_'",
    ),
)
@click.argument("directory", type=DATA)
@NEW_FOLDER
@click.option("--val", default=0.1, help="Size of val: a fraction below 1 or a number of pairs.")
@click.option("--test", default=0.0, help="Size of test, likewise.")
@click.option("--from", "source", type=SPLIT, default="train", help="The split to divide.")
@click.option("--seed", type=WholeNumber(0), default=0, help="Seed of the random order.")
@click.option(
    "--group-by",
    metavar="REGEX",
    help="Pairs whose names have the same match stay in one part, such as frames of a scene.",
)
@click.option(
    "--as", "how", type=click.Choice(["links", "copies"]), default="links", help="Kind of files."
)
def divide(
    directory: str,
    out: Path,
    val: float,
    test: float,
    source: str,
    seed: int,
    group_by: str | None,
    how: Literal["links", "copies"],
) -> None:
    """Divide the pairs of a split of DIRECTORY at random into train, val and test.

    Equal and nearly equal pictures are never in two parts.
    """
    from nectargan.dataset.pairs import find_pairs
    from nectargan.dataset.preparing.placing import place, require_outside
    from nectargan.dataset.preparing.splitting import split_pairs

    require_outside(out, directory)
    pairs = find_pairs(directory, source)
    placed = split_pairs(
        pairs,
        {"val": val, "test": test},
        seed,
        group_by,
        lambda count: progress_bar(count, "pairs"),
    )
    place(placed, out, how)
    sizes = Counter(each.split for each in placed)
    parts = ", ".join(f"{sizes[part]} in {part}" for part in ("train", "val", "test"))
    say(f"{counted(len(pairs), 'pair')} in {out}: {parts}.")


@click.command(
    cls=Command,
    examples=(
        "nectargan data crop scans -o tiles --size 512 --overlap 64",
        "nectargan data crop maps -o tiles --keep-empty",
    ),
)
@click.argument("directory", type=DATA)
@NEW_FOLDER
@click.option("--size", type=WholeNumber(1), default=256, help="Side of a tile in pixels.")
@click.option("--overlap", type=WholeNumber(0), default=0, help="Pixels that neighbors share.")
@click.option(
    "--empty",
    type=click.FloatRange(0, 1),
    default=0.02,
    help="Leave out a tile whose values differ by at most this fraction of their range.",
)
@click.option("--keep-empty", is_flag=True, help="Keep all tiles.")
def crop(
    directory: str, out: Path, size: int, overlap: int, empty: float, keep_empty: bool
) -> None:
    """Cut the images of all splits of DIRECTORY into tiles."""
    from nectargan.dataset.pairs import find_pairs, list_splits
    from nectargan.dataset.preparing.placing import Placed, require_outside
    from nectargan.dataset.preparing.tiling import write_tiles

    require_outside(out, directory)
    if overlap >= size:
        raise click.UsageError(f"--overlap {overlap} must be less than --size {size}.")
    if math.isnan(empty):
        raise click.UsageError("--empty is nan; it must be between 0 and 1.")
    splits = list_splits(directory) or ["train"]  # find_pairs describes what is missing
    placed = [
        Placed(split, each.name, each) for split in splits for each in find_pairs(directory, split)
    ]
    written, left_out = write_tiles(placed, out, size, overlap, None if keep_empty else empty)
    rest = f"; {counted(left_out, 'empty one')} left out" if left_out else ""
    say(f"{counted(written, 'tile')} from {counted(len(placed), 'pair')} in {out}{rest}.")


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT
