"""The single augmentations that `PairAugmentation` is made of.

A stage draws its parameters on the CPU, so that no decision waits for the device and
`torch.manual_seed` makes them reproducible, and works on images in [0, 1]. What Kornia has an
operation for is left to it; the rest is a line or two of torch.

A stage is a dataclass whose fields are the keys of the config without the stage's name:
`elastic_transform_alpha` is `ElasticTransform.alpha`. All raise `DataError` when made with numbers
out of range.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nectargan.errors import DataError

Params = tuple[Tensor, ...]


@dataclass(frozen=True)
class Stage(ABC):
    """One augmentation.

    Attributes:
        needs_rgb: Whether it works on 3 channels only.
        moves_pixels: Whether it says where a pixel comes from, so that alpha is to come along; all
            else changes colours, and leaves alpha alone.
    """

    needs_rgb: ClassVar[bool] = False
    moves_pixels: ClassVar[bool] = False

    @abstractmethod
    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        """Random parameters for `n` images, on the CPU."""

    @abstractmethod
    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        """Images `(N, C, H, W)` in [0, 1] to the same shape; clamped by the caller."""


def onto(images: Tensor, values: Tensor) -> Tensor:
    # Only CUDA stages a pageable copy before it returns; elsewhere the source could be freed first.
    return values.to(images.device, non_blocking=images.is_cuda)


def _each(images: Tensor, values: Tensor) -> Tensor:
    """One number for each image, shaped to multiply them."""
    return onto(images, values).view(-1, 1, 1, 1)


def _uniform(n: int, low: float, high: float) -> Tensor:
    return torch.rand(n) * (high - low) + low


def _ordered(least: float, most: float = math.inf, **values: float) -> None:
    chain = [least, *values.values(), most]
    # Written so that NaN fails.
    if all(low <= high for low, high in itertools.pairwise(chain)):
        return
    bounds = " <= ".join([str(least), *values, *([str(most)] if most < math.inf else [])])
    given = ", ".join(f"{name} = {value}" for name, value in values.items())
    raise DataError(f"needs {bounds}, got {given}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"has the {name} '{value}', allowed: {', '.join(allowed)}.")


@dataclass(frozen=True)
class ElasticTransform(Stage):
    """Moves pixels by a random field, smoothed by a Gaussian (Simard et al. 2003).

    Args:
        alpha: Displacement in pixels of a field that was not smoothed.
        sigma: Standard deviation of the Gaussian in pixels.
    """

    moves_pixels: ClassVar[bool] = True
    alpha: float
    sigma: float

    def __post_init__(self) -> None:
        _ordered(0, alpha=self.alpha)
        _ordered(0.1, sigma=self.sigma)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (torch.rand(n, 2, h, w) * 2 - 1,)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        from kornia.geometry.transform import elastic_transform2d

        (field,) = params
        h, w = images.shape[-2:]
        taps = 2 * math.ceil(3 * self.sigma) + 1
        # Kornia counts displacements in half images, between the centres of the edge pixels.
        alpha = (2 * self.alpha / max(w - 1, 1), 2 * self.alpha / max(h - 1, 1))
        return elastic_transform2d(
            images,
            onto(images, field),
            kernel_size=(taps, taps),
            sigma=(self.sigma, self.sigma),
            alpha=alpha,
            align_corners=True,
            padding_mode="reflection",
        )


@dataclass(frozen=True)
class OpticalDistortion(Stage):
    """Scales each pixel's distance from the centre by a polynomial of that distance.

    With the coefficient k, a pixel is read from `s` times its offset from the centre:
    camera: `s = 1 + k r² + k r⁴`, offsets in image widths and heights (Brown's lens model);
    fisheye: `s = 1 + k r²`, offsets in half diagonals.

    Args:
        min: Least k.
        max: Greatest k.
        mode: "camera" or "fisheye".
    """

    moves_pixels: ClassVar[bool] = True
    min: float
    max: float
    mode: str

    def __post_init__(self) -> None:
        _ordered(-1, 1, min=self.min, max=self.max)
        _one_of("mode", self.mode, ("camera", "fisheye"))

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (_uniform(n, self.min, self.max),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        from kornia.geometry.transform import remap

        (h, w), device = images.shape[-2:], images.device
        k = onto(images, params[0]).view(-1, 1, 1)
        centre_y, centre_x = (h - 1) / 2, (w - 1) / 2
        y = torch.arange(h, device=device, dtype=torch.float32).view(-1, 1) - centre_y
        x = torch.arange(w, device=device, dtype=torch.float32).view(1, -1) - centre_x
        if self.mode == "camera":
            r2 = (y / h) ** 2 + (x / w) ** 2
            scale = 1 + k * (r2 + r2**2)
        else:
            scale = 1 + k * (y**2 + x**2) / max(centre_y**2 + centre_x**2, 1)
        return remap(
            images,
            x * scale + centre_x,
            y * scale + centre_y,
            padding_mode="reflection",
            align_corners=True,
        )


@dataclass(frozen=True)
class CoarseDropout(Stage):
    """Paints black rectangles (DeVries and Taylor 2017), at least a pixel, wholly inside.

    Args:
        holes_min: Fewest rectangles.
        holes_max: Most rectangles; they may overlap.
        height_min: Least height, a fraction of the image's.
        height_max: Greatest height.
        width_min: Least width, a fraction of the image's.
        width_max: Greatest width.
    """

    holes_min: int
    holes_max: int
    height_min: float
    height_max: float
    width_min: float
    width_max: float

    def __post_init__(self) -> None:
        _ordered(1, holes_min=self.holes_min, holes_max=self.holes_max)
        _ordered(0, 1, height_min=self.height_min, height_max=self.height_max)
        _ordered(0, 1, width_min=self.width_min, width_max=self.width_max)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        holes = torch.randint(self.holes_min, self.holes_max + 1, (n, 1))
        used = torch.arange(self.holes_max) < holes
        rows = self._spans(n, h, self.height_min, self.height_max)
        columns = self._spans(n, w, self.width_min, self.width_max)
        return rows & used[..., None], columns

    def _spans(self, n: int, side: int, low: float, high: float) -> Tensor:
        """(n, holes_max, side): True where a rectangle covers a row or column."""
        length = (_uniform(n * self.holes_max, low, high) * side).round().clamp(min=1)
        first = (torch.rand(n * self.holes_max) * (side - length + 1)).floor()
        pixel = torch.arange(side)
        covered = (pixel >= first[:, None]) & (pixel < (first + length)[:, None])
        return covered.view(n, self.holes_max, side)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        rows, columns = (onto(images, param) for param in params)
        holes = (rows[..., :, None] & columns[..., None, :]).any(dim=1, keepdim=True)
        return images.masked_fill(holes, 0.0)


@dataclass(frozen=True)
class ColorJitter(Stage):
    """Multiplies the values by a factor of brightness."""

    min_brightness: float
    max_brightness: float

    def __post_init__(self) -> None:
        low, high = self.min_brightness, self.max_brightness
        _ordered(0, min_brightness=low, max_brightness=high)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (_uniform(n, self.min_brightness, self.max_brightness),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        return images * _each(images, params[0])


@dataclass(frozen=True)
class GaussNoise(Stage):
    """Adds Gaussian noise whose standard deviation lies between `min` and `max` of the range."""

    min: float
    max: float

    def __post_init__(self) -> None:
        _ordered(0, 1, min=self.min, max=self.max)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return _uniform(n, self.min, self.max), torch.randn(n, c, h, w)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        deviation, noise = params
        return images + onto(images, noise) * _each(images, deviation)


@dataclass(frozen=True)
class MotionBlur(Stage):
    """Blurs along a line of any angle, its length an odd number of pixels from 3 to `limit`."""

    limit: int

    def __post_init__(self) -> None:
        _ordered(3, limit=self.limit)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        from kornia.filters import get_motion_kernel2d

        radii = torch.randint(1, (self.limit - 1) // 2 + 1, (n,)).tolist()
        angles, directions = _uniform(n, 0.0, 360.0), _uniform(n, -1.0, 1.0)
        largest = max(radii)
        kernels = [
            F.pad(
                get_motion_kernel2d(2 * radius + 1, angles[i : i + 1], directions[i : i + 1]),
                [largest - radius] * 4,
            )
            for i, radius in enumerate(radii)
        ]
        return (torch.cat(kernels),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        from kornia.filters import filter2d

        return filter2d(images, onto(images, params[0]), border_type="replicate")


@dataclass(frozen=True)
class RandGamma(Stage):
    """Raises the values to a power, given in percent: 80 is a gamma of 0.8."""

    min: float
    max: float

    def __post_init__(self) -> None:
        _ordered(1, min=self.min, max=self.max)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (_uniform(n, self.min / 100, self.max / 100),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        return images.pow(_each(images, params[0]))


@dataclass(frozen=True)
class Grayscale(Stage):
    """Replaces the three channels by one grey.

    Args:
        method: weighted_average (ITU-R BT.601 luma), from_lab (CIE L*), average, max, or
            desaturation (mean of the greatest and the least channel).
    """

    needs_rgb: ClassVar[bool] = True
    method: str

    def __post_init__(self) -> None:
        methods = ("weighted_average", "from_lab", "average", "max", "desaturation")
        _one_of("method", self.method, methods)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return ()

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        return self._grey(images).expand_as(images)

    def _grey(self, images: Tensor) -> Tensor:
        from kornia.color import rgb_to_grayscale, rgb_to_lab

        match self.method:
            case "weighted_average":
                return rgb_to_grayscale(images)
            case "from_lab":
                return rgb_to_lab(images)[:, :1] / 100
            case "average":
                return images.mean(dim=1, keepdim=True)
        high, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
        return high if self.method == "max" else (high + low) / 2


@dataclass(frozen=True)
class Compression(Stage):
    """Codes and decodes as JPEG, as Kornia's differentiable codec does (Reich et al. 2024).

    Args:
        type: "jpeg".
        quality_min: Least quality, 1 to 100.
        quality_max: Greatest quality, 1 to 100.
    """

    needs_rgb: ClassVar[bool] = True
    type: str
    quality_min: int
    quality_max: int

    def __post_init__(self) -> None:
        _one_of("type", self.type, ("jpeg",))
        _ordered(1, 100, quality_min=self.quality_min, quality_max=self.quality_max)

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (torch.randint(self.quality_min, self.quality_max + 1, (n,)).float(),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        from kornia.enhance import jpeg_codec_differentiable

        # Kornia looks at the qualities' range: on the CPU that does not wait for the device.
        return jpeg_codec_differentiable(images, params[0])
