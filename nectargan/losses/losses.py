"""Loss modules. They return unweighted values; the `LossManager` applies the weights."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import LossError, check_choice

REDUCTIONS = ("mean", "none")


def check_same_shape(owner: str, x: Tensor, y: Tensor) -> None:
    """Raises `LossError` unless both tensors have the same shape ``(N, C, H, W)``."""
    if x.shape != y.shape or x.dim() != 4:
        raise LossError(
            f"{owner}: got tensors of shape {tuple(x.shape)} and {tuple(y.shape)}; "
            "both must have the same shape (N, C, H, W)."
        )


def sum_of(values: Iterable[Tensor]) -> Tensor:
    """The sum of one or more scalars; a single scalar is returned unchanged."""
    return functools.reduce(torch.add, values)


def full_precision(x: Tensor) -> Tensor:
    """``x`` in at least float32, because a mean over many pixels is inaccurate in 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


_ADVERSARIAL: Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]] = {
    # Goodfellow et al. 2014, with the non-saturating loss of G. BCE with logits is softplus(-d) for
    # the label 1 and softplus(d) for the label 0.
    "vanilla": {
        "real": lambda d: F.softplus(-d),
        "fake": F.softplus,
        "generator": lambda d: F.softplus(-d),
    },
    # Mao et al. 2017, with the labels 0 and 1.
    "lsgan": {
        "real": lambda d: (d - 1).square(),
        "fake": torch.square,
        "generator": lambda d: (d - 1).square(),
    },
    # Lim and Ye 2017; Miyato et al. 2018.
    "hinge": {
        "real": lambda d: F.relu(1 - d),
        "fake": lambda d: F.relu(1 + d),
        "generator": torch.neg,
    },
}

ADVERSARIAL_MODES = tuple(_ADVERSARIAL)

# The loss of D on real pairs for another label than 1. The first argument is the label.
_SMOOTHED: Mapping[str, Callable[[float, Tensor], Tensor]] = {
    "vanilla": lambda label, d: F.softplus(d) - label * d,
    "lsgan": lambda label, d: (d - label).square(),
}


