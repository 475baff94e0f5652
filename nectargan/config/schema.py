"""The typed model of a run: every option, its default and its meaning, and nothing else.

The names are those of NectarGAN v0.2.3 wherever the thing is the same. Values are strictly typed
(no ``"5"`` for ``5``), NaN and infinity are refused, and so is a key that is not listed here.
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
    Name,
    PathText,
    Resize,
    Section,
    Size,
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
from nectargan.errors import did_you_mean
from nectargan.imports import is_import_path
from nectargan.metrics import USUAL_SERIES
from nectargan.names import EXPERIMENT_NAMES, SINK_NAMES, is_experiment_name, is_sink_name


class Common(Section):
    """What concerns the run as a whole."""

    device: str = "auto"
    """"auto" (CUDA, else MPS, else CPU), "cpu", "mps", "cuda" or "cuda:N"."""
    precision: Precision = "auto"
    """"auto" is bf16 where a CUDA device supports it, fp32 elsewhere; fp16 uses a scaler."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of Python, NumPy, torch and the data loader."""
    deterministic: bool = False
    """Only deterministic algorithms: two runs on a CPU are then equal to the bit."""
    output_directory: PathText = "runs"
    """Where run directories are made."""
    experiment_name: Name = "NectarGAN"
    """First part of the run directory's name; also the MLflow experiment."""
    experiment_version: Count = 1
    """Lowest number to give to the run directory."""


class Load(Section):
    """How images are read."""

    input_nc: Channels = 3
    """Channels of the input image: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA."""
    output_nc: Channels = 3
    """Channels of the target image."""
    load_size: Size = 286
    """Both images are resized to this before the crop; pixels, or [height, width]."""
    crop_size: Size = 256
    """Size of the random crop, and of the images in validation; pixels, or [height, width]."""
    resize: Resize = "bicubic"
    """How both are resized: "bicubic", or "nearest", which makes no new colours (label maps); or
    [input, target]."""


class Dataloader(Section):
    """Where the images come from and how they are served."""

    dataroot: PathText = ""
    """Folder with train/ and val/ (A|B images), trainA/ and trainB/, or train/A and train/B."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which image of a pair is the input."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Pairs per step."""
    num_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Worker processes that read images which are not cached, at most four for each core; 0 reads
    in the main process."""
    cache: Annotated[Cache, BeforeValidator(on_or_off)] = "auto"
    """Where decoded images are kept: "ram", "device" or "off"; "auto" takes the device's memory if
    a quarter of it suffices, else RAM if half of it does, else reads them each time."""
    drop_last: bool = False
    """Leave out the last batch of an epoch if it is smaller than batch_size."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do with an image that cannot be read any more in mid-run: stop after saving, or skip
    it with a warning; more than a hundredth of all is never skipped."""
    load: Load = Load()
    """Sizes and channels."""
    augmentations: Augmentations = Augmentations()
    """Random changes to the training images."""


class Train(Section):
    """Networks, losses and their schedules."""

    objective: Objective = "basic"
    """"basic" is GAN + L1; "extended" adds L2, Sobel and Laplacian; "+vgg" a perceptual loss."""
    gan_mode: GanMode = "vanilla"
    """Adversarial loss: vanilla (BCE with logits), lsgan (squared) or hinge."""
    vgg_weights: PathText | None = None
    """File with torchvision's VGG19 weights; without one they are downloaded."""
    separate_lr_schedules: bool = False
    """Whether the discriminator has a learning rate of its own."""
    generator: Generator = Unet()
    """The network that makes images: a built-in one by its name, or one of one's own."""
    discriminator: Discriminator = PatchGAN()
    """The network that judges them, alike."""
    cuda_graph: Annotated[CudaGraph, BeforeValidator(on_or_off)] = "auto"
    """Capture the step in a CUDA graph and replay it: "on", "off", or "auto" for where it works (a
    CUDA device, fp32 or bf16, one process). The last, smaller batch of an epoch is not captured."""
    on_nonfinite: Literal["stop", "continue"] = "stop"
    """What to do when a loss becomes NaN or infinite, which is seen when its window ends."""
    compile: Annotated[Compile, BeforeValidator(on_or_off)] = "off"
    """"default" compiles both networks with torch.compile, which takes a minute at the start."""
    loss: dict[str, LossOption] = Field(default_factory=dict)
    """Losses by name: a number or a schedule weights one of the objective's; a whole term adds or
    replaces one. What is not named keeps the objective's weight, and is named once this is made.
    "G_FM", feature matching, may be weighted in any objective."""

    @property
    def epochs(self) -> int:
        """Length of the run in epochs."""
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
        self.loss.clear()  # in place: an assignment would validate all of this once more
        self.loss.update(resolved)
        return self


class Save(Section):
    """What a run leaves behind."""

    save_model: bool = True
    """Whether checkpoints are written."""
    model_save_rate: Count = 5
    """Epochs from one checkpoint to the next; the last epoch always has one."""
    every_minutes: Annotated[float, Field(ge=0.0, le=DAY)] = 10.0
    """Minutes from one checkpoint to the next within an epoch; 0 for none."""
    keep_last: Count | None = 5
    """How many checkpoints of epochs' ends to keep, each of which holds all that a resumed run
    needs, some 650 MB for the default networks; null for all."""
    keep_best: str | None = None
    """Also save each epoch that is the best so far by this metric, such as "val/ssim", as best.pt;
    it must be one of validation.metrics."""
    auto_increment_version: bool = True
    """Take the next free number for the run directory; else refuse one that exists."""
    save_examples: bool = True
    """Whether example grids (input, generated, target) are written."""
    example_save_rate: Count = 1
    """Epochs from one grid to the next; there is one before training as well."""
    num_examples: Annotated[int, Field(ge=1, le=1024)] = 4
    """Pairs in a grid, the same ones each time."""


