"""The built-in networks by their names in a config."""

from __future__ import annotations

from torch import nn

from nectargan.models.patchgan import PatchGANDiscriminator, PixelDiscriminator
from nectargan.models.pix2pixhd import GlobalGenerator, MultiscaleDiscriminator
from nectargan.models.resnet import ResnetGenerator
from nectargan.models.unet import UnetGenerator

# The keyword arguments are ``input_nc``, ``output_nc`` and the options of the config section.
GENERATORS: dict[str, type[nn.Module]] = {
    "unet": UnetGenerator,
    "resnet": ResnetGenerator,
    "pix2pixhd": GlobalGenerator,
}

# The keyword arguments are ``in_channels`` and the options of the config section.
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "patchgan": PatchGANDiscriminator,
    "pixel": PixelDiscriminator,
    "multiscale": MultiscaleDiscriminator,
}
