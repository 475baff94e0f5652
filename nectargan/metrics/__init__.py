"""The metrics, which compare generated images with their targets, one by one or as sets.

`METRICS` lists the built-in metrics. To add one, write its function and an entry in the list. The
functions import torch when they are called, so that commands that only need names start quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Metric(NamedTuple):
    """A metric of validation or of ``nectargan test``.

    Attributes:
        name: Name of the metric; its series are ``val/<name>``, ``best/<name>`` and
            ``test/<name>``.
        function: Takes generated images and their targets, both ``(N, C, H, W)``, float32 in
            [0, 1]. Returns one value per image, ``(N,)``, or their mean, a scalar. If
            there is a `network`, takes what it sees in either.
        unit: Unit of the values; empty if there is none.
        higher_is_better: Whether a higher value is better.
        label: A short name for tables.
        least_side: The smallest height and width that the metric can measure, in pixels.
        network: The network that it looks through, a name in `nectargan.metrics.networks.NETWORKS`.
        of_set: Whether it has one value for a set of images, not one for each image. Such a metric
            is for ``nectargan test`` only.
        of_pixels: Whether it compares pixel by pixel, and the function takes weights of the pixels
            ``(N, 1, H, W)`` as a third argument.
    """

    name: str
    function: Callable[..., Tensor]
    unit: str = ""
    higher_is_better: bool = True
    label: str = ""
    least_side: int = 1
    network: str = ""
    of_set: bool = False
    of_pixels: bool = False

    def measure(self, x: Any, y: Any, mask: Tensor | None = None) -> Tensor:
        """The metric of images that are alike where the mask is false.

        Args:
            x: What the function takes first.
            y: What it takes second.
            mask: Where pixels are valid, ``(N, 1, H, W)``, bool; ``None`` if they are everywhere.

        Returns:
            One value per image, 0 for an image without a valid pixel; or a scalar. A metric of
            pixels is the mean over the valid ones; any other sees the whole images.
        """
        if mask is None:
            return self.function(x, y)
        import torch

        share = mask.float().mean(dim=(1, 2, 3), keepdim=True)
        weights = (mask / share,) if self.of_pixels else ()
        values = self.function(x, y, *weights)
        return torch.where(share.flatten() > 0, values, 0.0)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of images ``(N, C, H, W)`` in [0, 1].

    The window is an 11 x 11 Gaussian with a standard deviation of 1.5 pixels. The result ``(N,)``
    is the mean over all windows that lie inside the image, and over the channels.
    """
    import torch
    from kornia.metrics import ssim as kornia_ssim

    # float64 on CUDA, where a float32 convolution may use TF32: the variances in SSIM are small
    # differences of large numbers and would lose their precision.
    exact = torch.float64 if x.is_cuda else torch.float32
    values: Tensor = kornia_ssim(x.to(exact), y.to(exact), 11, eps=0.0, padding="valid")
    return values.float().mean(dim=(1, 2, 3))


