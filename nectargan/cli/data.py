"""``nectargan data``: draws, prepares and checks data sets."""

from __future__ import annotations

from pathlib import Path

import click

from nectargan.cli.common import Command, LongCommand
from nectargan.cli.data_check import check, preview
from nectargan.cli.data_prepare import crop, divide, pair
from nectargan.cli.paths import OUTPUT
from nectargan.cli.progress import transfer_bar
from nectargan.output import say
from nectargan.shell import quoted
from nectargan.wording import counted


@click.group()
def data() -> None:
    """Draw, download, prepare and check data sets."""


for _each in (check, preview, pair, divide, crop):
    data.add_command(_each)


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
