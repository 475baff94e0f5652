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

from nectargan.cli.common import ChannelList, Command, LongCommand, WholeNumber
from nectargan.cli.paths import DATA, INPUT, OUTPUT, ConfigPath
from nectargan.cli.progress import progress_bar, transfer_bar
from nectargan.output import say
from nectargan.shell import quoted
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.dataset.suspicions import Suspicion

MOST_OF_A_KIND = 10
SPLIT = click.Choice(["train", "val", "test"])
_CHANNELS = "Channels to read, by name or by number from 1, of"
NEW_FOLDER = click.option(
    "-o", "--output", "out", type=OUTPUT, required=True, help="The new folder."
)


@click.group()
def data() -> None:
    """Draw, download, prepare and check data sets."""


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
    cls=LongCommand,
    examples=(
        "nectargan data download facades",
        "nectargan data download maps -o /data/maps --url https://mirror.example.org/maps.tar.gz",
    ),
)
@click.argument("name", metavar="NAME")
@click.option("-o", "--output", "out", type=OUTPUT, help="The new folder; default: datasets/NAME.")
@click.option("--url", help="Address of a mirror with the same archive (.tar.gz).")
@click.option(
    "--digest",
    metavar="ALGORITHM:HEX",
    help="Digest of the archive, such as sha256:..., in place of the published one.",
)
def download(name: str, out: Path | None, url: str | None, digest: str | None) -> None:
    """Download one of the data sets of the pix2pix paper.

    NAME is facades, maps, cityscapes, edges2shoes, edges2handbags or night2day. The archive is
    compared with its published digest. An interrupted download goes on where it stopped. For the
    licenses, see the pages of the data sets.
    """
    from nectargan.dataset.preparing.downloading import PUBLISHED
    from nectargan.dataset.preparing.downloading import download as download_set

    out = out or Path("datasets", name)
    with transfer_bar() as show:
        found = download_set(name, out, url, digest, show)
    published = PUBLISHED[name]
    parts = ", ".join(f"{count} in {split}" for split, count in found.pairs.items())
    say(f"{counted(sum(found.pairs.values()), 'pair')} (A|B: {published.about}) in {out}: {parts}.")
    say(f"SHA-256 of the archive: {found.sha256}; it is kept in {found.record.name}.")
    config = f"-c {published.config} " if published.config else ""
    say(f"To train: nectargan-train {config}-d {quoted(out)}")


@data.command(
    cls=Command,
    examples=(
        "nectargan data check fronts",
        "nectargan data check datasets/facades --strict --json > findings.json",
    ),
)
@click.argument("directory", type=DATA)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
@click.option("--strict", is_flag=True, help="End with exit code 1 if there are findings.")
@click.option(
    "--report", type=OUTPUT, metavar="FILE.html", help="Write a page with the pictures of findings."
)
@click.option("--quick", is_flag=True, help="Only check that the images can be used.")
@click.option(
    "--fresh", is_flag=True, help="Read all images, also those that an earlier check has read."
)
@click.option("--channels-a", type=ChannelList(), help=f"{_CHANNELS} A, as R,G,B. Default: all.")
@click.option("--channels-b", type=ChannelList(), help=f"{_CHANNELS} B, as Z. Default: all.")
def check(
    directory: str,
    as_json: bool,
    strict: bool,
    report: Path | None,
    quick: bool,
    fresh: bool,
    channels_a: list[str | int] | None,
    channels_b: list[str | int] | None,
) -> None:
    """Read every image in DIRECTORY and list all problems.

    An interrupted check goes on where it stopped. Images that can be used but should be looked at
    are listed as findings: misaligned or swapped pairs, near-duplicates within and across splits,
    empty images, label maps saved as JPEG, and outliers.
    """
    from nectargan.data_report import write_report
    from nectargan.dataset.data_check import check_data
    from nectargan.dataset.examination import Examination, kept_results
    from nectargan.dataset.pairs import unread_splits
    from nectargan.dataset.suspicions import suspicions
    from nectargan.dataset.value_statistics import describe_values

    if quick and report is not None:
        raise click.UsageError("--quick finds nothing for --report.")
    for warning in unread_splits(directory):
        say(f"Warning: {warning}", err=True)
    channels = (channels_a, channels_b)
    examination = Examination(
        channels,
        None if fresh else kept_results(directory),
        lambda count: progress_bar(count, "pairs"),
    )
    summaries = check_data(
        directory,
        ("train",),
        ("val", "test"),
        channels,
        examine=None if quick else examination,
    )
    if examination.reused:
        reused = counted(examination.reused, "pair")
        say(f"{reused} unchanged since an earlier check; --fresh reads them again.", err=True)
    for summary in summaries.values():
        say(str(summary), err=as_json)
        for warning in summary.warnings:
            say(f"Warning: {warning}", err=True)
        for hint in summary.hints:
            say(f"Hint: {hint}", err=True)
        if not (quick or summary.is_plain):
            with progress_bar(2 * len(summary.pairs), "images") as advance:
                lines = describe_values(summary.pairs, summary.dtypes, channels, advance)
            for line in lines:
                say(f"Values of {summary.split}, {line}", err=as_json)
    if quick:
        return
    measured, begin = {}, 0
    for split, summary in summaries.items():
        end = begin + len(summary.pairs)
        measured[split] = (summary.pairs, examination.found[begin:end])
        begin = end
    found = suspicions(measured)
    if as_json:
        say(json.dumps([each.facts() for each in found], indent=2))
    else:
        _list(found)
    if report is not None:
        facts = " ".join(f"{summary}." for summary in summaries.values())
        write_report(found, str(directory), facts, report)
        say(f"The findings with their pictures: {report}", err=as_json)
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
@click.argument("directory", type=DATA)
@click.option("-c", "--config", type=ConfigPath(), help="A config; by default the default options.")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B.C=VALUE", help="Set a key; may be repeated."
)
@click.option("-n", "--pairs", "count", type=WholeNumber(1, 1000), default=16, help="How many.")
@click.option(
    *("-o", "--output"), type=OUTPUT, default=Path("preview.html"), help="The page, a file."
)
def preview(
    directory: str, config: str | None, settings: tuple[str, ...], count: int, output: Path
) -> None:
    """Write a page with random pairs of DIRECTORY as the trainer sees them, after augmentation."""
    from nectargan.config.config_manager import ConfigManager, parse_override
    from nectargan.data_preview import write_preview

    overrides = [*map(parse_override, settings), ("dataloader.dataroot", directory)]
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
@click.argument("directory", type=DATA)
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
    from collections import Counter

    from nectargan.dataset.pairs import find_pairs
    from nectargan.dataset.preparing.placing import place
    from nectargan.dataset.preparing.splitting import split_pairs

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


@data.command(
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
