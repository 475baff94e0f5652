"""The sinks of a run, while it is trained and afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nectargan.config.config_manager import ConfigManager
from nectargan.config.objectives import DISCRIMINATOR
from nectargan.config.schema import Config
from nectargan.credentials import without_credentials
from nectargan.errors import RunError
from nectargan.loggers.mlflow.run import check_usable, forget_run, remember_run
from nectargan.loggers.mlflow.sink import MLflowSink
from nectargan.loggers.mlflow.store import TRACKING_URI, Store, find_experiment, find_store
from nectargan.loggers.own_sinks import attach, make_sink
from nectargan.loggers.sinks_log import sinks_logged
from nectargan.loggers.tensorboard.sink import TensorBoardSink
from nectargan.record.follower import Follower, Sink
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.describe import run_facts
from nectargan.runs.params import other_params, run_params
from nectargan.runs.resume import Resumption
from nectargan.runs.training_state import Training
from nectargan.runs.trust import check_trust
from nectargan.shell import stands_for_nothing


def own_sinks(config: Config) -> list[Sink]:
    """The sinks of one's own; they do not know yet where the run is.

    Raises:
        ConfigError: one cannot be imported, refuses its arguments, or lacks a method.
    """
    return [
        make_sink(f"logging.sinks.{name}", name, each.function, each.arguments, each.every_n_steps)
        for name, each in config.logging.sinks.items()
    ]


def build_sinks(
    config: Config, directory: RunDirectory, output: Path, live: bool, own: Sequence[Sink]
) -> list[Sink]:
    """TensorBoard and MLflow, as far as they are enabled, and those of one's own.

    Args:
        config: The run's config.
        directory: The run directory.
        output: Where the database is, if the config names no tracking URI.
        live: Whether the run is trained now, on this machine.
        own: From `own_sinks`.
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
        # What the environment said when the run began is in its config.
        named, name = logging.mlflow.tracking_uri, logging.mlflow.experiment
        sinks.append(
            MLflowSink(
                find_store(named, output, is_new=False).uri,
                find_experiment(name, config.common.experiment_name, is_new=False),
                directory,
                run_facts(config, directory, live),
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
    anew: bool = False,
    trust: bool = False,
    with_own: bool = True,
) -> dict[str, bool]:
    """Sends to the sinks of a run what they lack; they are asked. Sending it twice changes nothing.

    Args:
        directory: The directory of a run that has ended.
        tracking_uri: Of MLflow, in place of the one in the config.
        anew: Make a new MLflow run, whether there is one or not.
        trust: Import the sinks that the config names, whoever gave it.
        with_own: Whether these are meant as well.

    Returns:
        Whether anything was sent, by name of the sink.

    Raises:
        RunError: it is no run directory, or one without a config; the run is at work; a sink cannot
            be reached; or MLflow is asked for and off in the run's config.
    """
    config = config_of(directory)
    if not config.logging.mlflow.enable and (anew or tracking_uri is not None):
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
        status, reason = directory.end_status()
        if anew:
            forget_run(directory)
        for sink in build_sinks(config, directory, directory.parent, False, own):
            follower = Follower(sink, directory, go_on=True)
            try:
                sent[sink.name] = follower.lacks_something(status)
                if sent[sink.name]:
                    follower.catch_up(status, reason)
            except RunError as error:
                told = str(error).rstrip(".")
                raise RunError(f"{sink.name} did not get everything: {told}.") from error
            except Exception as error:
                # A tracker, its client and its network may raise anything.
                told = without_credentials(" ".join(str(error).split()))[:300]
                raise RunError(f"{sink.name} did not get everything: {told}.") from error
    return sent


def config_of(directory: RunDirectory) -> Config:
    """The config of a run; raises `RunError` if there is none."""
    if not directory.config.is_file():
        if directory.losses.is_file():
            raise RunError(
                f"'{directory}' is a run under nectargan.track, which keeps no "
                f"{directory.config.name}: nothing says where it is logged."
            )
        raise directory.not_a_run(directory.config.name)
    return ConfigManager(directory.config).data


def output_of(config: Config, resumption: Resumption | None) -> Path:
    """The directory that a run's directory is in; raises RunError for a path such as $NOT_SET."""
    if resumption is None:
        output = config.common.output_directory
        if nothing := stands_for_nothing(output):
            raise RunError(f"No run can be made in '{output}': {nothing}.")
        return Path(output)
    return resumption.directory.parent


def choose_store(config: Config, resumption: Resumption | None) -> Store:
    """Where in MLflow a run goes; what the environment says becomes part of its config, so that
    the run is found there again.

    Raises:
        RunError: the environment holds no address or no name, or the directory has a name that
            MLflow cannot take.
    """
    options, output = config.logging.mlflow, output_of(config, resumption)
    is_new = resumption is None or not resumption.directory.mlflow_run.exists()
    store = find_store(options.tracking_uri, output, is_new)
    if options.enable and store.uri != store.uri.encode(errors="ignore").decode():
        raise RunError(
            f"MLflow can keep nothing in '{output.resolve()}', whose name is not UTF-8; name "
            "another place with --output or --mlflow-uri, or go without with --no-mlflow."
        )
    if options.tracking_uri is not None or store.why == TRACKING_URI:
        options.tracking_uri = store.uri
    name = config.common.experiment_name
    experiment = find_experiment(options.experiment, name, is_new)
    options.experiment = experiment if experiment != name else None
    return store


def check_sinks(config: Config, resumption: Resumption | None) -> None:
    """Asks each sink that the config requires whether the run can be kept there.

    Raises:
        RunError: MLflow cannot be reached, or lacks the experiment or the run because somebody
            deleted it.
    """
    options = config.logging.mlflow
    if options.enable and options.required:
        check_usable(
            find_store(options.tracking_uri, output_of(config, resumption), is_new=False).uri,
            find_experiment(options.experiment, config.common.experiment_name, is_new=False),
            None if resumption is None else resumption.directory,
        )


def remember_sinks(directory: RunDirectory, training: Training) -> None:
    """Writes into a run directory what a checkpoint knows of the run in its sinks; raises OSError.

    Args:
        directory: The run directory.
        training: The section "training" of the checkpoint.
    """
    remember_run(directory, training.mlflow.run_id if training.mlflow else None)