def psnr(x: Tensor, y: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB of images ``(N, C, H, W)`` in [0, 1].

    The result ``(N,)`` is -10 log10 of the mean squared difference; infinity for equal images. The
    weights of the pixels, ``(N, 1, H, W)``, have mean 1.
    """
    return -10 * ((x - y).square() * weights).mean(dim=(1, 2, 3)).log10()


def l1(x: Tensor, y: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """Mean absolute difference ``(N,)`` of images ``(N, C, H, W)``; weights as for `psnr`."""
    return ((x - y).abs() * weights).mean(dim=(1, 2, 3))


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity over five scales (Wang et al. 2003) of images in [0, 1], ``(N,)``."""
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    exact = torch.float64 if x.is_cuda else torch.float32
    values: Tensor = multiscale_structural_similarity_index_measure(
        x.to(exact), y.to(exact), data_range=1.0, reduction="none"
    )
    return values.float().reshape(len(x))


def lpips(x: list[Tensor], y: list[Tensor]) -> Tensor:
    """LPIPS ``(N,)`` (Zhang et al. 2018, weights 0.1) of two results of `LPIPSFeatures`."""
    total: Any = 0
    for mine, other, weights in zip(x, y, _lpips_weights(x[1].shape[1]), strict=True):
        total = total + ((mine - other).square() * weights.to(mine)).sum(dim=1).mean(dim=(1, 2))
    result: Tensor = total
    return result


def dists(x: list[Tensor], y: list[Tensor]) -> Tensor:
    """DISTS ``(N,)`` (Ding et al. 2020) of two results of `DISTSFeatures`."""
    import torch

    small = 1e-6
    alpha, beta = (weights.to(x[0]) for weights in _dists_weights())
    texture, structure = [], []
    for mine, other in zip(x, y, strict=True):
        a, b = (each.mean(dim=(2, 3), keepdim=True) for each in (mine, other))
        covariance = ((mine - a) * (other - b)).mean(dim=(2, 3))
        variances = ((mine - a).square() + (other - b).square()).mean(dim=(2, 3))
        texture.append(((2 * a * b + small) / (a.square() + b.square() + small))[..., 0, 0])
        structure.append((2 * covariance + small) / (variances + small))
    alike = torch.cat(texture, 1) @ alpha + torch.cat(structure, 1) @ beta
    values: Tensor = 1 - alike / (alpha.sum() + beta.sum())
    return values


def fid(x: Tensor, y: Tensor) -> Tensor:
    """Frechet distance, a scalar, of two sets of features ``(N, D)`` (Heusel et al. 2017).

    For centered features A and B, the trace of the root of the product of their covariances is the
    sum of the singular values of A B^T / (N - 1). This needs no root of a singular matrix.
    """
    import torch

    triangles = []
    distance = (x.double().mean(0) - y.double().mean(0)).square().sum()
    for features in (x.double(), y.double()):
        centered = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        distance += centered.square().sum()
        triangles.append(torch.linalg.qr(centered, mode="r").R)
    roots: Tensor = torch.linalg.svdvals(triangles[0] @ triangles[1].T)
    return distance - 2 * roots.sum()


def kid(x: Tensor, y: Tensor, counts: Tensor | None = None) -> Tensor:
    """Squared maximum mean discrepancy of two sets of features ``(N, D)``, without bias, with the
    kernel (x y / D + 1)^3 (Binkowski et al. 2018).

    Args:
        x: Features of the generated images.
        y: Features of their targets.
        counts: How often each pair occurs in a sample, ``(B, N)``; ``None``: once. A pair that
            occurs twice is not compared with itself.

    Returns:
        One value per sample, ``(B,)``; a scalar without ``counts``.
    """
    x, y = x.double(), y.double()
    count, width = x.shape
    across = (x @ y.T / width + 1) ** 3
    between = (x @ x.T / width + 1) ** 3 + (y @ y.T / width + 1) ** 3
    between -= (across + across.T) * (1 - 1 / count)
    between.fill_diagonal_(0)
    samples = x.new_ones((1, count)) if counts is None else counts.to(x)
    pairs = count**2 - samples.square().sum(1)
    own = samples @ across.diagonal() / count
    values: Tensor = ((samples @ between) * samples).sum(1) / pairs - 2 / count * own
    return values[0] if counts is None else values


@cache
def _lpips_weights(second_width: int) -> list[Tensor]:
    """The weights ``(C, 1, 1)`` of each layer's channels, of the network whose second layer has so
    many channels."""
    net = {192: "alex", 128: "vgg"}[second_width]
    state = _calibration(f"lpips_models/{net}.pth")
    return [weights.flatten()[:, None, None] for weights in state.values()]


@cache
def _dists_weights() -> tuple[Tensor, Tensor]:
    """The weights of texture and structure of each channel."""
    state = _calibration("dists_models/weights.pt")
    return state["alpha"].detach().flatten(), state["beta"].detach().flatten()


def _calibration(file: str) -> Any:
    """What the authors of a metric fitted to human judgements; torchmetrics ships it."""
    import importlib.resources

    import torch

    folder = importlib.resources.files("torchmetrics.functional.image")
    with folder.joinpath(file).open("rb") as stream:
        return torch.load(stream, map_location="cpu", weights_only=True)


# In order of preference: runs are ranked by the first metric unless the user names another one.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("ssim", ssim, label="ssim", least_side=11),
        Metric("psnr", psnr, unit="dB", label="psnr", of_pixels=True),
        Metric("l1", l1, higher_is_better=False, label="l1", of_pixels=True),
        Metric("ms_ssim", ms_ssim, label="ms-ssim", least_side=176),
        Metric("lpips", lpips, "", False, "lpips", 31, "lpips_alexnet"),
        Metric("lpips_vgg", lpips, "", False, "lpips-vgg", 16, "lpips_vgg16"),
        Metric("dists", dists, "", False, "dists", 1, "dists_vgg16"),
        Metric("fid", fid, "", False, "fid", 1, "inception", of_set=True),
        Metric("kid", kid, "", False, "kid", 1, "inception", of_set=True),
    )
}
# Validation can measure the metrics of single images; it measures the first three by default.
OF_VALIDATION = tuple(name for name, metric in METRICS.items() if not metric.of_set)
USUAL = OF_VALIDATION[:3]
# The default series for ranking runs.
USUAL_SERIES = f"val/{next(iter(METRICS))}"


def label_of(series: str) -> str:
    """The short name of ``val/<name>`` or ``test/<name>``; for a custom metric, its name."""
    name = series.rpartition("/")[2]
    return METRICS[name].label if name in METRICS else name


def is_lower_better(series: str, own: Collection[str] = ()) -> bool:
    """Whether a lower value of a series is better.

    Args:
        series: ``val/<name>``, ``best/<name>`` or ``test/<name>``.
        own: Names of custom metrics of which lower values are better.
    """
    name = series.rpartition("/")[2]
    return not METRICS[name].higher_is_better if name in METRICS else name in own
