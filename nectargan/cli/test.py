"""``nectargan test``: measures trained generators on a data set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nectargan.cli.common import LongCommand, WholeNumber, dropout_seed, speak_for
from nectargan.cli.options import option
from nectargan.cli.paths import DATA, UserPath
from nectargan.cli.progress import progress_bar
from nectargan.distributed import World, joined
from nectargan.errors import ConfigError
from nectargan.metrics import METRICS, label_of
from nectargan.output import make_console, say

if TYPE_CHECKING:
    from rich.table import Table

    from nectargan.inference.testing import Protocol, Tested
    from nectargan.record.run_directory import RunDirectory

_DEFAULT = ",".join(name for name in METRICS if name != "lpips_vgg")
_FOLDER = UserPath()


@click.command(
    cls=LongCommand,
    examples=(
        "nectargan test runs/facades_v1 -d data/facades",
        "nectargan test runs/facades_v* -d data/facades --metrics lpips,kid --weights weights",
        "nectargan test runs/facades_v1 -d data/facades --protocol pix2pix",
    ),
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@option(
    *("-d", "--data"), required=True, type=DATA, metavar="DATA", help="Data set, as for training."
)
@option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Split of the data set.",
)
@option(
    "--metrics",
    default=_DEFAULT,
    metavar="NAMES",
    help=f"Metrics, separated by commas: {', '.join(METRICS)}, or import paths of your own.",
    show_default="all but lpips_vgg",
)
@option(
    "--weights",
    type=_FOLDER,
    metavar="DIR",
    help="Folder with the weights for LPIPS, DISTS, FID and KID.",
)
@option(
    "--protocol",
    type=click.Choice(["pix2pix"]),
    help="As in the pix2pix paper: with dropout, on single images of 256 x 256.",
)
@option(
    "--size", metavar="H[xW]", help="Resize images to this size.  [default: the size in training]"
)
@option("--dropout", is_flag=True, help="Keep dropout active.")
@option(
    "--seed",
    type=WholeNumber(min=0, max=2**31),
    show_default="0",
    help="Random seed for --dropout.",
)
@option(
    "--checkpoint",
    metavar="NAME",
    help="Checkpoint of run directories: best, last, epoch_0100, ...",
)
@option("--device", default="auto", help="auto, cpu, mps, cuda or cuda:N.")
@option("--trust", is_flag=True, help="Import a custom generator from a run of another user.")
@option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)
def test(models: tuple[str, ...], **options: Any) -> None:
    """Measure the quality of each MODEL on the images of a data set.

    MODEL is the same as for nectargan apply. For a run directory, the values of each image are
    written to test/SPLIT.csv in it, the images with the best and worst values to test/SPLIT, and
    the summary to test/SPLIT.json and its MLflow run. Intervals are bootstrap 95 % intervals over
    the images. Several models are compared on the same images: by their difference to the best
    model, with its interval, and the probability of being better.
    """
    with joined() as world:
        speak_for(world)
        _test(models, options, world)


def _test(models: tuple[str, ...], options: Mapping[str, Any], world: World) -> None:
    # Imported here, because torch takes a second to import and help texts do not need it.
    from nectargan.dataset.data_check import check_data
    from nectargan.dataset.shard_names import name_of
    from nectargan.inference import rulers, testing
    from nectargan.inference.model import load_model
    from nectargan.runs.describe import digest_of_pairs

    chosen = rulers.select_metrics(options["metrics"])
    if options["weights"] is not None and not Path(options["weights"]).is_dir():
        raise ConfigError(f"--weights is '{options['weights']}', which is not a directory.")
    protocol, root, name = _protocol(options), options["data"], options["split"]
    how = {
        "checkpoint": options["checkpoint"],
        "device": world.choose_device(options["device"]),
        "trust": options["trust"],
    }
    loaded = [load_model(model, dropout=protocol.dropout, **how) for model in models]
    testing.check_comparable(loaded, protocol)
    channels = loaded[0].config.dataloader.channels_of_sides
    split = world.from_main(lambda: check_data(root, (name,), (), channels)[name])
    size = testing.size_of(loaded[0], protocol)
    metrics = rulers.build_chosen(chosen, loaded[0], size)
    count, device = len(split.pairs), loaded[0].device
    shape = (loaded[0].out_channels, *size)
    ruler = rulers.open_ruler(metrics, options["weights"], shape, count, device)
    for sentence in ruler.left_out:
        say(sentence, err=True)
    dataset = name_of(root), world.from_main(lambda: digest_of_pairs(split.pairs, root))
    world.use(device)
    own = len(range(count)[world.slice_of(count)])
    with progress_bar(own * len(loaded) if world.is_main else 0, "images") as advance:
        tested = [
            testing.measure(model, split, ruler, protocol, dataset, advance=advance, world=world)
            for model in loaded
        ]
    if world.is_main:
        kept = _keep(tested)
        _print(tested, options["form"])
        for run in kept if options["form"] == "table" else ():
            say(f"Wrote {run.test_values(name)}")


def _protocol(options: Mapping[str, Any]) -> Protocol:
    from nectargan.inference.testing import PIX2PIX_SIDE, Protocol

    is_paper = options["protocol"] == "pix2pix"
    if is_paper and options["size"]:
        raise ConfigError("--protocol pix2pix uses images of 256 x 256; leave out --size.")
    has_dropout = is_paper or options["dropout"]
    return Protocol(
        (PIX2PIX_SIDE, PIX2PIX_SIDE) if is_paper else _size(options["size"]),
        has_dropout,
        options["protocol"],
        dropout_seed(options["seed"], has_dropout),
    )


def _keep(tested: list[Tested]) -> list[RunDirectory]:
    """Writes what was measured into the run directories of the models; returns these."""
    from nectargan.record.test_record import write_test
    from nectargan.runs.test_metrics import send_test
    from nectargan.trainers.validation import View

    kept: list[RunDirectory] = []
    runs = [each.model.run.resolve() for each in tested if each.model.run is not None]
    for each in tested:
        run, model = each.model.run, each.model
        if run is not None and runs.count(run.resolve()) > 1:
            say(f"Not kept, as '{run}' was named more than once: {model.name}.", err=True)
        elif run is not None:
            kept.append(run)
            lists = {name: values.tolist() for name, values in each.values.items()}
            write_test(run, each.record, each.names, lists)
            view = View(**dict(model.config.save.view))
            each.extremes.save(run, each.record.split, view)
            if model.checkpoint is not None:
                send_test(run, model.config, each.record, model.checkpoint)
    return kept


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None or 0 in (sides := (int(match[1]), int(match[2] or match[1]))):
        raise ConfigError(
            f"--size is '{text}'; allowed: 1 to 99999 pixels, as 256 or 256x512 (H x W)."
        )
    return sides


def _print(tested: list[Tested], form: str) -> None:
    if form == "json":
        found = [
            {"model": t.model.name, "source": t.model.source} | asdict(t.record) for t in tested
        ]
        say(json.dumps(found, indent=4, ensure_ascii=False))
        return
    record = tested[0].record
    console = make_console()
    how = f"{record.n} images of {record.split}, {record.size[0]} x {record.size[1]}, dropout "
    say(how + ("on" if record.dropout else "off"))
    if len(tested) == 1:
        console.print(_table_of(tested[0]))
    else:
        for metric in record.metrics:
            console.print(_comparison(tested, metric))
            say("")
        say("P: probability of being better than the best model, over samples of the images.")
    for warning in record.warnings:
        say(warning, err=True)


def _table_of(tested: Tested) -> Table:
    from rich.table import Table

    table = Table("metric", "value", "95 % interval", "better")
    for name, found in tested.record.metrics.items():
        unit = f" {METRICS[name].unit}" if name in METRICS and METRICS[name].unit else ""
        ends = _ends(found.low, found.high)
        better = "higher" if found.higher_is_better else "lower"
        table.add_row(label_of(name), f"{found.value:.4g}{unit}", ends, better)
    return table


def _comparison(tested: list[Tested], metric: str) -> Table:
    """A table of the models from best to worst."""
    from rich.table import Table

    from nectargan.inference.testing import against_best

    # Without lines, so that all fits into 80 columns.
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(label_of(metric), max_width=17, overflow="fold")
    for heading in ("value", "95 % interval", "vs best", "95 % interval", "P"):
        table.add_column(heading, no_wrap=True)
    for each, than in against_best(tested, metric):
        found = each.record.metrics[metric]
        row = [each.model.name, f"{found.value:.3g}", _ends(found.low, found.high, ".3g")]
        if than is not None:
            row += [f"{than.value:+.2g}", _ends(than.low, than.high, "+.1g"), f"{than.chance:.2f}"]
        table.add_row(*row)
    return table


def _ends(low: float | None, high: float | None, form: str = ".4g") -> str:
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"
