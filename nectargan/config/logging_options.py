"""Options of the section ``logging``: how losses and metrics are recorded, and the sinks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_serializer, field_validator, model_validator

from nectargan.config.base import DAY, Count, CountOrZero, ImportPath, Name, OnOffOrSteps, Section
from nectargan.credentials import HIDDEN, TRACKING_URIS, is_tracking_uri, public_address
from nectargan.defaults import (
    MLFLOW_EVERY_N_STEPS,
    TENSORBOARD_EVERY_N_STEPS,
    WINDOW_SECONDS,
    WINDOW_STEPS,
)
from nectargan.names import EXPERIMENT_NAMES, SINK_NAMES, is_experiment_name, is_sink_name


class TensorBoardLogging(Section):
    """The TensorBoard sink."""

    enable: bool = True
    """Whether to write event files."""
    every_n_steps: Count = TENSORBOARD_EVERY_N_STEPS
    """Steps between two points of a loss."""


class MLflowLogging(Section):
    """The MLflow sink."""

    enable: bool = True
    """Whether to log to MLflow."""
    every_n_steps: Count = MLFLOW_EVERY_N_STEPS
    """Steps between two points of a loss."""
    required: bool = False
    """Whether the run fails to start if MLflow cannot be reached. If false, everything is sent when
    MLflow can be reached again."""
    group: Name | None = None
    """Name of a parent run under which this run is listed. It is created if it does not exist."""
    system_metrics: bool = True
    """Whether to log the use of CPU, memory, disk and GPU."""
    log_model: bool = True
    """Whether to log the generator as a model at the end, from the best checkpoint if there is one,
    else from the last one."""
    register_model: Name | None = None
    """Name under which the logged model is registered in MLflow's model registry."""
    tracking_uri: str | None = None
    """Address of the server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db (SQLite) in
    the output directory. Files of the run contain only scheme, host, port and path, not the user
    and password."""
    experiment: str | None = None
    """Name of the experiment. Default: MLFLOW_EXPERIMENT_NAME, else common.experiment_name."""

    @field_serializer("tracking_uri")
    def _without_secrets(self, uri: str | None) -> str | None:
        # Applies to every copy of the config: files, checkpoints, parameters and output.
        return None if uri is None else public_address(uri)

    @field_validator("tracking_uri")
    @classmethod
    def _is_a_uri(cls, uri: str | None) -> str | None:
        if uri is None or uri == HIDDEN:
            return uri
        # Remembers the secrets of the address, so that they are removed from all messages.
        public_address(uri)
        if not is_tracking_uri(uri):
            raise ValueError(TRACKING_URIS)
        return uri

    @field_validator("experiment")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not is_experiment_name(name):
            raise ValueError(EXPERIMENT_NAMES)
        return name


class OwnSink(Section):
    """A sink of your own; see `nectargan.record.follower.Sink`."""

    function: ImportPath
    """Import path, "package.module.Name", of a class with the methods of a sink. The class is
    imported when a run starts, and by nectargan sync."""
    every_n_steps: Count = 10
    """Steps between two points of a loss."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class."""


class Logging(Section):
    """How losses and metrics are recorded."""

    csv: bool = True
    """Whether to write losses.csv, gradients.csv and metrics.csv. TensorBoard and MLflow read these
    files."""
    window_steps: Annotated[int, Field(ge=1, le=1_000_000)] = WINDOW_STEPS
    """Steps after which the losses are copied from the device and written."""
    window_seconds: Annotated[float, Field(gt=0.0, le=DAY)] = WINDOW_SECONDS
    """Seconds after which they are written even if there were fewer steps."""
    gradients: OnOffOrSteps = "on"
    """Whether to write gradients.csv, the effect of each loss on the generated images: on, off, or
    a number of steps, to measure it at the first and at every such step."""
    histogram_every_n_epochs: CountOrZero = 0
    """Epochs between two sets of histograms (generated images, weights, gradients) in TensorBoard;
    0 for none."""
    loss_map_every_n_epochs: CountOrZero = 0
    """Epochs between two heat maps of the losses per pixel; 0 for none."""
    drain_seconds: Annotated[float, Field(ge=0.0, le=DAY)] = 30.0
    """Longest time to wait at the end until TensorBoard and MLflow have received everything, in
    seconds."""
    tensorboard: TensorBoardLogging = TensorBoardLogging()
    """The TensorBoard sink."""
    mlflow: MLflowLogging = MLflowLogging()
    """The MLflow sink."""
    sinks: dict[str, OwnSink] = Field(default_factory=dict)
    """Your own sinks, each under a name of your choice."""

    @property
    def gradients_every_n_steps(self) -> int | None:
        """``gradients`` as a number of steps; ``None`` for "off"."""
        if isinstance(self.gradients, int):
            return self.gradients
        return 1 if self.gradients == "on" else None

    @field_validator("sinks")
    @classmethod
    def _have_names_of_their_own(cls, sinks: dict[str, OwnSink]) -> dict[str, OwnSink]:
        if len({name.lower() for name in sinks}) < len(sinks):
            raise ValueError("two sinks have names that differ only in upper and lower case")
        for name in sinks:
            if not is_sink_name(name):
                raise ValueError(SINK_NAMES)
        return sinks

    @model_validator(mode="after")
    def _sinks_have_a_source(self) -> Logging:
        if not self.csv and self.sinks:
            raise ValueError("csv is false, but sinks read the CSV files")
        if not self.csv and (self.tensorboard.enable or self.mlflow.enable):
            raise ValueError(
                "csv is false, but TensorBoard and MLflow read the CSV files; turn them off too"
            )
        return self
