"""The schema of a config: every option with its type, default and description.

An option that NectarGAN v0.2.3 had keeps its name. Types are strict (``"5"`` is not accepted for
``5``). NaN, infinity and unknown keys are rejected.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, field_validator, model_validator

from nectargan.config.augmentation_options import Augmentations
from nectargan.config.base import (
    DAY,
    MOST_EPOCHS,
    Channels,
    Count,
    CountOrZero,
    ImageSize,
    ImportPath,
    Name,
    PathText,
    Resize,
    Section,
    on_or_off,
)
from nectargan.config.choices import (
    Cache,
    Compile,
    CudaGraph,
    GanMode,
    Objective,
    Precision,
)
from nectargan.config.loss_options import LossOption, resolve_losses
from nectargan.config.metric_options import Validation
from nectargan.config.network_options import Discriminator, Generator, PatchGAN, Unet
from nectargan.credentials import HIDDEN, TRACKING_URIS, is_tracking_uri, public_address
from nectargan.defaults import (
    MLFLOW_EVERY_N_STEPS,
    TENSORBOARD_EVERY_N_STEPS,
    WINDOW_SECONDS,
    WINDOW_STEPS,
)
from nectargan.errors import did_you_mean
from nectargan.metrics import USUAL_SERIES
from nectargan.names import EXPERIMENT_NAMES, SINK_NAMES, is_experiment_name, is_sink_name


class Common(Section):
    """Options of the run as a whole."""

    device: str = "auto"
    """"auto" (CUDA, else MPS, else CPU), "cpu", "mps", "cuda" or "cuda:N"."""
    precision: Precision = "auto"
    """Precision of the networks: "auto" is bf16 on CUDA devices that support it and fp32 elsewhere.
    "fp16" uses a gradient scaler."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of Python, NumPy, torch and the data loader."""
    deterministic: bool = False
    """Whether to use only deterministic algorithms. Two runs on the same CPU are then identical bit
    by bit."""
    output_directory: PathText = "runs"
    """Folder in which run directories are created."""
    experiment_name: Name = "NectarGAN"
    """First part of the name of the run directory; also the name of the MLflow experiment."""
    experiment_version: Count = 1
    """Lowest version number of the run directory."""


class Load(Section):
    """How images are read."""

    input_nc: Channels = 3
    """Channels of the input image: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA."""
    output_nc: Channels = 3
    """Channels of the target image."""
    load_size: ImageSize = 286
    """Size to which images are resized before the random crop, in pixels, or [height, width]."""
    crop_size: ImageSize = 256
    """Size of the random crop and of the validation images, in pixels, or [height, width]."""
    resize: Resize = "bicubic"
    """Interpolation when images are resized: "bicubic", or "nearest" for label maps, which must not
    get new colors. A list [input, target] sets it for each image."""


class Dataloader(Section):
    """Where the images come from and how they are loaded."""

    dataroot: PathText = ""
    """Folder of the data set. It contains train/ and val/ with A|B images side by side, or trainA/
    and trainB/, or train/A and train/B."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which image of a pair is the input: A ("AtoB") or B ("BtoA")."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Pairs per step."""
    num_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Worker processes that read images that are not cached; at most four per core are used. With
    0, the main process reads them."""
    cache: Annotated[Cache, BeforeValidator(on_or_off)] = "auto"
    """Where decoded images are cached: "ram", "device" or "off". "auto" uses the memory of the
    device if the images need at most a quarter of it, else RAM if they need at most half of it,
    else no cache."""
    drop_last: bool = False
    """Whether to drop the last batch of an epoch if it is smaller than batch_size."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do if an image becomes unreadable during a run: save and stop ("stop"), or continue
    without it and warn ("skip"). The run stops if more than 1 % of the images are unreadable."""
    load: Load = Load()
    """Sizes and channels."""
    augmentations: Augmentations = Augmentations()
    """Random changes to the training images."""


class Train(Section):
    """Networks, losses and their schedules."""

    objective: Objective = "basic"
    """The set of losses: "basic" is GAN + L1, "extended" adds L2, Sobel and Laplacian, and "+vgg"
    adds a perceptual loss."""
    gan_mode: GanMode = "vanilla"
    """Adversarial loss: "vanilla" (binary cross-entropy), "lsgan" (squared error) or "hinge"."""
    vgg_weights: PathText | None = None
    """File with torchvision's VGG19 weights. Default: the weights are downloaded."""
    separate_lr_schedules: bool = False
    """Whether the discriminator has its own learning rate."""
    generator: Generator = Unet()
    """The generator: a built-in network by name, or your own by import path."""
    discriminator: Discriminator = PatchGAN()
    """The discriminator: a built-in network by name, or your own by import path."""
    cuda_graph: Annotated[CudaGraph, BeforeValidator(on_or_off)] = "auto"
    """Whether to capture the step in a CUDA graph and replay it: "on", "off", or "auto" (on for a
    CUDA device, fp32 or bf16, one process). A smaller last batch of an epoch is not captured."""
    on_nonfinite: Literal["stop", "continue"] = "stop"
    """What to do if a loss becomes NaN or infinite. This is detected when the losses of a window
    are written."""
    compile: Annotated[Compile, BeforeValidator(on_or_off)] = "off"
    """"default" compiles both networks with torch.compile, which takes about a minute."""
    loss: dict[str, LossOption] = Field(default_factory=dict)
    """Losses by name. A number or a schedule sets the weight of a loss of the objective; a whole
    term adds or replaces a loss. Losses that are not listed keep the weight of the objective.
    "G_FM" (feature matching) can be added to any objective by its weight."""

    @property
    def epochs(self) -> int:
        """The length of the run in epochs."""
        return self.generator.learning_rate.epochs + self.generator.learning_rate.epochs_decay

    @model_validator(mode="after")
    def _lasts_an_epoch(self) -> Train:
        if not 1 <= self.epochs <= MOST_EPOCHS:
            bound = "at least 1" if self.epochs < 1 else f"at most {MOST_EPOCHS}"
            raise ValueError(f"generator.learning_rate epochs + epochs_decay must be {bound}")
        return self

    @model_validator(mode="after")
    def _names_every_loss(self) -> Train:
        resolved = resolve_losses(self.objective, self.loss)
        self.loss.clear()  # changed in place, because an assignment would validate again
        self.loss.update(resolved)
        return self


