"""The sections ``train.generator`` and ``train.discriminator`` of a config.

There is one class for each built-in network, and one for custom networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator as ByKind
from pydantic import Field, Tag, field_validator, model_validator

from nectargan.config.base import Depth, Epochs, NotNegative, Section, Width
from nectargan.config.choices import Init, Norm, Padding, UpsampleType
from nectargan.config.loss_options import ScheduleConfig
from nectargan.errors import did_you_mean
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.schedules import FLOAT32_MAX

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Blocks = Annotated[int, Field(ge=1, le=64)]
Scales = Annotated[int, Field(ge=1, le=8)]


class LearningRate(Section):
    """Learning rate over the epochs: constant, then linear to the target."""

    epochs: Epochs = 100
    """Epochs with the initial rate. The length of the run is epochs + epochs_decay of the
    generator."""
    epochs_decay: Epochs = 100
    """Epochs of linear decay. The target would be reached in the epoch after the last one, so that
    a target of 0 wastes no epoch."""
    initial: NotNegative = 0.0002
    """Initial learning rate."""
    target: NotNegative = 0.0
    """Learning rate at the end of the decay."""
    schedule: ScheduleConfig | None = None
    """Schedule of the learning rate, used instead of initial and target."""

    def build(self) -> Schedule:
        """Makes the `Schedule` of the learning rate."""
        if self.schedule is not None:
            return self.schedule.build()
        return Schedule(
            schedule="linear" if self.epochs_decay else "constant",
            start_epoch=self.epochs,
            end_epoch=self.epochs + self.epochs_decay + 1,
            initial_value=self.initial,
            target_value=self.target,
        )

    @model_validator(mode="after")
    def _is_never_negative(self) -> LearningRate:
        rate = self.build()
        points = rate.arguments.get("points", ())
        values = [rate.initial_value, rate.target_value, *(value for _, value in points)]
        if not rate.is_imported or min(values) >= 0:
            # A custom function has no values yet. A built-in schedule stays between its ends or
            # points, so it is not negative if these are not.
            return self
        for epoch in range(1, self.epochs + self.epochs_decay + 1):
            if rate.value_at(epoch) < 0:
                raise ValueError(f"the learning rate of epoch {epoch} would be below 0")
        return self

    @field_validator("schedule")
    @classmethod
    def _moves_between_epochs(cls, schedule: ScheduleConfig | None) -> ScheduleConfig | None:
        if schedule is not None and schedule.interval == "step":
            raise ValueError(
                'interval "step" is only for loss weights; a learning rate changes between epochs'
            )
        return schedule


class Adam(Section):
    """The Adam optimizer."""

    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Decay rate of the first moment (0.5 as in DCGAN and pix2pix)."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay rate of the second moment."""
    clip_norm: Annotated[float, Field(gt=0.0, le=FLOAT32_MAX)] | None = None
    """Gradient clipping: if the L2 norm of the gradient of all parameters is larger, the gradient
    is scaled to this norm. The norm before is on record as gradient_norm/generator (or
    /discriminator). Default: no clipping."""


class Network(Section):
    """A built-in network."""

    @field_validator("name", mode="before", check_fields=False)
    @classmethod
    def _is_known(cls, name: object) -> object:
        (kinds,) = (kinds for kinds in SECTIONS.values() if cls in kinds.values())
        names = [kind for kind in kinds if kind != FUNCTION]
        if name not in names:
            raise ValueError(
                f"there is no built-in network of this name.{did_you_mean(str(name), names)}"
            )
        return name

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the network class."""
        return self.model_dump(exclude={"name", "learning_rate", "optimizer"})


class OwnNetwork(Section):
    """Your own network."""

    function: Annotated[str, Field(min_length=1)]
    """Import path, "package.module.Class", of an `nn.Module` class."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class. The numbers of channels are added if the class has these
    arguments: `input_nc` and `output_nc` for a generator, `in_channels` for a discriminator."""


# --- generators --------------------------------------------------------------------------------


class _Generator(Section):
    learning_rate: LearningRate = LearningRate()
    """Learning rate of the generator, and of the discriminator unless separate_lr_schedules is
    true."""
    optimizer: Adam = Adam()
    """Optimizer of the generator."""


class Unet(_Generator, Network):
    """The U-Net of pix2pix."""

    name: Literal["unet"] = "unet"
    """Name of the network: unet, resnet or pix2pixhd. The other options depend on it."""
    features: Width = 64
    """Channels of the first level. They double with each level, up to 8 times this number."""
    n_downs: Depth = 6
    """Levels between the first and the bottleneck. Image sides must be multiples of
    2^(n_downs + 2)."""
    block_type: Literal["UnetBlock", "ResidualUnetBlock"] = "UnetBlock"
    """Kind of the down and up blocks."""
    upsample_type: UpsampleType = "Transposed"
    """How an up block doubles the size: a transposed convolution, bilinear or nearest-neighbour
    upsampling and a convolution, or a convolution and pixel shuffle. Only the transposed
    convolution leaves a checkerboard pattern."""
    norm: Norm = "instance"
    """Normalization layers."""
    dropout: Dropout = 0.5
    """Dropout probability in the innermost up blocks; 0 for none."""
    padding: Padding = "zeros"
    """Padding of the convolutions in down blocks and after an interpolation."""
    init: Init = "normal"
    """Initialization of the weights: "normal" is N(0, 0.02), "default" is torch's default."""


