"""The metrics of validation: how alike a generated image and its target are.

`METRICS` is the one list of those that are built in. To add one, write its function and its entry.
torch is imported by whoever calls a function, so that a command can ask for names and directions at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Metric(NamedTuple):
    """A metric of validation.

    Attributes:
        name: Its series are ``val/<name>`` and ``best/<name>``.
        function: From generated images and their targets, both ``(N, C, H, W)``, float32 in
            [0, 1], to a value for each image, ``(N,)``, or to their mean, a scalar.
        unit: Unit of the values; empty for none.
        higher_is_better: Whether of two values the larger one is the better one.
        label: What it is called where space is short.
        least_side: Sides of the smallest images that it can measure, in pixels.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    unit: str = ""
    higher_is_better: bool = True
    label: str = ""
    least_side: int = 1


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The structural similarity ``(N,)`` of images in [0, 1], as Wang et al. 2004 define it: the
    mean over all windows, 11 x 11 Gaussians of 1.5 pixels, that lie within the image."""
    import torch
    from kornia.metrics import ssim as kornia_ssim

    # In float64 on CUDA: a convolution of float32 may be rounded to TF32 there, and the variances
    # within SSIM are small differences of large numbers.
    exact = torch.float64 if x.is_cuda else torch.float32
    values: Tensor = kornia_ssim(x.to(exact), y.to(exact), 11, eps=0.0, padding="valid")
    return values.float().mean(dim=(1, 2, 3))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """The peak signal-to-noise ratio ``(N,)`` of images in [0, 1]: -10 log10 of the mean squared
    difference."""
    return -10 * (x - y).square().mean(dim=(1, 2, 3)).log10()


def l1(x: Tensor, y: Tensor) -> Tensor:
    """The mean absolute difference ``(N,)`` of images."""
    return (x - y).abs().mean(dim=(1, 2, 3))


# In the order in which runs are judged by them, where nobody says by which.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("ssim", ssim, label="ssim", least_side=11),
        Metric("psnr", psnr, unit="dB", label="psnr"),
        Metric("l1", l1, higher_is_better=False, label="l1"),
    )
}
# The series by which a run is judged, if it has it and nobody says otherwise.
USUAL_SERIES = f"val/{next(iter(METRICS))}"


def label_of(series: str) -> str:
    """The label of ``val/<name>``; of a metric of one's own, its name."""
    name = series.partition("/")[2]
    return METRICS[name].label if name in METRICS else name


def is_lower_better(series: str, own: Collection[str] = ()) -> bool:
    """Whether of two values of ``val/<name>`` or ``best/<name>`` the smaller one is the better one.

    Args:
        series: The series.
        own: Names of further metrics, not built in, of which that is true.
    """
    name = series.partition("/")[2]
    return not METRICS[name].higher_is_better if name in METRICS else name in own
