"""The typed model of a run: every option, its default and its meaning, and nothing else.

The names are those of NectarGAN v0.2.3 wherever the thing is the same. Values are strictly typed
(no ``"5"`` for ``5``), NaN and infinity are refused, and so is a key that is not listed here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from nectargan.config.choices import GanMode, Norm, Objective, Precision
from nectargan.errors import NectarGANError
from nectargan.scheduling.data import Schedule

_TRACKING_URI = re.compile(
    r"(https?|postgresql(\+\w+)?|mysql(\+\w+)?|mssql(\+\w+)?)://.|sqlite:///.|databricks(://.|$)"
)


def _size(value: object) -> object:
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    good = len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)
    if not good:
        raise ValueError("it must be a whole number of pixels above 0, or [height, width]")
    return list(value) if isinstance(value, (list, tuple)) else value


def _text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


Chance = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Channels = Annotated[int, Field(ge=1, le=4)]
Size = Annotated[int | list[int], BeforeValidator(_size)]
Text = Annotated[str, BeforeValidator(_text)]


class Section(BaseModel):
    """Base of all sections: strict types, no unknown keys, a description on every field."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_assignment=True,
    )


SectionT = TypeVar("SectionT", bound=Section)


class ScheduleConfig(Section):
    """A `Schedule` as a config file spells it; what is left out has the default of `Schedule`."""

    schedule: str
    """Name of a built-in schedule, such as "linear"."""
    start_epoch: float | None = None
    """Last epoch with the initial value; epochs count from 1."""
    end_epoch: float | None = None
    """First epoch with the target value."""
    initial_value: float | None = None
    """Value up to and in start_epoch."""
    target_value: float | None = None
    """Value from end_epoch on."""
    interval: Literal["epoch", "step"] | None = None
    """Whether the value changes between epochs or moves with every step."""
    power: float | None = None
    """Exponent of "polynomial"."""
    cycles: int | None = None
    """Number of cycles of "cyclical"."""
    ramp: float | None = None
    """Part of a cycle that the ramp of "cyclical" takes, in (0, 1]."""
    steps: int | None = None
    """Number of jumps of "step"."""
    points: list[list[float]] | None = None
    """[epoch, value] pairs of "piecewise"."""

    def build(self) -> Schedule:
        """The schedule itself; raises `ScheduleError` or `UnknownScheduleError`."""
        return Schedule(**self.model_dump(exclude_none=True))

    @model_validator(mode="after")
    def _can_be_built(self) -> ScheduleConfig:
        try:
            self.build()
        except NectarGANError as error:
            raise ValueError(str(error)) from None
        return self


def _weight_kind(value: object) -> str | None:
    if isinstance(value, ScheduleConfig):
        return "schedule"
    if isinstance(value, dict):
        return "schedule" if "schedule" in value else "term"
    if type(value) in (int, float):
        return "number"
    return "term" if isinstance(value, LossTerm) else None


Weight = Annotated[
    Annotated[float, Tag("number")] | Annotated[ScheduleConfig, Tag("schedule")],
    Discriminator(
        _weight_kind,
        custom_error_type="weight",
        custom_error_message="it must be a number or a schedule",
    ),
]


class LossTerm(Section):
    """A whole loss: a new one, or another function, weight or tags for a registered one."""

    function: str | None = None
    """Importable `nn.Module` class, "package.module.Class"; it gets (generated, target). May be
    left out for a loss of the objective, which then keeps its own."""
    arguments: dict[str, Any] = {}
    """Keyword arguments for that class."""
    weight: Weight = 1.0
    """Weight: a number or a schedule."""
    tags: list[str] = ["G"]
    """Labels to query the LossManager by."""


