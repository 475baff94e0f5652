"""``nectargan data``: draws, prepares and checks data sets."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from nectargan.cli.common import Command, WholeNumber
from nectargan.cli.paths import INPUT, OUTPUT, ConfigPath
from nectargan.cli.progress import progress_bar
from nectargan.output import say
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.dataset.suspicions import Suspicion

MOST_OF_A_KIND = 10
SPLIT = click.Choice(["train", "val", "test"])
NEW_FOLDER = click.option(
    "-o", "--output", "out", type=OUTPUT, required=True, help="The new folder."
)


@click.group()
def data() -> None:
    """Draw, prepare and check data sets."""


@data.command(
    cls=Command,
    examples=(
        "nectargan data synth fronts",
        "nectargan data synth small --train 16 --val 4 --size 64",
    ),
)
@click.argument("directory", type=OUTPUT)
@click.option("--train", default=400, show_default=True, metavar="N", help="Training pairs.")
@click.option("--val", default=100, show_default=True, metavar="N", help="Validation pairs.")
@click.option("--test", default=0, show_default=True, metavar="N", help="Test pairs.")
@click.option(
    "--size", default=256, show_default=True, metavar="PIXELS", help="Width and height of an image."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the drawings.")
def synth(directory: Path, train: int, val: int, test: int, size: int, seed: int) -> None:
    """Draw facades into DIRECTORY: label map and rendered facade side by side (A|B)."""
    from nectargan.dataset.synthetic import synthesize

    synthesize(directory, train=train, val=val, test=test, size=size, seed=seed)
    say(f"Drew {train} training, {val} validation and {test} test pairs in {directory}.")


@data.command(
    cls=Command,
    examples=(
        "nectargan data check fronts",
        "nectargan data check datasets/facades --strict --json > findings.json",
    ),
)
@click.argument("directory", type=INPUT)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
@click.option("--strict", is_flag=True, help="End with exit code 1 if there are findings.")
@click.option("--quick", is_flag=True, help="Only check that the images can be used.")
def check(directory: Path, as_json: bool, strict: bool, quick: bool) -> None:
    """Read every image in DIRECTORY and list all problems.

    Images that can be used but should be looked at are listed as findings: misaligned or swapped
    pairs, near-duplicates within and across splits, empty images, label maps saved as JPEG, and
    outliers.
    """
    from nectargan.dataset.data_check import check_data
    from nectargan.dataset.inspection import inspect
    from nectargan.dataset.pairs import unread_splits
    from nectargan.dataset.suspicions import suspicions

    for warning in unread_splits(directory) if directory.is_dir() else ():
        say(f"Warning: {warning}", err=True)
    summaries = check_data(directory, required=("train",), optional=("val", "test"))
    for summary in summaries.values():
        say(str(summary), err=as_json)
        for warning in summary.warnings:
            say(f"Warning: {warning}", err=True)
        for hint in summary.hints:
            say(f"Hint: {hint}", err=True)
    if quick:
        return
    total = sum(len(summary.pairs) for summary in summaries.values())
    with progress_bar(total, "pairs") as advance:
        measured = {
            split: (summary.pairs, inspect(summary.pairs, advance))
            for split, summary in summaries.items()
        }
    found = suspicions(measured)
    if as_json:
        say(json.dumps([each._asdict() for each in found], indent=2))
    else:
        _list(found)
    if strict and found:
        sys.exit(1)


def _list(found: Sequence[Suspicion]) -> None:
    """Prints findings, and of each kind no more than a person wants to read."""
    for _, group in groupby(found, key=lambda each: each.kind):
        some = list(group)
        for each in some[:MOST_OF_A_KIND]:
            say(f"Finding: {each}")
        if len(some) > MOST_OF_A_KIND:
            say(f"and {len(some) - MOST_OF_A_KIND} more; --json lists all.")
    if found:
        say(f"{counted(len(found), 'finding')}.")


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
        return int(found[1]), int(found[2] or found[1])


@data.command(
    cls=Command,
    examples=(
        "nectargan data preview fronts -c demo",
        "nectargan data preview fronts -c demo --set common.seed=1 -o other.html",
    ),
)
@click.argument("directory", type=INPUT)
@click.option("-c", "--config", type=ConfigPath(), help="A config; by default the default options.")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B.C=VALUE", help="Set a key; may be repeated."
)
@click.option("-n", "--pairs", "count", type=WholeNumber(1, 1000), default=16, help="How many.")
@click.option(
    *("-o", "--output"), type=OUTPUT, default=Path("preview.html"), help="The page, a file."
)
def preview(
    directory: Path, config: str | None, settings: tuple[str, ...], count: int, output: Path
) -> None:
    """Write a page with random pairs of DIRECTORY as the trainer sees them, after augmentation."""
    from nectargan.config.config_manager import ConfigManager, parse_override
    from nectargan.data_preview import write_preview

    overrides = [*map(parse_override, settings), ("dataloader.dataroot", str(directory))]
    shown = write_preview(ConfigManager(config, overrides).data, output, count)
    say(f"{counted(shown, 'pair')} in {output}.")


@data.command(
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
    from nectargan.dataset.preparing.placing import Placed, place

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


@data.command(
    "split",
    cls=Command,
    examples=(
        "nectargan data split pairs -o dataset --val 0.1 --test 50",
        r"nectargan data split pairs -o dataset --val 0.2 --group-by '^(scene\d+)_'",
    ),
)
@click.argument("directory", type=INPUT)
@NEW_FOLDER
@click.option("--val", default=0.1, help="Size of val: a fraction below 1 or a number of pairs.")
@click.option("--test", default=0.0, help="Size of test, likewise.")
@click.option("--from", "source", type=SPLIT, default="train", help="The split to divide.")
@click.option("--seed", default=0, help="Seed of the random order.")
@click.option(
    "--group-by",
    metavar="REGEX",
    help="Pairs whose names have the same match stay in one part, such as frames of a scene.",
)
@click.option(
    "--as", "how", type=click.Choice(["links", "copies"]), default="links", help="Kind of files."
)
def divide(
    directory: Path,
    out: Path,
    val: float,
    test: float,
    source: str,
    seed: int,
    group_by: str | None,
    how: Literal["links", "copies"],
) -> None:
    """Divide the pairs of a split of DIRECTORY at random into train, val and test.

    Equal pictures are never in two parts.
    """
    from collections import Counter

    from nectargan.dataset.pairs import find_pairs
    from nectargan.dataset.preparing.placing import place
    from nectargan.dataset.preparing.splitting import split_pairs

    pairs = find_pairs(directory, source)
    placed = split_pairs(pairs, {"val": val, "test": test}, seed, group_by)
    place(placed, out, how)
    sizes = Counter(each.split for each in placed)
    parts = ", ".join(f"{sizes[part]} in {part}" for part in ("train", "val", "test"))
    say(f"{counted(len(pairs), 'pair')} in {out}: {parts}.")


@data.command(
    cls=Command,
    examples=(
        "nectargan data crop scans -o tiles --size 512 --overlap 64",
        "nectargan data crop maps -o tiles --keep-empty",
    ),
)
@click.argument("directory", type=INPUT)
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
    directory: Path, out: Path, size: int, overlap: int, empty: float, keep_empty: bool
) -> None:
    """Cut the images of all splits of DIRECTORY into tiles."""
    from nectargan.dataset.pairs import find_pairs, list_splits
    from nectargan.dataset.preparing.placing import Placed
    from nectargan.dataset.preparing.tiling import write_tiles

    if overlap >= size:
        raise click.UsageError(f"--overlap {overlap} must be less than --size {size}.")
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