class _ResnetOptions(_Generator, Network):
    features: Width = 64
    """Channels of the first layer. They double with each layer that halves the size."""
    n_blocks: Blocks = 9
    """Number of residual blocks."""
    upsample_type: UpsampleType = "Transposed"
    """How a layer doubles the size: as in the U-Net, but the kernel of the transposed convolution
    is 3 x 3."""
    norm: Norm = "instance"
    """Normalization layers."""
    dropout: Dropout = 0.0
    """Dropout probability in each residual block; 0 for none."""
    padding: Padding = "reflect"
    """Padding of the convolutions that keep the size."""
    init: Init = "normal"
    """Initialization of the weights: "normal" is N(0, 0.02), "default" is torch's default."""


class Resnet(_ResnetOptions):
    """The ResNet generator of CycleGAN (Johnson et al. 2016); CycleGAN uses 6 or 9 blocks."""

    name: Literal["resnet"] = "resnet"
    """Name of the network: unet, resnet or pix2pixhd. The other options depend on it."""
    n_downs: Depth = 2
    """Layers that halve the size. Image sides must be multiples of 2^n_downs."""


class Pix2pixHD(_ResnetOptions):
    """The global generator of pix2pixHD (Wang et al. 2018)."""

    name: Literal["pix2pixhd"] = "pix2pixhd"
    """Name of the network: unet, resnet or pix2pixhd. The other options depend on it."""
    n_downs: Depth = 4
    """Layers that halve the size. Image sides must be multiples of 2^n_downs."""


class OwnGenerator(_Generator, OwnNetwork):
    """Your own generator, from images ``(N, C, H, W)`` in [-1, 1] to images of the same size."""


# --- discriminators ----------------------------------------------------------------------------


class _Discriminator(Section):
    learning_rate: LearningRate = LearningRate()
    """Learning rate of the discriminator. Only used if separate_lr_schedules is true."""
    optimizer: Adam = Adam()
    """Optimizer of the discriminator."""


class _BuiltInDiscriminator(_Discriminator, Network):
    base_channels: Width = 64
    """Channels of the first layer. They double with each layer, up to max_channels if the network
    has this option."""
    norm: Norm = "instance"
    """Normalization layers."""
    init: Init = "normal"
    """Initialization of the weights: "normal" is N(0, 0.02), "default" is torch's default."""
    spectral_norm: bool = False
    """Whether to apply spectral normalization to the convolutions."""


class _Patches(_BuiltInDiscriminator):
    n_layers: Depth = 3
    """Layers with stride 2 after the first layer. The receptive field is 70 x 70 pixels with 3
    layers and 16 x 16 with 1."""
    max_channels: Width = 512
    """Largest number of channels of a layer."""
    padding: Padding = "zeros"
    """Padding of the convolutions."""

    @model_validator(mode="after")
    def _begins_within_its_bound(self) -> _Patches:
        if self.base_channels > self.max_channels:
            raise ValueError(
                f"base_channels is {self.base_channels}, above max_channels {self.max_channels}"
            )
        return self


class PatchGAN(_Patches):
    """The PatchGAN of pix2pix."""

    name: Literal["patchgan"] = "patchgan"
    """Name of the network: patchgan, pixel or multiscale. The other options depend on it."""


class Pixel(_BuiltInDiscriminator):
    """A discriminator that judges single pixels with three 1 x 1 convolutions."""

    name: Literal["pixel"] = "pixel"
    """Name of the network: patchgan, pixel or multiscale. The other options depend on it."""


class Multiscale(_Patches):
    """The multi-scale discriminator of pix2pixHD: PatchGANs at several sizes of the image."""

    name: Literal["multiscale"] = "multiscale"
    """Name of the network: patchgan, pixel or multiscale. The other options depend on it."""
    n_scales: Scales = 3
    """Number of PatchGANs: one at the full image size, one at half of it, and so on."""


class OwnDiscriminator(_Discriminator, OwnNetwork):
    """Your own discriminator, from two batches of images ``(N, C, H, W)`` in [-1, 1] to logits, or
    to a list of logits, one per scale."""


# --- which one -----------------------------------------------------------------------------------

FUNCTION = "function"


def _network_kind(place: str, value: object) -> str:
    """The union branch that validates a value.

    A value without a valid name is validated by the default network, which reports the error.
    """
    if isinstance(value, OwnNetwork) or (isinstance(value, Mapping) and FUNCTION in value):
        return FUNCTION
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    kinds = SECTIONS[place]
    return name if isinstance(name, str) and name in kinds else next(iter(kinds))


def _generator_kind(value: object) -> str:
    return _network_kind("generator", value)


def _discriminator_kind(value: object) -> str:
    return _network_kind("discriminator", value)


Generator = Annotated[
    Annotated[Unet, Tag("unet")]
    | Annotated[Resnet, Tag("resnet")]
    | Annotated[Pix2pixHD, Tag("pix2pixhd")]
    | Annotated[OwnGenerator, Tag(FUNCTION)],
    ByKind(_generator_kind),
]

Discriminator = Annotated[
    Annotated[PatchGAN, Tag("patchgan")]
    | Annotated[Pixel, Tag("pixel")]
    | Annotated[Multiscale, Tag("multiscale")]
    | Annotated[OwnDiscriminator, Tag(FUNCTION)],
    ByKind(_discriminator_kind),
]


def _sections(union: Any) -> dict[str, type[Section]]:
    return {tag.tag: section for section, tag in map(get_args, get_args(get_args(union)[0]))}


# The section class by config key and network name; the default network comes first. A custom
# network has the name `FUNCTION`.
SECTIONS = {"generator": _sections(Generator), "discriminator": _sections(Discriminator)}