LossOption = Annotated[
    Annotated[float, Tag("number")]
    | Annotated[ScheduleConfig, Tag("schedule")]
    | Annotated[LossTerm, Tag("term")],
    Discriminator(
        _weight_kind,
        custom_error_type="loss_option",
        custom_error_message="it must be a number, a schedule or a whole term",
    ),
]


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
    output_directory: str = "runs"
    """Where run directories are made."""
    experiment_name: Text = "NectarGAN"
    """First part of the run directory's name; also the MLflow experiment."""
    experiment_version: Count = 1
    """Lowest number to give to the run directory."""

    @field_validator("experiment_name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        plain = all(c.isalnum() or c in "_-. " for c in name)
        if not plain or not name.strip() or name.startswith(".") or len(name) > 100:
            raise ValueError(
                "it must be 1 to 100 letters, digits, '_', '-', '.' or spaces, with no dot in front"
            )
        return name


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


class BothAugmentations(Section):
    """Augmentations with the same parameters for both images of a pair."""

    h_flip_chance: Chance = 0.5
    """Chance of a left-right flip."""
    v_flip_chance: Chance = 0.0
    """Chance of a top-bottom flip."""
    rot90_chance: Chance = 0.0
    """Chance of one to three quarter turns; needs a square crop_size."""
    elastic_transform_chance: Chance = 0.0
    """Chance of an elastic deformation."""
    elastic_transform_alpha: NotNegative = 1.0
    """Strength of the deformation."""
    elastic_transform_sigma: Positive = 50.0
    """Smoothness of the deformation, pixels."""
    optical_distortion_chance: Chance = 0.0
    """Chance of a lens distortion."""
    optical_distortion_min: float = -0.05
    """Lowest distortion coefficient."""
    optical_distortion_max: float = 0.05
    """Highest distortion coefficient."""
    optical_distortion_mode: Literal["camera", "fisheye"] = "camera"
    """Model of the lens."""
    coarse_dropout_chance: Chance = 0.0
    """Chance of holes in the images."""
    coarse_dropout_holes_min: Count = 1
    """Fewest holes."""
    coarse_dropout_holes_max: Count = 2
    """Most holes."""
    coarse_dropout_height_min: Chance = 0.1
    """Lowest height of a hole, as part of the image's."""
    coarse_dropout_height_max: Chance = 0.2
    """Largest height of a hole."""
    coarse_dropout_width_min: Chance = 0.1
    """Lowest width of a hole, as part of the image's."""
    coarse_dropout_width_max: Chance = 0.2
    """Largest width of a hole."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> BothAugmentations:
        return _check_ranges(self)


class InputAugmentations(Section):
    """Augmentations of the input image alone."""

    colorjitter_chance: Chance = 0.0
    """Chance of a change of brightness."""
    colorjitter_min_brightness: NotNegative = 0.8
    """Lowest brightness factor."""
    colorjitter_max_brightness: NotNegative = 1.2
    """Highest brightness factor."""
    gaussnoise_chance: Chance = 0.0
    """Chance of Gaussian noise."""
    gaussnoise_min: Chance = 0.2
    """Lowest standard deviation, as part of the value range."""
    gaussnoise_max: Chance = 0.44
    """Highest standard deviation."""
    motionblur_chance: Chance = 0.0
    """Chance of a motion blur."""
    motionblur_limit: Annotated[int, Field(ge=3)] = 7
    """Largest kernel, pixels."""
    randgamma_chance: Chance = 0.0
    """Chance of a gamma curve."""
    randgamma_min: Positive = 80.0
    """Lowest gamma, percent."""
    randgamma_max: Positive = 120.0
    """Highest gamma, percent."""
    grayscale_chance: Chance = 0.0
    """Chance of losing all colour."""
    grayscale_method: Literal["weighted_average", "from_lab", "average", "max", "desaturation"] = (
        "weighted_average"
    )
    """How the channels become one: luma, CIE lightness, mean, largest, or mean of the extremes."""
    compression_chance: Chance = 0.0
    """Chance of compression artefacts."""
    compression_type: Literal["jpeg"] = "jpeg"
    """Kind of compression."""
    compression_quality_min: Annotated[int, Field(ge=1, le=100)] = 99
    """Lowest quality."""
    compression_quality_max: Annotated[int, Field(ge=1, le=100)] = 100
    """Highest quality."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> InputAugmentations:
        return _check_ranges(self)


def _check_ranges(section: SectionT) -> SectionT:
    """Refuses every pair of fields ..._min.../..._max... whose minimum is the larger one."""
    for low in type(section).model_fields:
        high = low.replace("_min", "_max")
        if high != low and getattr(section, low) > getattr(section, high):
            raise ValueError(f"{low} must not be above {high}")
    return section


class TargetAugmentations(Section):
    """Augmentations of the target image alone: there are none, as in v0.2.3."""


class Augmentations(Section):
    """Random changes to the training images."""

    both: BothAugmentations = BothAugmentations()
    """The same change to input and target."""
    input: InputAugmentations = InputAugmentations()
    """Changes to the input alone."""
    target: TargetAugmentations = TargetAugmentations()
    """Changes to the target alone."""


class Dataloader(Section):
    """Where the images come from and how they are served."""

    dataroot: str = ""
    """Folder with train/ and val/ (A|B images), trainA/ and trainB/, or train/A and train/B."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which image of a pair is the input."""
    batch_size: Count = 1
    """Pairs per step."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Worker processes that read images; 0 reads in the main process."""
    load: Load = Load()
    """Sizes and channels."""
    augmentations: Augmentations = Augmentations()
    """Random changes to the training images."""


class LearningRate(Section):
    """Learning rate over the epochs: constant, then linear to the target."""

    epochs: Annotated[int, Field(ge=0)] = 100
    """Epochs at the initial rate. With epochs_decay, of the generator, the length of the run."""
    epochs_decay: Annotated[int, Field(ge=0)] = 100
    """Epochs of decay; the target would be reached one epoch later, so that every epoch learns."""
    initial: NotNegative = 0.0002
    """Initial learning rate."""
    target: NotNegative = 0.0
    """Learning rate that the decay heads for."""
    schedule: ScheduleConfig | None = None
    """Any other schedule of learning rates, in place of initial and target."""

    def build(self) -> Schedule:
        """The learning rate as a `Schedule`."""
        if self.schedule is not None:
            return self.schedule.build()
        return Schedule(
            schedule="linear" if self.epochs_decay else "constant",
            start_epoch=self.epochs,
            end_epoch=self.epochs + self.epochs_decay + 1,
            initial_value=self.initial,
            target_value=self.target,
        )

    @field_validator("schedule")
    @classmethod
    def _moves_between_epochs(cls, schedule: ScheduleConfig | None) -> ScheduleConfig | None:
        if schedule is not None and schedule.interval == "step":
            raise ValueError('interval "step" is for loss weights; learning rates move per epoch')
        return schedule


class Adam(Section):
    """The Adam optimiser."""

    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Decay of the first moment (0.5 as in DCGAN and pix2pix)."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the second moment."""


class Unet(Section):
    """The U-Net."""

    features: Count = 64
    """Channels of the first level; they double down to 8 times this."""
    n_downs: Annotated[int, Field(ge=0)] = 6
    """Levels between the first and the bottleneck: image sides are multiples of 2^(n_downs + 2)."""
    block_type: Literal["UnetBlock", "ResidualUnetBlock"] = "UnetBlock"
    """Kind of the down and up blocks."""
    upsample_type: Literal["Transposed", "Bilinear"] = "Transposed"
    """Transposed convolution, or bilinear upsampling and a convolution."""
    norm: Norm = "instance"
    """Normalisation."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Dropout in the innermost up blocks; 0 for none."""
    learning_rate: LearningRate = LearningRate()
    """Learning rate of the generator; of both networks unless separate_lr_schedules is set."""
    optimizer: Adam = Adam()
    """Optimiser of the generator."""


class PatchGAN(Section):
    """The PatchGAN."""

    n_layers: Annotated[int, Field(ge=0)] = 3
    """Strided layers after the first: 3 sees 70 x 70 pixels, 1 sees 16 x 16."""
    base_channels: Count = 64
    """Channels of the first layer; they double with each layer."""
    max_channels: Count = 512
    """Most channels of a layer."""
    norm: Norm = "instance"
    """Normalisation."""
    learning_rate: LearningRate = LearningRate()
    """Learning rate of the discriminator, read only with separate_lr_schedules."""
    optimizer: Adam = Adam()
    """Optimiser of the discriminator."""


class Train(Section):
    """Networks, losses and their schedules."""

    objective: Objective = "basic"
    """"basic" is GAN + L1; "extended" adds L2, Sobel and Laplacian; "+vgg" a perceptual loss."""
    gan_mode: GanMode = "vanilla"
    """Adversarial loss: vanilla (BCE with logits), lsgan (squared) or hinge."""
    vgg_weights: str | None = None
    """File with torchvision's VGG19 weights; without one they are downloaded."""
    separate_lr_schedules: bool = False
    """Whether the discriminator has a learning rate of its own."""
    generator: Unet = Unet()
    """The U-Net."""
    discriminator: PatchGAN = PatchGAN()
    """The PatchGAN."""
    loss: dict[str, LossOption] = {}
    """Losses by name: a number or a schedule weights one of the objective's; a whole term adds or
    replaces one. What is not named keeps the objective's weight."""

    @property
    def epochs(self) -> int:
        """Length of the run in epochs."""
        return self.generator.learning_rate.epochs + self.generator.learning_rate.epochs_decay

    @model_validator(mode="after")
    def _lasts_an_epoch(self) -> Train:
        if self.epochs < 1:
            raise ValueError("generator.learning_rate epochs + epochs_decay must be at least 1")
        return self


class Save(Section):
    """What a run leaves behind."""

    save_model: bool = True
    """Whether checkpoints are written."""
    model_save_rate: Count = 5
    """Epochs from one checkpoint to the next; the last epoch always has one."""
    auto_increment_version: bool = True
    """Take the next free number for the run directory; else refuse one that exists."""
    save_examples: bool = True
    """Whether example grids (input, generated, target) are written."""
    example_save_rate: Count = 1
    """Epochs from one grid to the next."""
    num_examples: Count = 4
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
    tracking_uri: str | None = None
    """Server or database; without one, mlflow.db (SQLite) in the output directory."""

    @field_validator("tracking_uri")
    @classmethod
    def _is_a_uri(cls, uri: str | None) -> str | None:
        if uri is not None and not _TRACKING_URI.match(uri):
            raise ValueError(
                "it must begin with http://, https://, sqlite:///, postgresql://, mysql://, "
                "mssql:// or databricks (MLflow takes no folders any more)"
            )
        return uri


class Logging(Section):
    """Where the losses go."""

    csv: bool = True
    """losses.csv and metrics.csv; TensorBoard and MLflow are fed from them."""
    window_steps: Count = 50
    """Steps after which losses are brought from the device and written."""
    window_seconds: Positive = 2.0
    """Seconds after which they are written even if fewer steps were made."""
    tensorboard: TensorBoardLogging = TensorBoardLogging()
    """The TensorBoard sink."""
    mlflow: MLflowLogging = MLflowLogging()
    """The MLflow sink."""

    @model_validator(mode="after")
    def _sinks_have_a_source(self) -> Logging:
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
    save: Save = Save()
    """Files."""
    logging: Logging = Logging()
    """Record."""
