"""Building the sinks of a run, for training and for `nectargan sync`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nectargan.config.config_manager import ConfigManager
from nectargan.config.objectives import DISCRIMINATOR
from nectargan.config.schema import Config
from nectargan.credentials import without_credentials
from nectargan.errors import RunError
from nectargan.loggers.mlflow.run import check_usable
from nectargan.loggers.mlflow.run_file import forget_run, remember_run
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.mlflow.store import TRACKING_URI, Store, find_experiment, find_store
from nectargan.loggers.own_sinks import attach, make_sink
from nectargan.loggers.sinks_log import sinks_logged
from nectargan.loggers.tensorboard.sink import TensorBoardSink
from nectargan.record.follower import Follower, Sink
from nectargan.record.output_directory import not_a_run
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.describe import run_metadata
from nectargan.runs.params import other_params, run_params
from nectargan.runs.resume import Resumption
from nectargan.runs.training_state import Training
from nectargan.runs.trust import check_trust
from nectargan.shell import stands_for_nothing
from nectargan.wording import one_line


def own_sinks(config: Config) -> list[Sink]:
    """Creates the user's sinks in ``logging.sinks``; `build_sinks` attaches the run directory.

    Raises:
        ConfigError: a sink cannot be imported, does not accept its arguments, or lacks a method.
    """
    return [
        make_sink(f"logging.sinks.{name}", name, each.function, each.arguments, each.every_n_steps)
        for name, each in config.logging.sinks.items()
    ]


def build_sinks(
    config: Config, directory: RunDirectory, output: Path, live: bool, own: Sequence[Sink]
) -> list[Sink]:
    """The sinks for TensorBoard and MLflow, if they are enabled, and the user's sinks.

    Args:
        config: The config of the run.
        directory: The run directory.
        output: Directory of the MLflow database, if the config has no tracking URI.
        live: Whether the run is being trained in this process.
        own: The user's sinks, from `own_sinks`.
    """
    logging, sinks = config.logging, list[Sink]()
    if logging.tensorboard.enable:
        sinks.append(
            TensorBoardSink(
                directory.tensorboard,
                logging.tensorboard.every_n_steps,
                DISCRIMINATOR,
                run_params(config),
                other_params(config),
            )
        )
    if logging.mlflow.enable:
        # MLflow's environment variables were resolved into the config when the run started.
        named, name = logging.mlflow.tracking_uri, logging.mlflow.experiment
        sinks.append(
            MLflowSink(
                find_store(named, output, is_new=False).uri,
                find_experiment(name, config.common.experiment_name, is_new=False),
                directory,
                run_metadata(config, directory, live),
                every_n_steps=logging.mlflow.every_n_steps,
                group=logging.mlflow.group,
                system_metrics=live and logging.mlflow.system_metrics,
                register_model=logging.mlflow.register_model,
            )
        )
    return [*sinks, *(attach(each, directory) for each in own)]


def synchronize(
    directory: RunDirectory,
    tracking_uri: str | None = None,
    new_run: bool = False,
    trust: bool = False,
    with_own: bool = True,
) -> dict[str, bool]:
    """Sends everything that is missing to the sinks of a run. A second call changes nothing.

    Args:
        directory: The directory of a run that has ended.
        tracking_uri: MLflow server or database to use instead of the one in the config.
        new_run: Create a new MLflow run even if there is one.
        trust: Import the user's sinks in the config without asking who wrote it.
        with_own: Whether to include the user's sinks.

    Returns:
        Whether anything was missing, by name of the sink.

    Raises:
        RunError: this is not a run directory, or it has no config; the run is in use; a sink cannot
            be reached; or ``new_run`` or ``tracking_uri`` is given but MLflow is off in the config.
    """
    config = config_of(directory)
    if not config.logging.mlflow.enable and (new_run or tracking_uri is not None):
        raise RunError(
            f"'{directory}' does not log to MLflow: logging.mlflow.enable is false in its config."
        )
    if tracking_uri is not None:
        overrides = [("logging.mlflow.tracking_uri", tracking_uri)]
        config = ConfigManager(directory.config, overrides).data
    if with_own and config.logging.sinks and not trust:
        check_trust(directory, config.model_dump(mode="json"), "add --trust")
    own, sent = own_sinks(config) if with_own else [], dict[str, bool]()
    with directory.lock(), sinks_logged(directory):
        status, why = directory.end_status()
        if new_run:
            forget_run(directory)
        for sink in build_sinks(config, directory, directory.parent, False, own):
            follower = Follower(sink, directory, resume=True)
            try:
                sent[sink.name] = follower.lacks_something(status)
                if sent[sink.name]:
                    follower.catch_up(status, why)
            except RunError as error:
                reason = str(error).rstrip(".")
                raise RunError(f"{sink.name} did not get everything: {reason}.") from error
            except Exception as error:
                # A tracker, its client and its network may raise anything.
                reason = without_credentials(one_line(error))[:300]
                raise RunError(f"{sink.name} did not get everything: {reason}.") from error
    return sent


def config_of(directory: RunDirectory) -> Config:
    """The config of a run; raises `RunError` if there is none."""
    if not directory.config.is_file():
        if directory.losses.is_file():
            raise RunError(
                f"'{directory}' was recorded by nectargan.track, which writes no "
                f"{directory.config.name}, so it is not known where it is logged."
            )
        raise not_a_run(directory, directory.config.name)
    return ConfigManager(directory.config).data


def output_of(config: Config, resumption: Resumption | None) -> Path:
    """The directory of the run directories; raises `RunError` for a path such as $NOT_SET."""
    if resumption is None:
        output = config.common.output_directory
        if nothing := stands_for_nothing(output):
            raise RunError(f"No run can be created in '{output}': {nothing}.")
        return Path(output)
    return resumption.directory.parent


def choose_store(config: Config, resumption: Resumption | None) -> Store:
    """Determines the MLflow server or database of a run. Values from environment variables become
    part of the config, so that the run is found again.

    Raises:
        RunError: an environment variable has an invalid value, or MLflow does not accept the name
            of the directory.
    """
    options, output = config.logging.mlflow, output_of(config, resumption)
    is_new = resumption is None or not resumption.directory.mlflow_run.exists()
    store = find_store(options.tracking_uri, output, is_new)
    if options.enable and store.uri != store.uri.encode(errors="ignore").decode():
        raise RunError(
            f"MLflow cannot write to '{output.resolve()}', whose name is not UTF-8; give "
            "another place with --output or --mlflow-uri, or turn MLflow off with --no-mlflow."
        )
    if options.tracking_uri is not None or store.why == TRACKING_URI:
        options.tracking_uri = store.uri
    name = config.common.experiment_name
    experiment = find_experiment(options.experiment, name, is_new)
    options.experiment = experiment if experiment != name else None
    return store


def check_sinks(config: Config, resumption: Resumption | None) -> None:
    """Checks that the run can be logged to MLflow, if the config requires it.

    Raises:
        RunError: MLflow cannot be reached, or the experiment or the run was deleted.
    """
    options = config.logging.mlflow
    if options.enable and options.required:
        check_usable(
            find_store(options.tracking_uri, output_of(config, resumption), is_new=False).uri,
            find_experiment(options.experiment, config.common.experiment_name, is_new=False),
            None if resumption is None else resumption.directory,
        )


def remember_sinks(directory: RunDirectory, training: Training) -> None:
    """Writes the id of the MLflow run in a checkpoint to the run directory, if the directory has
    none; raises OSError.

    Args:
        directory: The run directory.
        training: The section "training" of the checkpoint.
    """
    remember_run(directory, training.mlflow.run_id if training.mlflow else None)
