"""The built-in networks by the name that a config gives them."""

from __future__ import annotations

from torch import nn

from nectargan.models.patchgan import PatchGANDiscriminator, PixelDiscriminator
from nectargan.models.pix2pixhd import GlobalGenerator, MultiscaleDiscriminator
from nectargan.models.resnet import ResnetGenerator
from nectargan.models.unet import UnetGenerator

# ``input_nc`` and ``output_nc``, and the options of its section of the config, by keyword.
GENERATORS: dict[str, type[nn.Module]] = {
    "unet": UnetGenerator,
    "resnet": ResnetGenerator,
    "pix2pixhd": GlobalGenerator,
}

# ``in_channels``, and the options of its section.
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "patchgan": PatchGANDiscriminator,
    "pixel": PixelDiscriminator,
    "multiscale": MultiscaleDiscriminator,
}
