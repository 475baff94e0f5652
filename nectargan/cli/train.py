"""``nectargan-train``: trains one run, or a sweep, from one config."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from nectargan.cli.closing import closing_lines, explanation
from nectargan.cli.common import HELP, LongCommand, WholeNumber, speak_for
from nectargan.cli.launch import LaunchOptions, launch, launch_options
from nectargan.cli.options import Setting, option, setting, settings_of
from nectargan.cli.paths import DATA, OUTPUT, ConfigPath, UserPath
from nectargan.cli.sweep import SweepOptions, run_sweep, sweep_options
from nectargan.config.choices import Objective, Precision
from nectargan.cpu import prepare
from nectargan.distributed import World, joined
from nectargan.errors import RunError
from nectargan.interrupts import stop_on_signals
from nectargan.output import say
from nectargan.version import __version__
from nectargan.wording import counted

if TYPE_CHECKING:
    from nectargan.config.schema import Config
    from nectargan.record.run_directory import RunDirectory
    from nectargan.runs.resume import Resumption
    from nectargan.runs.start import Request
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
    from nectargan.trainers.trainer import Judge

_CONFIG, _DATA, _TRAINING = "Config", "Data and output", "Training"
_SINKS, _RESUME = "MLflow and TensorBoard", "Resume and fork"

_TEXT = UserPath(as_text=True)


def _complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from nectargan.config.reference import all_keys

    return [f"{key}=" for key in all_keys() if key.startswith(incomplete)]


@click.command(
    cls=LongCommand,
    context_settings=HELP,
    examples=(
        "nectargan-train -c facades -d datasets/facades -n first",
        "nectargan-train -c facades --epochs 20 --set 'train.loss.G_L1=linear 100->10 @ 10-20'",
        "nectargan-train --resume runs/first_v1",
        "nectargan-train --fork runs/first_v1@50 --set train.loss.G_GAN=0.5",
    ),
)
@option(
    *("-c", "--config"),
    group=_CONFIG,
    type=ConfigPath(),
    metavar="CONFIG",
    help="A JSON or YAML file, or a name from 'nectargan config list'.",
)
@option(
    "--set",
    "settings",
    group=_CONFIG,
    multiple=True,
    metavar="A.B.C=VALUE",
    shell_complete=_complete_key,
    help="Set any key of the config, see 'nectargan config explain'; may be repeated.",
)
@setting(
    *("-d", "--data"),
    key="dataloader.dataroot",
    group=_DATA,
    type=DATA,
    metavar="DATA",
    help="Directory of the data set, or shards such as data/{train,val}-{000..099}.tar.",
)
@setting(
    *("-o", "--output"),
    key="common.output_directory",
    default_text="runs",
    group=_DATA,
    type=_TEXT,
    metavar="DIR",
    help="Directory in which run directories are created.",
)
@setting(
    *("-n", "--name"),
    key="common.experiment_name",
    default_text="NectarGAN",
    group=_DATA,
    metavar="NAME",
    help="Name of the experiment.",
)
@option(
    "--csv", group=_DATA, type=OUTPUT, help="At the end, write the loss history to this file too."
)
@option(
    "--epochs",
    group=_TRAINING,
    type=WholeNumber(min=1),
    metavar="N",
    help="Epochs of the run; the phases of the learning rate keep their proportion.  "
    "[train.generator.learning_rate.epochs + epochs_decay; default: 100 + 100]",
)
@setting(
    "--batch-size",
    key="dataloader.batch_size",
    default_text="1",
    group=_TRAINING,
    type=WholeNumber(min=1),
    metavar="N",
    help="Pairs per step.",
)
@setting(
    "--loss-subspec",
    key="train.objective",
    default_text="basic",
    group=_TRAINING,
    type=click.Choice(get_args(Objective)),
    help="Losses to train with.",
)
@setting(
    "--device",
    key="common.device",
    default_text="auto",
    group=_TRAINING,
    metavar="NAME",
    help="auto, cpu, mps, cuda or cuda:N.",
)
@setting(
    "--precision",
    key="common.precision",
    default_text="auto",
    group=_TRAINING,
    type=click.Choice(get_args(Precision)),
    help="Floating-point precision; auto is bf16 on a GPU that supports it, else fp32.",
)
@setting(
    "--seed",
    key="common.seed",
    default_text="0",
    group=_TRAINING,
    type=WholeNumber(min=0),
    metavar="N",
    help="Seed of all random numbers.",
)
@setting(
    "--mlflow-uri",
    key="logging.mlflow.tracking_uri",
    default_text="$MLFLOW_TRACKING_URI, else mlflow.db in --output",
    group=_SINKS,
    metavar="URI",
    help="MLflow server or database.",
)
@setting(
    "--mlflow-required",
    key="logging.mlflow.required",
    sets=True,
    group=_SINKS,
    help="Do not start if MLflow cannot be reached.",
)
@setting(
    "--no-mlflow",
    key="logging.mlflow.enable",
    sets=False,
    group=_SINKS,
    help="Do not log to MLflow.",
)
@setting(
    "--no-tensorboard",
    key="logging.tensorboard.enable",
    sets=False,
    group=_SINKS,
    help="Do not log to TensorBoard.",
)
@setting(
    "--group",
    key="logging.mlflow.group",
    group=_SINKS,
    metavar="NAME",
    help="List the run under this parent run in MLflow.",
)
@setting(
    "--register-model",
    key="logging.mlflow.register_model",
    group=_SINKS,
    metavar="NAME",
    help="Register the best generator under this name in MLflow.",
)
@option(
    "--resume",
    group=_RESUME,
    type=_TEXT,
    metavar="DIR|FILE|auto",
    help="Resume a run, or one of its checkpoints; auto: the newest unfinished run, else a new "
    "one.",
)
@option(
    "--fork",
    group=_RESUME,
    type=_TEXT,
    metavar="DIR[@EPOCH]|FILE",
    help="Start a new run from a checkpoint of another one: its last, that of EPOCH, or FILE.  "
    "[train.fork_from]",
)
@option(
    "--trust",
    group=_RESUME,
    is_flag=True,
    help="With --resume or --fork: import the functions that the config of the run names.",
)
@launch_options
@sweep_options
@click.option("--dry-run", is_flag=True, help="Only check config and data, and print the config.")
@click.version_option(__version__, prog_name="nectargan-train")
def train(
    config: str | None,
    settings: tuple[str, ...],
    epochs: int | None,
    csv: Path | None,
    resume: str | None,
    fork: str | None,
    trust: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train a generator on pairs of images, as a config describes.

    If a value is given more than once, this is the order of precedence: --sweep, other options,
    --set, config, defaults. The key of the config that an option sets is shown in brackets.
    """
    stop_on_signals()
    prepare()  # before anything imports torch
    sweep = SweepOptions(**{name: options.pop(name) for name in SweepOptions._fields})
    sweep.check(resume, csv)
    launched = LaunchOptions(**{name: options.pop(name) for name in LaunchOptions._fields})
    launched.check(bool(sweep.sweep), resume)
    given = settings_of(train, options)
    of_mlflow = [each.opts[-1] for each, _ in given if each.key.startswith("logging.mlflow.")]
    for flag in of_mlflow:
        if flag != "--no-mlflow" and "--no-mlflow" in of_mlflow:
            raise RunError(f"{flag} and --no-mlflow contradict each other; give one of them.")
    if fork is not None and resume is not None:
        raise RunError(
            "--fork and --resume contradict each other: one starts a new run, the other goes on "
            "with an old one; give one of them."
        )
    if trust and resume is None and fork is None:
        raise RunError("--trust needs --resume or --fork.")
    request = _request(config, settings, epochs, given)
    if fork is not None:
        request = request.fork(fork, trust)
    if launched.nproc is not None:
        device = options["device"] or "auto"
        if resume is None:  # an error is said once, before anything is started
            device = request.resolve().common.device
        processes = launched.processes(device)
        if processes > 1 or launched.nodes[1] > 1:
            launch(launched, processes)
            return
    with joined() as world:
        if world.size > 1 and sweep.sweep:
            raise RunError("A sweep trains each of its runs in one process; use --workers.")
        speak_for(world)
        if sweep.sweep:
            run_sweep(sweep, lambda swept: request.resolve(swept=swept), _train_grid_point, dry_run)
        else:
            _train_one(request, resume, trust, csv, dry_run, world)


