"""Loss modules: plain functions of tensors, without a weight; the `LossManager` weights them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import LossError, did_you_mean

REDUCTIONS = ("mean", "none")


def check_choice(owner: str, name: str, value: object, allowed: Collection[str]) -> None:
    """Raises `LossError` unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise LossError(f"{owner}: {name} is {value!r}.{did_you_mean(str(value), allowed)}")


def check_same_shape(owner: str, x: Tensor, y: Tensor) -> None:
    """Raises `LossError` unless both are ``(N, C, H, W)`` of one shape (no broadcasting)."""
    if x.shape != y.shape or x.dim() != 4:
        raise LossError(
            f"{owner}: got tensors of shape {tuple(x.shape)} and {tuple(y.shape)}; "
            "both must have one shape (N, C, H, W)."
        )


def sum_of(values: Iterable[Tensor]) -> Tensor:
    """The sum of one or more scalars; of a single one, that scalar itself."""
    return functools.reduce(torch.add, values)


def full_precision(x: Tensor) -> Tensor:
    """``x`` in at least float32: a mean over many pixels is too coarse in 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


_ADVERSARIAL: Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]] = {
    # Goodfellow et al. 2014, G in its non-saturating form. BCE with logits against 1 is
    # softplus(-d), against 0 softplus(d).
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


class AdversarialLoss(nn.Module):
    """What logits of the discriminator cost one of the two players.

    ==========  ================  ================  ==============
    mode        D, real pairs     D, fake pairs     G, fake pairs
    ==========  ================  ================  ==============
    vanilla     log(1 + e^-d)     log(1 + e^d)      log(1 + e^-d)
    lsgan       (d - 1)^2         d^2               (d - 1)^2
    hinge       max(0, 1 - d)     max(0, 1 + d)     -d
    ==========  ================  ================  ==============

    Args:
        mode: "vanilla", "lsgan" or "hinge".
        real: What the player wants the logits to say: True for D on real pairs and for G,
            False for D on fake pairs.
        generator: The player is G.
        reduction: "mean" over all logits, or "none" for a map of their shape.

    Raises:
        LossError: an unknown name, or a generator that wants its images to look fake.
    """

    def __init__(
        self,
        mode: str = "vanilla",
        real: bool = True,
        generator: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_choice(owner, "mode", mode, ADVERSARIAL_MODES)
        check_choice(owner, "reduction", reduction, REDUCTIONS)
        if generator and not real:
            raise LossError(f"{owner}: real is False; with generator=True it must be True.")
        self.mode = mode
        self.role = "generator" if generator else "real" if real else "fake"
        self.reduction = reduction

    def forward(self, *logits: Tensor) -> Tensor:
        """The loss of logits of any shape.

        Args:
            *logits: Of a discriminator; or of several, of which each is averaged by itself, and the
                sum is returned (Wang et al. 2018, equation 3).

        Returns:
            A scalar, or with ``reduction="none"`` a map of the shape of the logits; float32 or
            wider.

        Raises:
            LossError: a map is wanted of more than one.
        """
        costs = [_ADVERSARIAL[self.mode][self.role](full_precision(each)) for each in logits]
        if self.reduction == "mean":
            return sum_of(cost.mean() for cost in costs)
        if len(costs) != 1:
            raise LossError(f"{type(self).__name__}: reduction is 'none', with several logits.")
        return costs[0]


class FeatureMatchingLoss(nn.Module):
    """How far the generated images are from the real ones in the layers of the discriminator: the
    mean absolute difference of each layer, summed over layers and scales (Wang et al. 2018,
    equation 4).

    The logits are no features here, as in the authors' code. A trainer gives this loss features
    instead of images, by whatever name it is registered.
    """

    def forward(
        self, generated: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            generated: Of the generated images, for each scale the maps of the layers, of any shape,
                and the logits last.
            real: Of the real images; no gradient is needed.
        """
        return sum_of(
            (full_precision(ours) - full_precision(theirs)).abs().mean()
            for of_generated, of_real in zip(generated, real, strict=True)
            for ours, theirs in zip(of_generated[:-1], of_real[:-1], strict=True)
        )


class _FilterLoss(nn.Module, ABC):
    """L1 between derivatives of two images, channel by channel.

    Borders are replicated, so a flat image has none anywhere. Derivatives are differences of
    shifted images, not convolutions: a GPU may round what goes into a convolution to 10 bits
    (TF32), and here neighbours cancel each other.
    """

    def __init__(self, reduction: str) -> None:
        super().__init__()
        check_choice(type(self).__name__, "reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    @abstractmethod
    def derivatives(self, padded: Tensor) -> list[Tensor]:
        """The derivatives ``(N, C, H, W)`` of an image ``(N, C, H + 2, W + 2)``."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of ``x`` against ``y``, both ``(N, C, H, W)``.

        Returns:
            A scalar, or with ``reduction="none"`` a map ``(N, C, H, W)`` that averages the
            derivatives; float32 or wider.

        Raises:
            LossError: the shapes differ.
        """
        check_same_shape(type(self).__name__, x, y)
        # Derivatives are linear: that of the difference is the difference of them.
        difference = full_precision(x) - full_precision(y)
        rows = torch.cat((difference[:, :, :1], difference, difference[:, :, -1:]), dim=2)
        padded = torch.cat((rows[..., :1], rows, rows[..., -1:]), dim=3)
        responses = torch.stack(self.derivatives(padded))
        if self.reduction == "mean":
            return responses.abs().mean()
        return responses.abs().mean(dim=0)


class SobelLoss(_FilterLoss):
    """L1 between the gradients of two images: the mean of its horizontal and vertical part.

    The kernels are those of Sobel and Feldman 1968, divided by 8: a ramp that rises by s a pixel
    has the response s, so the loss is in the unit of the image per pixel.

    Args:
        reduction: "mean", or "none" for a map of the shape of the images.

    Raises:
        LossError: an unknown reduction.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def derivatives(self, padded: Tensor) -> list[Tensor]:
        """The horizontal and the vertical one, each smoothed across its direction."""
        along_x = (padded[..., 2:] - padded[..., :-2]) / 2
        along_y = (padded[..., 2:, :] - padded[..., :-2, :]) / 2
        return [
            (along_x[..., :-2, :] + 2 * along_x[..., 1:-1, :] + along_x[..., 2:, :]) / 4,
            (along_y[..., :-2] + 2 * along_y[..., 1:-1] + along_y[..., 2:]) / 4,
        ]


class LaplacianLoss(_FilterLoss):
    """L1 between the Laplacians (second derivatives) of two images.

    The kernel is the five-point stencil, 1 at the four neighbours and -4 in the middle
    (Abramowitz and Stegun 1964, 25.3.30): x^2 + y^2, in pixels, has the response 4.

    Args:
        reduction: "mean", or "none" for a map of the shape of the images.

    Raises:
        LossError: an unknown reduction.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def derivatives(self, padded: Tensor) -> list[Tensor]:
        """The Laplacian."""
        beside = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        above_and_below = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
        return [beside + above_and_below - 4 * padded[..., 1:-1, 1:-1]]
