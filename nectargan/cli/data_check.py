"""``nectargan data check`` and ``preview``: show what is in a data set."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nectargan.cli.common import ChannelList, Command, WholeNumber
from nectargan.cli.paths import DATA, OUTPUT, ConfigPath
from nectargan.cli.progress import progress_bar
from nectargan.output import say
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.dataset.suspicions import Suspicion

MOST_OF_A_KIND = 10
_CHANNELS = "Channels to read, by name or by number from 1, of"


@click.command(
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
    from nectargan.data_report import MOST_PICTURED, require_place, write_report
    from nectargan.dataset.data_check import check_data
    from nectargan.dataset.examination import Examination, kept_results
    from nectargan.dataset.pairs import unread_splits
    from nectargan.dataset.suspicions import suspicions
    from nectargan.dataset.value_statistics import describe_values

    if quick and report is not None:
        raise click.UsageError("--quick finds nothing for --report.")
    if report is not None:
        require_place(report)
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
    measured = {split: summary.pairs for split, summary in summaries.items()}
    counts = Counter[str]()
    pictured: list[Suspicion] = []
    found = _counting(suspicions(measured, examination.found), counts, pictured, MOST_PICTURED)
    for line in _json_lines(found) if as_json else _lines(found, counts):
        say(line)
    if report is not None:
        facts = " ".join(f"{summary}." for summary in summaries.values())
        write_report(pictured, counts, str(directory), facts, report)
        say(f"The findings with their pictures: {report}", err=as_json)
    if strict and counts:
        sys.exit(1)


def _counting(
    found: Iterable[Suspicion], counts: Counter[str], first: list[Suspicion], most: int
) -> Iterator[Suspicion]:
    """Passes findings on, counts them, and keeps the first ``most`` of each kind."""
    for each in found:
        counts[each.kind] += 1
        if counts[each.kind] <= most:
            first.append(each)
        yield each


def _json_lines(found: Iterable[Suspicion]) -> Iterator[str]:
    """A JSON list with one finding a line."""
    before = "["
    for each in found:
        yield before
        before = f"  {json.dumps(each.facts())},"
    yield before.removesuffix(",")
    yield "]"


def _lines(found: Iterable[Suspicion], counts: Counter[str]) -> Iterator[str]:
    """Lines with findings, and of each kind no more than a person wants to read."""
    for kind, group in groupby(found, key=lambda each: each.kind):
        for each in group:
            if counts[kind] <= MOST_OF_A_KIND:
                yield f"Finding: {each}"
        if counts[kind] > MOST_OF_A_KIND:
            yield f"and {counts[kind] - MOST_OF_A_KIND} more; --json lists all."
    if counts:
        yield f"{counted(counts.total(), 'finding')}."


@click.command(
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