def _train_one(
    request: Request,
    resume: str | None,
    trust: bool,
    csv: Path | None,
    dry_run: bool,
    world: World,
) -> None:
    def find() -> tuple[Config, Resumption | None]:
        found = (request.resolve(), None) if resume is None else request.resume(resume, trust)
        _check_csv(csv, found[0])
        return found

    wanted, resumption = world.from_main(find)
    if resumption is not None and resumption.is_finished:
        _print_finished(resumption)
        return

    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

    trainer = Pix2pixTrainer(wanted, resumption, world=world)
    if dry_run:
        _print_plan(trainer)
        return
    began = time.monotonic()
    try:
        _print_how(trainer)
        trainer.train()
    finally:
        if world.is_main and hasattr(trainer, "directory"):
            _print_end(trainer, time.monotonic() - began)
            if csv is not None and trainer.directory.losses.exists():
                from nectargan.analysis.export import export_losses

                export_losses(trainer.directory, csv)


def _print_end(trainer: Pix2pixTrainer, seconds: float) -> None:
    for line in explanation(trainer.directory):
        say(line)
    for line in closing_lines(trainer, seconds):
        say(line)


def _print_finished(resumption: Resumption) -> None:
    reason, done = resumption.stop_reason, counted(resumption.state.epoch, "epoch")
    if reason:
        way_on = "add --set train.stop=null, or a longer train.stop.patience, to train on"
        say(f"'{resumption.directory}' is finished after {done}, {reason}; {way_on}.")
    else:
        say(f"'{resumption.directory}' is finished after {done}; add --epochs N to train longer.")


def _train_grid_point(
    config: Config, resumption: Resumption | None, judge: Judge | None = None
) -> RunDirectory:
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

    trainer = Pix2pixTrainer(config, resumption)
    trainer.judge = judge
    _print_how(trainer)
    return trainer.train()


def _request(
    config: str | None,
    settings: tuple[str, ...],
    epochs: int | None,
    given: Sequence[tuple[Setting, Any]],
) -> Request:
    from nectargan.config.config_manager import parse_override
    from nectargan.runs.start import Request

    overrides = [parse_override(text) for text in settings]
    overrides += [(option.key, value) for option, value in given]
    flags = {option.key: option.opts[-1] for option, value in given}
    return Request(config, overrides, flags, epochs)


def _check_csv(csv: Path | None, config: Config) -> None:
    if csv is None:
        return
    if not config.logging.csv:
        raise RunError(f"--csv '{csv}' needs the CSV files that logging.csv=false turns off.")
    from nectargan.analysis.export import form_of

    form_of(csv)
    if csv.is_dir() or not csv.resolve().parent.is_dir():
        raise RunError(f"--csv '{csv}' is a directory, or its directory does not exist.")


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


if __name__ == "__main__":
    train()