class AdversarialLoss(nn.Module):
    """The adversarial loss of the discriminator D or the generator G, from the logits of D.

    ==========  ================  ================  ==============
    mode        D, real pairs     D, fake pairs     G, fake pairs
    ==========  ================  ================  ==============
    vanilla     log(1 + e^-d)     log(1 + e^d)      log(1 + e^-d)
    lsgan       (d - 1)^2         d^2               (d - 1)^2
    hinge       max(0, 1 - d)     max(0, 1 + d)     -d
    ==========  ================  ================  ==============

    Label smoothing replaces the label 1 of real pairs by ``t = 1 - label_smoothing`` (one-sided,
    Salimans et al. 2016). The loss of D on real pairs is then ``log(1 + e^d) - t d`` or
    ``(d - t)^2``.

    Args:
        mode: "vanilla", "lsgan" or "hinge".
        real: Whether the loss rewards logits that say "real": True for D on real pairs and for G,
            False for D on fake pairs.
        generator: Whether this is the loss of G.
        reduction: "mean" over all logits, or "none" for a map of their shape.
        label_smoothing: In [0, 1), for D on real pairs with "vanilla" or "lsgan".

    Raises:
        LossError: If a name is unknown, ``generator`` is True and ``real`` is False, or there is no
            label to smooth.
    """

    def __init__(
        self,
        mode: str = "vanilla",
        real: bool = True,
        generator: bool = False,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_choice(LossError, owner, "mode", mode, ADVERSARIAL_MODES)
        check_choice(LossError, owner, "reduction", reduction, REDUCTIONS)
        if generator and not real:
            raise LossError(f"{owner}: real is False; with generator=True it must be True.")
        self.mode = mode
        self.role = "generator" if generator else "real" if real else "fake"
        self.reduction = reduction
        if not 0.0 <= label_smoothing < 1.0:
            raise LossError(f"{owner}: label_smoothing is {label_smoothing}; it must be in [0, 1).")
        if label_smoothing and (mode not in _SMOOTHED or self.role != "real"):
            raise LossError(
                f"{owner}: label_smoothing is {label_smoothing}, but only the loss of D on real "
                f"pairs with {' or '.join(_SMOOTHED)} has a label to smooth."
            )
        self.label_smoothing = label_smoothing

    def forward(self, *logits: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            *logits: Logits of any shape, one tensor per discriminator. The losses of several
                discriminators are averaged separately and then summed (Wang et al. 2018,
                equation 3).

        Returns:
            A scalar, or with ``reduction="none"`` a map of the shape of the logits; float32 or
            wider.

        Raises:
            LossError: If ``reduction`` is "none" and there is more than one tensor of logits.
        """
        cost_of = _ADVERSARIAL[self.mode][self.role]
        if self.label_smoothing:
            cost_of = functools.partial(_SMOOTHED[self.mode], 1.0 - self.label_smoothing)
        costs = [cost_of(full_precision(each)) for each in logits]
        if self.reduction == "mean":
            return sum_of(cost.mean() for cost in costs)
        if len(costs) != 1:
            raise LossError(f"{type(self).__name__}: reduction is 'none', with several logits.")
        return costs[0]


class R1Penalty(nn.Module):
    """Half the squared gradient of the discriminator at real pairs (Mescheder et al. 2018, R1).

    For each pair it is the L2 norm of the gradient with respect to both images, of the mean logit,
    or of the sum of the mean logits of several scales.
    """

    def forward(self, logits: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
        """Computes the loss, a scalar: the mean over the pairs.

        Args:
            logits: Logits of the real pairs, one tensor ``(N, ...)`` for each scale.
            images: The images ``(N, C, H, W)`` from which they were computed, float32, with
                ``requires_grad``.
        """
        total = sum_of(each.flatten(1).mean(dim=1).sum() for each in logits)
        gradients = torch.autograd.grad(total, images, create_graph=True, allow_unused=True)
        squares = (each.square().flatten(1).sum(dim=1) for each in gradients if each is not None)
        return sum_of(squares).mean() / 2


class FeatureMatchingLoss(nn.Module):
    """The difference between generated and real images in the layers of the discriminator.

    It is the mean absolute difference of each layer, summed over layers and scales (Wang et al.
    2018, equation 4). The logits are not compared, as in the authors' code. A trainer passes the
    features of the discriminator to this loss instead of images, under any registered name.
    """

    def forward(
        self, generated: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """Computes the loss, a scalar.

        Args:
            generated: Features of the generated images: one list per scale with the feature maps of
                the layers, of any shape, and the logits as the last element.
            real: Features of the real images, in the same form; they need no gradient.
        """
        return sum_of(
            (full_precision(ours) - full_precision(theirs)).abs().mean()
            for of_generated, of_real in zip(generated, real, strict=True)
            for ours, theirs in zip(of_generated[:-1], of_real[:-1], strict=True)
        )


class _FilterLoss(nn.Module, ABC):
    """L1 distance between derivatives of two images, channel by channel.

    Borders are replicated, so that a constant image has zero derivatives everywhere. Derivatives
    are computed as differences of shifted images. A convolution on a GPU may round its inputs to 10
    bits (TF32), which is too coarse for differences of neighboring pixels.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        check_choice(LossError, type(self).__name__, "reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    @abstractmethod
    def derivatives(self, padded: Tensor) -> list[Tensor]:
        """The derivatives ``(N, C, H, W)`` of padded images ``(N, C, H + 2, W + 2)``."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes the loss between ``x`` and ``y``, both ``(N, C, H, W)``.

        Returns:
            A scalar, or with ``reduction="none"`` a map ``(N, C, H, W)`` with the mean over the
            derivatives; float32 or wider.

        Raises:
            LossError: If the shapes differ.
        """
        check_same_shape(type(self).__name__, x, y)
        # Derivatives are linear, so the derivative of the difference is enough.
        difference = full_precision(x) - full_precision(y)
        rows = torch.cat((difference[:, :, :1], difference, difference[:, :, -1:]), dim=2)
        padded = torch.cat((rows[..., :1], rows, rows[..., -1:]), dim=3)
        responses = torch.stack(self.derivatives(padded))
        if self.reduction == "mean":
            return responses.abs().mean()
        return responses.abs().mean(dim=0)


class SobelLoss(_FilterLoss):
    """L1 distance between the gradients of two images, the mean of both directions.

    The kernels are those of Sobel and Feldman 1968, divided by 8: a ramp with a slope of s per
    pixel has the response s, so the unit of the loss is the unit of the image per pixel.

    Args:
        reduction: "mean", or "none" for a map of the shape of the images.

    Raises:
        LossError: If the reduction is unknown.
    """

    def derivatives(self, padded: Tensor) -> list[Tensor]:
        """The horizontal and the vertical derivative, each smoothed in the other direction."""
        along_x = (padded[..., 2:] - padded[..., :-2]) / 2
        along_y = (padded[..., 2:, :] - padded[..., :-2, :]) / 2
        return [
            (along_x[..., :-2, :] + 2 * along_x[..., 1:-1, :] + along_x[..., 2:, :]) / 4,
            (along_y[..., :-2] + 2 * along_y[..., 1:-1] + along_y[..., 2:]) / 4,
        ]


class LaplacianLoss(_FilterLoss):
    """L1 distance between the Laplacians (second derivatives) of two images.

    The kernel is the five-point stencil, with 1 at the four neighbors and -4 in the center
    (Abramowitz and Stegun 1964, 25.3.30). The image x^2 + y^2, in pixels, has the response 4.

    Args:
        reduction: "mean", or "none" for a map of the shape of the images.

    Raises:
        LossError: If the reduction is unknown.
    """

    def derivatives(self, padded: Tensor) -> list[Tensor]:
        """The Laplacian."""
        beside = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        above_and_below = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
        return [beside + above_and_below - 4 * padded[..., 1:-1, 1:-1]]
