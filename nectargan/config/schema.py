"""The schema of a config: every option with its type, default and description.

An option that NectarGAN v0.2.3 had keeps its name. Types are strict (``"5"`` is not accepted for
``5``). NaN, infinity and unknown keys are rejected.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from nectargan.config.augmentation_options import Augmentations
from nectargan.config.balancing_options import BalancerConfig, share_problems, shares_of, weights_of
from nectargan.config.base import (
    DAY,
    MOST_EPOCHS,
    ChannelList,
    Channels,
    Count,
    ImageSize,
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
from nectargan.config.logging_options import Logging
from nectargan.config.loss_options import NO_LOSS, LossOption, resolve_losses
from nectargan.config.metric_options import Stop, Validation
from nectargan.config.network_options import Discriminator, Generator, PatchGAN, Unet
from nectargan.config.value_options import Transfers, ValueRange
from nectargan.errors import did_you_mean
from nectargan.metrics import USUAL_SERIES
from nectargan.wording import counted


def _one_or_three(bands: list[int]) -> list[int]:
    if len(bands) == 2:
        raise ValueError("it must have one or three channels")
    return bands


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
    """Channels of the input image: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA; up to 64 for files that
    have as many."""
    output_nc: Channels = 3
    """Channels of the target image."""
    input_channels: ChannelList | None = None
    """The channels of the input files to read, by name or by number from 1, in this order. Default:
    all."""
    target_channels: ChannelList | None = None
    """The channels of the target files to read, in the same way."""
    load_size: ImageSize | None = 286
    """Size to which images are resized before the random crop, in pixels, or [height, width]; null
    to crop images of any size without resizing them. Validation then uses the middle of each
    image."""
    crop_size: ImageSize = 256
    """Size of the random crop and of the validation images, in pixels, or [height, width]."""
    resize: Resize = "bicubic"
    """Interpolation when images are resized: "bicubic", or "nearest" for label maps, which must not
    get new colors. A list [input, target] sets it for each image."""
    invalid: Literal["refuse", "mask"] = "refuse"
    """What to do if pixels are nodata, NaN or infinite: refuse the data set, or leave these pixels
    out of losses and metrics ("mask")."""
    input_range: ValueRange = "dtype"
    """Values of the input that become -1 and 1: [low, high] in the units of the files, a list of
    such pairs for each channel, "dtype" for all values that the files can hold (needs integers), or
    "percentile 1 99" of the training images, for each channel. Values outside are clamped."""
    target_range: ValueRange = "dtype"
    """The same for the target. Generated images have its units."""
    transfer: Transfers = "linear"
    """The curve between both ends of the range: "linear", or "log", "asinh" or "gamma" for high
    dynamic range. A list [input, target] sets it for each image."""


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
    """Where decoded images are cached: "ram", "disk" (a memory-mapped temporary file), "device" or
    "off". "auto" uses the memory of the device if the images need at most a quarter of it, else RAM
    if they need at most half of it, else no cache."""
    drop_last: bool = False
    """Whether to drop the last batch of an epoch if it is smaller than batch_size."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do if an image becomes unreadable during a run: save and stop ("stop"), or continue
    without it and warn ("skip"). The run stops if more than 1 % of the images are unreadable."""
    load: Load = Load()
    """Sizes and channels."""
    augmentations: Augmentations = Augmentations()
    """Random changes to the training images."""

    @property
    def channels_of_sides(self) -> tuple[list[str | int] | None, list[str | int] | None]:
        """The channels to read of A and of B; ``None`` for all."""
        chosen = (self.load.input_channels, self.load.target_channels)
        return chosen if self.direction == "AtoB" else chosen[::-1]


class Train(Section):
    """Networks, losses and their schedules."""

    objective: Objective = "basic"
    """The set of losses: "basic" is GAN + L1, "extended" adds L2, Sobel and Laplacian, and "+vgg"
    adds a perceptual loss."""
    gan_mode: GanMode = "vanilla"
    """Adversarial loss: "vanilla" (binary cross-entropy), "lsgan" (squared error) or "hinge"."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """One-sided label smoothing: the discriminator's label of real pairs is 1 minus this value. Not
    for gan_mode "hinge", which has no labels."""
    r1_every_n_steps: Count = 16
    """Steps between two computations of the loss D_R1, whose weight is multiplied by this number
    (Karras et al. 2020). The loss is added by its weight in train.loss."""
    accumulate: Count = 1
    """Number of equal parts of each batch that are computed one after the other, to save memory.
    Each step is still one update with all pairs of the batch."""
    vgg_weights: PathText | None = None
    """File with torchvision's VGG19 weights. Default: the weights are downloaded."""
    vgg_channels: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None
    """The three channels of the target, by number from 1, that the perceptual loss compares as red,
    green and blue; needed if it has other than 1 or 3 channels."""
    init_from: PathText | None = None
    """Checkpoint, or run directory (its newest checkpoint), whose weights of both networks the run
    starts with. Nothing else is taken from it."""
    init_from_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that checkpoint. It is noted when a run starts; if it is given, another file is an
    error."""
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
    stop: Stop | None = None
    """Early stopping. Default: the run makes all its epochs."""
    compile: Annotated[Compile, BeforeValidator(on_or_off)] = "off"
    """"default" compiles both networks with torch.compile, which takes about a minute."""
    fork_from: PathText | None = None
    """Checkpoint of another run that this one is a fork of: all of its training state is taken
    over, and steps and epochs go on from there. A run directory, with or without @EPOCH, or the
    file of a checkpoint in one; --fork sets it, together with the config in the checkpoint."""
    loss: dict[str, LossOption] = Field(default_factory=dict)
    """Losses by name. A number, a schedule or a share sets the weight of a loss of the objective; a
    whole term adds or replaces a loss. Losses that are not listed keep the weight of the objective.
    "G_FM" (feature matching) can be added to any objective by its weight."""

    balancer: BalancerConfig | None = None
    """A rule that sets the weights of the generator's losses at every step from their gradients or
    values. Shares in train.loss need none."""

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
    def _has_labels_to_smooth(self) -> Train:
        if self.label_smoothing and self.gan_mode == "hinge":
            raise ValueError(
                f"label_smoothing is {self.label_smoothing:g}, but gan_mode is 'hinge', which has "
                "no labels; use 'vanilla' or 'lsgan', or label_smoothing 0"
            )
        return self

    @model_validator(mode="after")
    def _digest_is_of_something(self) -> Train:
        if self.init_from_digest is not None and self.init_from is None:
            raise ValueError("init_from_digest is given without init_from")
        return self

    @model_validator(mode="after")
    def _names_every_loss(self) -> Train:
        resolved = resolve_losses(self.objective, self.loss)
        self.loss.clear()  # changed in place, because an assignment would validate again
        self.loss.update(resolved)
        return self

    @model_validator(mode="after")
    def _shares_can_be_held(self) -> Train:
        shares = shares_of(self.loss)
        if shares and self.balancer is not None:
            raise ValueError(
                f"balancer sets the weights of all losses, and loss.{next(iter(shares))} has a "
                "share; remove one of the two"
            )
        for name, reason in share_problems(shares, weights_of(self.loss), self.epochs):
            raise PydanticCustomError(NO_LOSS, "{reason}", {"reason": reason, "loss": name})
        return self


Bands = Annotated[list[Count], Field(min_length=1, max_length=3), AfterValidator(_one_or_three)]
Percentile = Annotated[float, Field(ge=0.0, le=100.0)]


class ViewOptions(Section):
    """How images are shown in example grids and loss maps."""

    input_bands: Bands | None = None
    """The one or three channels of the input to show, by number from 1. Default: the first three,
    or the first alone if there are fewer."""
    target_bands: Bands | None = None
    """The channels of the target and of the generated image to show."""
    stretch: Annotated[list[Percentile], Field(min_length=2, max_length=2)] | None = None
    """Percentiles of the values of each channel to show as black and as white, such as [1, 99];
    those of the target are also used for the generated image. Default: the ends of the range that
    the networks see."""

    @model_validator(mode="after")
    def _percentiles_are_ordered(self) -> ViewOptions:
        if self.stretch is not None and self.stretch[0] >= self.stretch[1]:
            raise ValueError("stretch must be [low, high] with low below high")
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
    view: ViewOptions = ViewOptions()
    """How images are shown."""
    report: bool = False
    """Whether to write report.html at the end, as nectargan report does (about 5 MB), and to log it
    to MLflow."""


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
        stop = self.train.stop
        needed = {
            "save.keep_best": self.save.keep_best,
            "train.stop.metric": None if stop is None else stop.metric,
        }
        for key, metric in needed.items():
            if metric is not None and metric not in series:
                raise ValueError(
                    f"{key} is '{metric}', which is not in validation.metrics."
                    + did_you_mean(metric, series)
                )
        if self.logging.mlflow.register_model and not series:
            raise ValueError(
                "logging.mlflow.register_model needs at least one metric in validation.metrics"
            )
        return self

    @model_validator(mode="after")
    def _shown_channels_exist(self) -> Config:
        load, view = self.dataloader.load, self.save.view
        bands = {"input_bands": load.input_nc, "target_bands": load.output_nc}
        for key, count in bands.items():
            if max(getattr(view, key) or [1]) > count:
                raise ValueError(
                    f"save.view.{key} is {getattr(view, key)}, but an image has "
                    f"{counted(count, 'channel')}"
                )
        chosen = self.train.vgg_channels
        if chosen is not None and max(chosen) > load.output_nc:
            raise ValueError(
                f"train.vgg_channels is {chosen}, but dataloader.load.output_nc is {load.output_nc}"
            )
        return self

    @model_validator(mode="after")
    def _parts_of_a_batch_are_equal(self) -> Config:
        parts, pairs = self.train.accumulate, self.dataloader.batch_size
        if pairs % parts:
            raise ValueError(
                f"train.accumulate is {parts}, and dataloader.batch_size {pairs} cannot be divided "
                "into so many equal parts"
            )
        if parts > 1 and (self.train.balancer is not None or shares_of(self.train.loss)):
            raise ValueError(
                f"train.accumulate is {parts}, and weights that follow from gradients need the "
                "whole batch at once; set it to 1, or remove balancer and shares"
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
