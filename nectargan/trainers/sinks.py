"""The sinks of a run, while it is trained and afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.credentials import HIDDEN, without_credentials
from nectargan.errors import RunError
from nectargan.files import replacing
from nectargan.loggers.base import Follower, Sink
from nectargan.loggers.mlflow import MLflowSink, default_tracking_uri
from nectargan.loggers.run_directory import CONFIG_FILE, end_of, locked
from nectargan.loggers.tensorboard import TensorBoardSink
from nectargan.trainers.resumption import flatten

TAGS_FILE = "tags.json"


def build_sinks(
    config: Config, directory: Path, output: Path, tags: Mapping[str, str]
) -> list[Sink]:
    """TensorBoard and MLflow, as far as they are enabled.

    Args:
        config: The run's config.
        directory: The run directory.
        output: Where the database is, if the config names no tracking URI.
        tags: What MLflow is to know about the run beside its config.
    """
    logging, sinks = config.logging, list[Sink]()
    uri = logging.mlflow.tracking_uri or default_tracking_uri(output)
    if logging.mlflow.enable and HIDDEN in uri:
        raise RunError(
            f"MLflow's address '{uri}' was kept without its user and password; give it again with "
            "--mlflow-uri."
        )
    if logging.tensorboard.enable:
        every = logging.tensorboard.every_n_steps
        sinks.append(TensorBoardSink(directory / "tensorboard", every))
    if logging.mlflow.enable:
        sinks.append(
            MLflowSink(
                uri,
                config.common.experiment_name,
                directory,
                params=flatten(config.model_dump(mode="json", exclude_none=True)),
                tags=tags,
                every_n_steps=logging.mlflow.every_n_steps,
            )
        )
    return sinks


def save_tags(directory: Path, tags: Mapping[str, str]) -> None:
    """Keeps the tags of a run, for `synchronize`; raises OSError."""
    with replacing(directory / TAGS_FILE) as part:
        part.write_text(json.dumps(dict(tags), indent=4), encoding="utf-8")


def synchronize(directory: Path, tracking_uri: str | None = None) -> dict[str, bool]:
    """Sends to the sinks of a run what they lack. Sending it twice changes nothing.

    Args:
        directory: The directory of a run that has ended.
        tracking_uri: Of MLflow, in place of the one in the config.

    Returns:
        Whether anything was sent, by name of the sink.

    Raises:
        RunError: it is no run directory, the run is at work, or a sink cannot be reached.
    """
    config = _config_of(directory)
    if tracking_uri is not None:
        overrides = [("logging.mlflow.tracking_uri", tracking_uri)]
        config = ConfigManager(directory / CONFIG_FILE, overrides).data
    sent = {}
    with locked(directory):
        status, reason = end_of(directory)
        tags = _read_tags(directory)
        for sink in build_sinks(config, directory, directory.parent, tags):
            follower = Follower(sink, directory)
            sent[sink.name] = follower.is_behind
            if not follower.is_behind:
                continue
            try:
                Follower(sink, directory, go_on=True).catch_up(status, reason)
            except Exception as error:
                # A tracker, its client and its network may raise anything.
                told = without_credentials(" ".join(str(error).split()))[:300]
                raise RunError(f"{sink.name} did not get everything: {told}.") from error
    return sent


def _config_of(directory: Path) -> Config:
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise RunError(f"'{directory}' is no run directory: it has no {CONFIG_FILE}.")
    return ConfigManager(path).data


def _read_tags(directory: Path) -> dict[str, str]:
    try:
        tags = json.loads((directory / TAGS_FILE).read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in tags.items()}
    except (OSError, ValueError, AttributeError):
        return {}