class Save(Section):
    """Checkpoints and example images."""

    save_model: bool = True
    """Whether to write checkpoints."""
    model_save_rate: Count = 5
    """Epochs between two checkpoints. The last epoch always writes one."""
    every_minutes: Annotated[float, Field(ge=0.0, le=DAY)] = 10.0
    """Minutes between two checkpoints within an epoch; 0 for none."""
    keep_last: Count | None = 5
    """Number of checkpoints from the end of an epoch to keep; null for all. Each one is complete
    and can be resumed (about 650 MB for the default networks)."""
    keep_best: str | None = None
    """Metric by which the best epoch is also saved as best.pt, such as "val/ssim". It must be one
    of validation.metrics."""
    auto_increment_version: bool = True
    """Whether to use the next free version number for the run directory. If false, an existing
    directory is an error."""
    save_examples: bool = True
    """Whether to write example grids (input, generated, target)."""
    example_save_rate: Count = 1
    """Epochs between two grids. The first grid is written before the training."""
    num_examples: Annotated[int, Field(ge=1, le=1024)] = 4
    """Pairs in a grid; all grids show the same pairs."""


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
    """Whether to write losses.csv and metrics.csv. TensorBoard and MLflow read these files."""
    window_steps: Annotated[int, Field(ge=1, le=1_000_000)] = WINDOW_STEPS
    """Steps after which the losses are copied from the device and written."""
    window_seconds: Annotated[float, Field(gt=0.0, le=DAY)] = WINDOW_SECONDS
    """Seconds after which they are written even if there were fewer steps."""
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


class Config(Section):
    """The config of a run."""

    schema_version: Literal[1] = 1
    """Version of this schema. Configs of v0.2.3 have no version and are migrated."""
    common: Common = Common()
    """Options of the run as a whole."""
    dataloader: Dataloader = Dataloader()
    """Where the images come from and how they are loaded."""
    train: Train = Train()
    """Networks, losses and their schedules."""
    validation: Validation = Validation()
    """How the validation images are measured."""
    save: Save = Save()
    """Checkpoints and example images."""
    logging: Logging = Logging()
    """How losses and metrics are recorded."""

    @property
    def best_by(self) -> str | None:
        """The metric that selects the best checkpoint; ``None`` if none is saved.

        A registered model is taken from the best checkpoint, so it needs such a metric too.
        """
        return self.save.keep_best or (
            self.judged_by if self.logging.mlflow.register_model else None
        )

    @property
    def judged_by(self) -> str | None:
        """The default metric for ranking runs; ``None`` if nothing is measured."""
        series = self.validation.series
        return USUAL_SERIES if USUAL_SERIES in series else next(iter(series), None)

    @model_validator(mode="after")
    def _what_is_best_is_measured(self) -> Config:
        series = self.validation.series
        if self.save.keep_best is not None and self.save.keep_best not in series:
            raise ValueError(
                f"save.keep_best is '{self.save.keep_best}', which is not in validation.metrics."
                + did_you_mean(self.save.keep_best, series)
            )
        if self.logging.mlflow.register_model and not series:
            raise ValueError(
                "logging.mlflow.register_model needs at least one metric in validation.metrics"
            )
        return self

    @model_validator(mode="after")
    def _what_is_registered_is_made(self) -> Config:
        mlflow = self.logging.mlflow
        makes = mlflow.enable and mlflow.log_model and self.save.save_model
        if mlflow.register_model and not makes:
            raise ValueError(
                "logging.mlflow.register_model needs logging.mlflow.enable, "
                "logging.mlflow.log_model and save.save_model"
            )
        return self