class TensorBoardLogging(Section):
    """The TensorBoard sink."""

    enable: bool = True
    """Whether event files are written."""
    every_n_steps: Count = 10
    """Steps from one point of a loss to the next."""


class MLflowLogging(Section):
    """The MLflow sink."""

    enable: bool = True
    """Whether an MLflow run is made."""
    every_n_steps: Count = 50
    """Steps from one point of a loss to the next."""
    required: bool = False
    """Refuse to start if MLflow cannot be reached; else it gets everything when it is back."""
    group: Name | None = None
    """Name of a parent run, made or found, below which the run is listed."""
    system_metrics: bool = True
    """Whether use of processor, memory, disk and GPU is logged as well."""
    log_model: bool = True
    """Whether the generator of the best checkpoint, or of the last, is logged as a model at the
    end."""
    register_model: Name | None = None
    """Name in MLflow's model registry under which that model is registered."""
    tracking_uri: str | None = None
    """Server or database; without one, that in MLFLOW_TRACKING_URI, else mlflow.db (SQLite) in the
    output directory. Only scheme, host, port and path are kept: user and password are not."""
    experiment: str | None = None
    """Name of the experiment; without one, that in MLFLOW_EXPERIMENT_NAME, else
    common.experiment_name."""

    @field_serializer("tracking_uri")
    def _without_secrets(self, uri: str | None) -> str | None:
        # In every copy of the config: files, checkpoints, parameters, what is printed.
        return None if uri is None else public_address(uri)

    @field_validator("tracking_uri")
    @classmethod
    def _is_a_uri(cls, uri: str | None) -> str | None:
        if uri is None or uri == HIDDEN:
            return uri
        # Also so that its secrets are known to whatever is written or shown from now on.
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

    function: str
    """Import path, "package.module.Name", of a class with the methods of a sink. It is imported
    when a run begins, and by nectargan sync."""
    every_n_steps: Count = 10
    """Steps from one point of a loss to the next."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class."""

    @field_validator("function")
    @classmethod
    def _is_an_import_path(cls, path: str) -> str:
        if not is_import_path(path):
            raise ValueError("it must have the form package.module.Name")
        return path


class Logging(Section):
    """Where the losses go."""

    csv: bool = True
    """losses.csv and metrics.csv; TensorBoard and MLflow are fed from them."""
    window_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Steps after which losses are brought from the device and written."""
    window_seconds: Annotated[float, Field(gt=0.0, le=DAY)] = 2.0
    """Seconds after which they are written even if fewer steps were made."""
    histogram_every_n_epochs: CountOrZero = 0
    """Epochs from one set of histograms (generated images, weights, gradients) to the next, for
    TensorBoard; 0 for none."""
    loss_map_every_n_epochs: CountOrZero = 0
    """Epochs from one heat map of the losses per pixel to the next; 0 for none."""
    drain_seconds: Annotated[float, Field(ge=0.0, le=DAY)] = 30.0
    """Longest time to wait at the end for TensorBoard and MLflow to have everything."""
    tensorboard: TensorBoardLogging = TensorBoardLogging()
    """The TensorBoard sink."""
    mlflow: MLflowLogging = MLflowLogging()
    """The MLflow sink."""
    sinks: dict[str, OwnSink] = Field(default_factory=dict)
    """Sinks of your own by any name."""

    @field_validator("sinks")
    @classmethod
    def _have_names_of_their_own(cls, sinks: dict[str, OwnSink]) -> dict[str, OwnSink]:
        if len({name.lower() for name in sinks}) < len(sinks):
            raise ValueError("two sinks have names that differ in nothing but capitals")
        for name in sinks:
            if not is_sink_name(name):
                raise ValueError(SINK_NAMES)
        return sinks

    @model_validator(mode="after")
    def _sinks_have_a_source(self) -> Logging:
        if not self.csv and self.sinks:
            raise ValueError("csv is false, but sinks are fed from the CSV files")
        if not self.csv and (self.tensorboard.enable or self.mlflow.enable):
            raise ValueError(
                "csv is false, but TensorBoard and MLflow are fed from the CSV files; "
                "turn these off as well"
            )
        return self


class Config(Section):
    """A whole run."""

    schema_version: Literal[1] = 1
    """Version of this layout; v0.2.3 files have none and are migrated."""
    common: Common = Common()
    """The run as a whole."""
    dataloader: Dataloader = Dataloader()
    """Images."""
    train: Train = Train()
    """Networks, losses and schedules."""
    validation: Validation = Validation()
    """Metrics."""
    save: Save = Save()
    """Files."""
    logging: Logging = Logging()
    """Record."""

    @property
    def best_by(self) -> str | None:
        """The metric by which an epoch is the best; a model to be registered needs one."""
        return self.save.keep_best or (
            self.judged_by if self.logging.mlflow.register_model else None
        )

    @property
    def judged_by(self) -> str | None:
        """The metric by which a run is judged where nobody says by which; ``None`` without any."""
        series = self.validation.series
        return USUAL_SERIES if USUAL_SERIES in series else next(iter(series), None)

    @model_validator(mode="after")
    def _what_is_best_is_measured(self) -> Config:
        series = self.validation.series
        if self.save.keep_best is not None and self.save.keep_best not in series:
            raise ValueError(
                f"save.keep_best is '{self.save.keep_best}', which is not measured."
                + did_you_mean(self.save.keep_best, series)
            )
        if self.logging.mlflow.register_model and not series:
            raise ValueError("logging.mlflow.register_model needs one of validation.metrics")
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
