"""The networks of a run: one section for each built-in one, and one for a network of one's own."""

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

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Blocks = Annotated[int, Field(ge=1, le=64)]
Scales = Annotated[int, Field(ge=1, le=8)]


class LearningRate(Section):
    """Learning rate over the epochs: constant, then linear to the target."""

    epochs: Epochs = 100
    """Epochs at the initial rate. With epochs_decay, of the generator, the length of the run."""
    epochs_decay: Epochs = 100
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

    @model_validator(mode="after")
    def _is_never_negative(self) -> LearningRate:
        rate = self.build()
        points = rate.arguments.get("points", ())
        values = [rate.initial_value, rate.target_value, *(value for _, value in points)]
        if not rate.is_imported or min(values) >= 0:
            return self  # not known yet, or between its ends, or its points, as all schedules are
        for epoch in range(1, self.epochs + self.epochs_decay + 1):
            if rate.value_at(epoch) < 0:
                raise ValueError(f"the learning rate of epoch {epoch} would be below 0")
        return self

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


class Network(Section):
    """A built-in network."""

    @field_validator("name", mode="before", check_fields=False)
    @classmethod
    def _is_known(cls, name: object) -> object:
        (kinds,) = (kinds for kinds in SECTIONS.values() if cls in kinds.values())
        names = [kind for kind in kinds if kind != FUNCTION]
        if name not in names:
            raise ValueError(f"no such network is built in.{did_you_mean(str(name), names)}")
        return name

    def options(self) -> dict[str, Any]:
        """What the network itself takes, by keyword."""
        return self.model_dump(exclude={"name", "learning_rate", "optimizer"})


class OwnNetwork(Section):
    """A network of one's own."""

    function: Annotated[str, Field(min_length=1)]
    """Importable `nn.Module` class, "package.module.Class"."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for that class. The numbers of channels, `input_nc` and `output_nc` of a
    generator and `in_channels` of a discriminator, are given to a class that takes them."""


# --- generators --------------------------------------------------------------------------------


class _Generator(Section):
    learning_rate: LearningRate = LearningRate()
    """Learning rate of the generator; of both networks unless separate_lr_schedules is set."""
    optimizer: Adam = Adam()
    """Optimiser of the generator."""


class Unet(_Generator, Network):
    """The U-Net of pix2pix."""

    name: Literal["unet"] = "unet"
    """Which network it is: unet, resnet or pix2pixhd; the other options depend on it."""
    features: Width = 64
    """Channels of the first level; they double down to 8 times this."""
    n_downs: Depth = 6
    """Levels between the first and the bottleneck: image sides are multiples of 2^(n_downs + 2)."""
    block_type: Literal["UnetBlock", "ResidualUnetBlock"] = "UnetBlock"
    """Kind of the down and up blocks."""
    upsample_type: UpsampleType = "Transposed"
    """Transposed convolution; bilinear or nearest-neighbour upsampling and a convolution; or a
    convolution whose channels become pixels. Only the first leaves a checkerboard."""
    norm: Norm = "instance"
    """Normalisation."""
    dropout: Dropout = 0.5
    """Dropout in the innermost up blocks; 0 for none."""
    padding: Padding = "zeros"
    """What is beyond the borders of a convolution on the way down, or after an interpolation."""
    init: Init = "normal"
    """Weights at the start: N(0, 0.02), or torch's own."""


class _ResnetOptions(_Generator, Network):
    features: Width = 64
    """Channels of the first layer; they double with each layer that halves the size."""
    n_blocks: Blocks = 9
    """Residual blocks at the smallest size."""
    upsample_type: UpsampleType = "Transposed"
    """As in the U-Net; the transposed convolution has a kernel of 3 x 3 here."""
    norm: Norm = "instance"
    """Normalisation."""
    dropout: Dropout = 0.0
    """Dropout in each residual block; 0 for none."""
    padding: Padding = "reflect"
    """What is beyond the borders of a convolution that keeps the size."""
    init: Init = "normal"
    """Weights at the start: N(0, 0.02), or torch's own."""


class Resnet(_ResnetOptions):
    """The ResNet generator of CycleGAN (Johnson et al. 2016): 9 blocks, or 6."""

    name: Literal["resnet"] = "resnet"
    """Which network it is: unet, resnet or pix2pixhd; the other options depend on it."""
    n_downs: Depth = 2
    """Layers that halve the size: image sides are multiples of 2^n_downs."""


class Pix2pixHD(_ResnetOptions):
    """The global generator of pix2pixHD (Wang et al. 2018)."""

    name: Literal["pix2pixhd"] = "pix2pixhd"
    """Which network it is: unet, resnet or pix2pixhd; the other options depend on it."""
    n_downs: Depth = 4
    """Layers that halve the size: image sides are multiples of 2^n_downs."""


class OwnGenerator(_Generator, OwnNetwork):
    """A generator of one's own: from images ``(N, C, H, W)`` in [-1, 1] to images of that size."""


# --- discriminators ----------------------------------------------------------------------------


class _Discriminator(Section):
    learning_rate: LearningRate = LearningRate()
    """Learning rate of the discriminator, read only with separate_lr_schedules."""
    optimizer: Adam = Adam()
    """Optimiser of the discriminator."""


class _BuiltInDiscriminator(_Discriminator, Network):
    base_channels: Width = 64
    """Channels of the first layer, at most max_channels; they double with each layer."""
    norm: Norm = "instance"
    """Normalisation."""
    init: Init = "normal"
    """Weights at the start: N(0, 0.02), or torch's own."""
    spectral_norm: bool = False
    """Divide the weight of each convolution by its largest singular value."""


class _Patches(_BuiltInDiscriminator):
    n_layers: Depth = 3
    """Strided layers after the first: 3 sees 70 x 70 pixels, 1 sees 16 x 16."""
    max_channels: Width = 512
    """Most channels of a layer."""
    padding: Padding = "zeros"
    """What is beyond the borders of a convolution."""

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
    """Which network it is: patchgan, pixel or multiscale; the other options depend on it."""


class Pixel(_BuiltInDiscriminator):
    """A discriminator of single pixels: three 1 x 1 convolutions."""

    name: Literal["pixel"] = "pixel"
    """Which network it is: patchgan, pixel or multiscale; the other options depend on it."""


class Multiscale(_Patches):
    """The multi-scale discriminator of pix2pixHD: PatchGANs at several sizes of the image."""

    name: Literal["multiscale"] = "multiscale"
    """Which network it is: patchgan, pixel or multiscale; the other options depend on it."""
    n_scales: Scales = 3
    """PatchGANs: at full size, at half of it, at a quarter and so on."""


class OwnDiscriminator(_Discriminator, OwnNetwork):
    """A discriminator of one's own: from two images, ``(N, C, H, W)`` in [-1, 1], to logits; or to
    a list of logits, one for each scale."""


# --- which one -----------------------------------------------------------------------------------

FUNCTION = "function"


def _kind(place: str, value: object) -> str:
    """The section that validates a value; for what names none, that of the usual network, which
    says what is wrong."""
    if isinstance(value, OwnNetwork) or (isinstance(value, Mapping) and FUNCTION in value):
        return FUNCTION
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    kinds = SECTIONS[place]
    return name if isinstance(name, str) and name in kinds else next(iter(kinds))


def _generator_kind(value: object) -> str:
    return _kind("generator", value)


def _discriminator_kind(value: object) -> str:
    return _kind("discriminator", value)


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


# By place and kind: the name of a built-in network, the usual one first, or `FUNCTION`.
SECTIONS = {"generator": _sections(Generator), "discriminator": _sections(Discriminator)}
