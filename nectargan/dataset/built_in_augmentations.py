"""The built-in augmentations.

To add one, write its class and add it to `ON_BOTH` or `ON_INPUT`; the config then has its keys. The
operations of Kornia are used where they exist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Interval

from nectargan.dataset.augmentation import Augmentation, onto

if TYPE_CHECKING:
    from torch import Tensor

    from nectargan.dataset.augmentation import Params

Fraction = Interval(ge=0.0, le=1.0)


def _each(images: Tensor, values: Tensor) -> Tensor:
    """One number per image, on its device, in a shape that broadcasts to the images."""
    return onto(images, values).view(-1, 1, 1, 1)


def _uniform(n: int, low: float, high: float) -> Tensor:
    import torch

    return torch.rand(n) * (high - low) + low


@dataclass(frozen=True)
class ElasticTransform(Augmentation):
    """Moves pixels by a random field that is smoothed by a Gaussian (Simard et al. 2003)."""

    name = "elastic_transform"
    does = "an elastic deformation"
    moves_pixels: ClassVar[bool] = True
    alpha: Annotated[
        float, Interval(ge=0, le=1e6), "Largest displacement before smoothing, in pixels."
    ] = 1.0
    sigma: Annotated[
        float, Interval(ge=0.1, le=1000), "Standard deviation of the smoothing, in pixels."
    ] = 50.0

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        import torch

        return (torch.rand(n, 2, h, w) * 2 - 1,)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        from kornia.geometry.transform import elastic_transform2d

        (field,) = params
        h, w = images.shape[-2:]
        taps = 2 * math.ceil(3 * self.sigma) + 1
        # The unit of Kornia's displacement is half the distance between the centers of the first
        # and last pixel.
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
class OpticalDistortion(Augmentation):
    """Scales the distance of each pixel from the center by a polynomial of this distance.

    With the coefficient k, a pixel is read from `s` times its offset from the center:
    camera: `s = 1 + k r² + k r⁴`, with offsets in image widths and heights (Brown's lens model);
    fisheye: `s = 1 + k r²`, with offsets in half diagonals.
    """

    name = "optical_distortion"
    does = "a lens distortion"
    moves_pixels: ClassVar[bool] = True
    min: Annotated[float, Interval(ge=-1, le=1), "Lowest distortion coefficient."] = -0.05
    max: Annotated[float, Interval(ge=-1, le=1), "Highest distortion coefficient."] = 0.05
    mode: Annotated[Literal["camera", "fisheye"], "Model of the lens."] = "camera"

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (_uniform(n, self.min, self.max),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        import torch
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
class CoarseDropout(Augmentation):
    """Paints black rectangles (DeVries and Taylor 2017) of at least one pixel inside the image."""

    name = "coarse_dropout"
    does = "holes in the images"
    holes_min: Annotated[int, Interval(ge=1, le=10_000), "Fewest holes."] = 1
    holes_max: Annotated[int, Interval(ge=1, le=10_000), "Most holes; they may overlap."] = 2
    height_min: Annotated[
        float, Fraction, "Lowest height of a hole, as a fraction of the image."
    ] = 0.1
    height_max: Annotated[float, Fraction, "Largest height of a hole."] = 0.2
    width_min: Annotated[float, Fraction, "Lowest width of a hole, as a fraction of the image."] = (
        0.1
    )
    width_max: Annotated[float, Fraction, "Largest width of a hole."] = 0.2

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        import torch

        holes = torch.randint(self.holes_min, self.holes_max + 1, (n, 1))
        used = torch.arange(self.holes_max) < holes
        rows = self._spans(n, h, self.height_min, self.height_max)
        columns = self._spans(n, w, self.width_min, self.width_max)
        return rows & used[..., None], columns

    def _spans(self, n: int, side: int, low: float, high: float) -> Tensor:
        """The rows or columns that each rectangle covers, as a boolean ``(n, holes_max, side)``."""
        import torch

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
class ColorJitter(Augmentation):
    """Multiplies the values by a brightness factor."""

    name = "colorjitter"
    does = "a change of brightness"
    is_of_colors: ClassVar[bool] = True
    min_brightness: Annotated[float, Interval(ge=0, le=1e4), "Lowest brightness factor."] = 0.8
    max_brightness: Annotated[float, Interval(ge=0, le=1e4), "Highest brightness factor."] = 1.2

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (_uniform(n, self.min_brightness, self.max_brightness),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        return images * _each(images, params[0])


@dataclass(frozen=True)
class GaussNoise(Augmentation):
    """Adds Gaussian noise with a standard deviation between `min` and `max`."""

    name = "gaussnoise"
    does = "Gaussian noise"
    min: Annotated[float, Fraction, "Lowest standard deviation, for values in [0, 1]."] = 0.2
    max: Annotated[float, Fraction, "Highest standard deviation."] = 0.44

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        import torch

        return _uniform(n, self.min, self.max), torch.randn(n, c, h, w)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        deviation, noise = params
        return images + onto(images, noise) * _each(images, deviation)


@dataclass(frozen=True)
class MotionBlur(Augmentation):
    """Blurs along a line of random angle; its length is an odd number of pixels, 3 to `limit`."""

    name = "motionblur"
    does = "a motion blur"
    limit: Annotated[int, Interval(ge=3, le=255), "Largest kernel size, in pixels."] = 7

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        import torch
        import torch.nn.functional as F
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
class RandGamma(Augmentation):
    """Raises the values to a power that is given in percent: 80 means a gamma of 0.8."""

    name = "randgamma"
    does = "a gamma curve"
    is_of_colors: ClassVar[bool] = True
    min: Annotated[float, Interval(ge=1, le=1e5), "Lowest gamma, in percent."] = 80.0
    max: Annotated[float, Interval(ge=1, le=1e5), "Highest gamma, in percent."] = 120.0

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        return (_uniform(n, self.min / 100, self.max / 100),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        return images.pow(_each(images, params[0]))


@dataclass(frozen=True)
class Grayscale(Augmentation):
    """Replaces the three channels by the same gray value."""

    name = "grayscale"
    does = "a conversion to gray"
    needs_rgb: ClassVar[bool] = True
    method: Annotated[
        Literal["weighted_average", "from_lab", "average", "max", "desaturation"],
        "How gray is computed: luma (ITU-R BT.601), CIE lightness, mean, maximum, or mean of "
        "minimum and maximum.",
    ] = "weighted_average"

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
class Compression(Augmentation):
    """Encodes and decodes as JPEG, with Kornia's differentiable codec (Reich et al. 2024)."""

    name = "compression"
    does = "compression artifacts"
    needs_rgb: ClassVar[bool] = True
    type: Annotated[Literal["jpeg"], "Kind of compression."] = "jpeg"
    quality_min: Annotated[int, Interval(ge=1, le=100), "Lowest quality."] = 99
    quality_max: Annotated[int, Interval(ge=1, le=100), "Highest quality."] = 100

    def draw(self, n: int, c: int, h: int, w: int) -> Params:
        import torch

        return (torch.randint(self.quality_min, self.quality_max + 1, (n,)).float(),)

    def apply(self, images: Tensor, *params: Tensor) -> Tensor:
        from kornia.enhance import jpeg_codec_differentiable

        # Kornia checks the range of the qualities; on the CPU this does not wait for the device.
        return jpeg_codec_differentiable(images, params[0])


# In the order in which they are applied.
ON_BOTH: tuple[type[Augmentation], ...] = (ElasticTransform, OpticalDistortion, CoarseDropout)
ON_INPUT: tuple[type[Augmentation], ...] = (
    ColorJitter,
    GaussNoise,
    MotionBlur,
    RandGamma,
    Grayscale,
    Compression,
)
