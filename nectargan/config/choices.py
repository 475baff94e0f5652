"""The options with a fixed set of values.

They are separate from the schema so that a command can list them without importing pydantic.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Objective = Literal["basic", "basic+vgg", "extended", "extended+vgg"]
GanMode = Literal["vanilla", "lsgan", "hinge"]
Norm = Literal["instance", "batch"]
Padding = Literal["zeros", "reflect"]
Init = Literal["normal", "default"]
UpsampleType = Literal["Transposed", "Bilinear", "Nearest", "PixelShuffle"]
Cache = Literal["auto", "ram", "disk", "device", "off"]
Interpolation = Literal["bicubic", "nearest"]
OnOff = Literal["on", "off"]
CudaGraph = Literal["auto", "on", "off"]
Compile = Literal["off", "default"]
PictureFormat = Literal["png", "svg", "pdf"]

# Keys that do not affect the result of a training: hardware, speed, and output files.
INCIDENTAL = (
    "common.device",
    "common.experiment_version",
    "common.output_directory",
    "dataloader.cache",
    "dataloader.num_workers",
    "logging.",
    "save.",
    "train.compile",
    "train.cuda_graph",
    "train.init_from_digest",
    "train.vgg_weights",
)
BalancerName = Literal["vqgan", "softadapt", "relobralo", "dwa", "torchjd"]
