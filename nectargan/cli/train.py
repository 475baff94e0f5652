"""``nectargan-train``: one run from one config."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from nectargan.cli.closing import closing_lines
from nectargan.cli.common import HELP, LongCommand, WholeNumber
from nectargan.cli.paths import OUTPUT, ConfigPath, UserPath
from nectargan.cli.sweep import SweepOptions, run_sweep, sweep_options
from nectargan.config.choices import Objective, Precision
from nectargan.cpu import prepare
from nectargan.errors import RunError
from nectargan.files import replacing
from nectargan.interrupts import stop_on_signals
from nectargan.output import say
from nectargan.version import __version__
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.config.schema import Config
    from nectargan.runs.resume import Resumption
    from nectargan.runs.start import Request
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

_INPUT, _TEXT = UserPath(is_pattern_too=True, as_text=True), UserPath(as_text=True)

# Options that stand for one key of the config.
_KEYS = {
    "data": "dataloader.dataroot",
    "output": "common.output_directory",
    "name": "common.experiment_name",
    "batch_size": "dataloader.batch_size",
    "device": "common.device",
    "precision": "common.precision",
    "seed": "common.seed",
    "loss_subspec": "train.objective",
    "mlflow_uri": "logging.mlflow.tracking_uri",
    "group": "logging.mlflow.group",
    "register_model": "logging.mlflow.register_model",
}


@click.command(cls=LongCommand, context_settings=HELP)
@click.option("-c", "--config", type=ConfigPath(), metavar="CONFIG", help="Config.")
@click.option("-d", "--data", type=_INPUT, metavar="DIR", help="Data set.")
@click.option("-o", "--output", type=_TEXT, metavar="DIR", help="Where run directories are made.")
@click.option("-n", "--name", help="Name of the experiment.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="A.B.C=VALUE",
    help="Any option of the config; may be repeated.",
)
@click.option("--epochs", type=WholeNumber(min=1), metavar="N", help="Length of the run.")
@click.option("--batch-size", type=WholeNumber(min=1), metavar="N", help="Pairs per step.")
@click.option("--device", help="auto, cpu, mps, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Number format.")
@click.option("--seed", type=WholeNumber(min=0), help="Seed of everything random.")
@click.option("--loss-subspec", type=click.Choice(get_args(Objective)), help="Objective.")
@click.option("--mlflow-uri", metavar="URI", help="MLflow server or database.")
@click.option("--group", metavar="NAME", help="List the run under this parent run in MLflow.")
@click.option("--register-model", metavar="NAME", help="Register the best generator in MLflow.")
@click.option("--mlflow-required", is_flag=True, help="Refuse to start if MLflow is away.")
@click.option("--no-mlflow", is_flag=True, help="Do not log to MLflow.")
@click.option("--no-tensorboard", is_flag=True, help="Do not log to TensorBoard.")
@click.option("--csv", type=OUTPUT, help="At the end, write the loss history here too.")
@click.option(
    "--resume",
    type=_TEXT,
    metavar="DIR|FILE|auto",
    help="Go on with a run, or from a checkpoint in it; auto: with the newest unfinished one, or "
    "start one.",
)
@click.option(
    "--trust", is_flag=True, help="With --resume: import the losses that the run's config names."
)
@sweep_options
@click.option("--dry-run", is_flag=True, help="Check config and data, print the config, stop.")
@click.version_option(__version__, prog_name="nectargan-train")
def train(
    config: str | None,
    settings: tuple[str, ...],
    epochs: int | None,
    mlflow_required: bool,
    no_mlflow: bool,
    no_tensorboard: bool,
    csv: Path | None,
    resume: str | None,
    trust: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train a generator on pairs of images.

    An option here goes before --set, --set before the config file, the file before the defaults;
    --sweep goes before them all.
    """
    stop_on_signals()
    prepare()  # before anything imports torch
    sweep = SweepOptions(**{name: options.pop(name) for name in SweepOptions._fields})
    sweep.check(resume, csv)
    request = _request(
        config, settings, epochs, mlflow_required, no_mlflow, no_tensorboard, options
    )
    if sweep.sweep:
        run_sweep(sweep, lambda swept: request.resolve(swept=swept), _train_cell, dry_run)
        return
    if trust and resume is None:
        raise RunError("--trust says nothing without --resume.")
    if resume is None:
        wanted, resumption = request.resolve(), None
    else:
        wanted, resumption = request.resume(resume, trust)
    _check_csv(csv, wanted)
    if resumption is not None and resumption.is_finished:
        length = counted(resumption.config.train.epochs, "epoch")
        say(f"'{resumption.directory}' is finished after {length}; add --epochs N to go on.")
        return

    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

    trainer = Pix2pixTrainer(wanted, resumption)
    if dry_run:
        _print_plan(trainer)
        return
    began = time.monotonic()
    try:
        _train(trainer)
    finally:
        if hasattr(trainer, "directory"):
            for line in closing_lines(trainer, time.monotonic() - began):
                say(line)
            losses = trainer.directory / "losses.csv"
            if csv is not None and losses.exists():
                _copy_csv(losses, csv)


def _train(trainer: Pix2pixTrainer) -> Path:
    _print_how(trainer)
    return trainer.train()


def _train_cell(config: Config, resumption: Resumption | None) -> Path:
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

    return _train(Pix2pixTrainer(config, resumption))


def _request(
    config: str | None,
    settings: tuple[str, ...],
    epochs: int | None,
    mlflow_required: bool,
    no_mlflow: bool,
    no_tensorboard: bool,
    options: dict[str, Any],
) -> Request:
    from nectargan.config.config_manager import parse_override
    from nectargan.runs.start import Request

    overrides = [parse_override(text) for text in settings]
    given = {name: value for name, value in options.items() if value is not None}
    overrides += [(_KEYS[name], value) for name, value in given.items()]
    flags = {_KEYS[name]: f"--{name.replace('_', '-')}" for name in given}
    if mlflow_required and no_mlflow:
        raise RunError("--mlflow-required and --no-mlflow contradict each other; give one of them.")
    if mlflow_required:
        overrides.append(("logging.mlflow.required", True))
    if no_mlflow:
        overrides.append(("logging.mlflow.enable", False))
    if no_tensorboard:
        overrides.append(("logging.tensorboard.enable", False))
    return Request(config, overrides, flags, epochs)


def _check_csv(csv: Path | None, config: Config) -> None:
    if csv is None:
        return
    if not config.logging.csv:
        raise RunError(f"--csv '{csv}' needs the record that logging.csv=false turns off.")
    from nectargan.analysis.export import form_of

    form_of(csv)
    if csv.is_dir() or not csv.resolve().parent.is_dir():
        raise RunError(f"--csv '{csv}' is a directory, or lies in none that exists.")


def _print_plan(trainer: Pix2pixTrainer) -> None:
    say(trainer.config.model_dump_json(indent=4))
    for summary in trainer.data.splits.values():
        say(str(summary))
    _print_how(trainer)
    say("Nothing was written.")


def _print_how(trainer: Pix2pixTrainer) -> None:
    for line in (trainer.describe(), trainer.describe_store()):
        if line:
            say(line)


def _copy_csv(losses: Path, csv: Path) -> None:
    from nectargan.analysis.export import Form, export_losses, form_of

    if form_of(csv) != Form(","):
        export_losses(losses.parent, csv)
        return
    try:
        with replacing(csv) as part:
            shutil.copyfile(losses, part)
    except OSError as error:
        raise RunError(f"--csv '{csv}' cannot be written: {error.strerror}.") from None


if __name__ == "__main__":
    train()
