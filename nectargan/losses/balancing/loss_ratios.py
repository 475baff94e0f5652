r"""Rules that follow from the values of the losses alone: `SoftAdapt`, `ReLoBRaLo` and `DWA`.

Each compares the mean :math:`L_k` of a loss in a window of steps with that of an earlier window.
The K weights change at the end of a window and sum to K, so that equal weights are 1. Losses count
with the weight of the config.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from nectargan.errors import LossError
from nectargan.losses.balancing.balancer import Balancer


class _LossRatios(Balancer):
    """The means of the losses in windows of steps. NaN and infinite values are left out."""

    total: Tensor
    count: Tensor
    previous: Tensor
    first: Tensor
    windows: Tensor
    last: Tensor

    def __init__(self, losses: Sequence[str], every_n_steps: int) -> None:
        super().__init__(losses)
        if type(every_n_steps) is not int or every_n_steps < 1:
            raise LossError(f"every_n_steps is {every_n_steps!r}; it must be 1 or more.")
        self._every_n_steps = every_n_steps
        for name in ("total", "count", "previous", "first"):
            self.register_buffer(name, torch.zeros(len(self.losses)))
        self.register_buffer("windows", torch.zeros(()))
        self.register_buffer("last", torch.ones(len(self.losses)))

    def observe(self, values: Tensor) -> None:
        """Adds the values to the window."""
        is_known = values.isfinite()
        self.total.add_(values.where(is_known, 0.0))
        self.count.add_(is_known)

    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """See `Balancer.weights`."""
        is_end = step % self._every_n_steps == 0
        mean = self.total / self.count
        found = self.from_means(mean)
        is_usable = is_end & (self.windows > 0) & found.isfinite().all()
        self.last.copy_(found.where(is_usable, self.last))
        self.first.copy_(mean.where(is_end & (self.windows == 0), self.first))
        self.previous.copy_(mean.where(is_end, self.previous))
        for sums in (self.total, self.count):
            sums.masked_fill_(is_end, 0.0)
        self.windows.add_(is_end)
        return self.last.clone()

    @abstractmethod
    def from_means(self, mean: Tensor) -> Tensor:
        """The weights ``(K,)`` that follow from the means ``(K,)`` of the window that ends."""

    def _share_out(self, scores: Tensor) -> Tensor:
        return len(self.losses) * scores.softmax(dim=0)


def _ratio(mean: Tensor, earlier: Tensor) -> Tensor:
    """``mean / earlier``; 1 where one of them is not positive, as of a hinge loss."""
    return torch.where((mean > 0) & (earlier > 0), mean / earlier, 1.0)


class DWA(_LossRatios):
    r"""Dynamic weight average (Liu et al. 2019, End-to-End Multi-Task Learning with Attention,
    eq. 7): :math:`w_k = K\,\mathrm{softmax}_k(r / T)`, where :math:`r_k` is the ratio of the means
    of the last two windows. In the paper, a window is an epoch.

    Args:
        losses: Names of the losses.
        temperature: T, above 0.
        every_n_steps: Length of a window.

    Raises:
        LossError: If a number is out of range.
    """

    def __init__(
        self, losses: Sequence[str], temperature: float = 2.0, every_n_steps: int = 100
    ) -> None:
        super().__init__(losses, every_n_steps)
        self._temperature = _above_0("temperature", temperature)

    def from_means(self, mean: Tensor) -> Tensor:
        """See the class."""
        return self._share_out(_ratio(mean, self.previous) / self._temperature)


class SoftAdapt(_LossRatios):
    r"""SoftAdapt (Heydari et al. 2019, section 3.1): :math:`w_k = K\,\mathrm{softmax}_k(\beta s)`,
    where :math:`s_k` is the change of the mean from one window to the next.

    Args:
        losses: Names of the losses.
        beta: With a positive one, losses that fall more slowly get more weight.
        normalized: Whether the changes are divided by the sum of their absolute values.
        loss_weighted: Whether the softmax is weighted by the means of the losses.
        every_n_steps: Length of a window.

    Raises:
        LossError: If a number is out of range.
    """

    def __init__(
        self,
        losses: Sequence[str],
        beta: float = 0.1,
        normalized: bool = True,
        loss_weighted: bool = False,
        every_n_steps: int = 100,
    ) -> None:
        super().__init__(losses, every_n_steps)
        self._beta, self._normalized, self._loss_weighted = float(beta), normalized, loss_weighted

    def from_means(self, mean: Tensor) -> Tensor:
        """See the class."""
        slopes = mean - self.previous
        if self._normalized:
            slopes = slopes / slopes.abs().sum().clamp(min=torch.finfo(slopes.dtype).tiny)
        weights = self._share_out(self._beta * slopes)
        if self._loss_weighted:
            weights = weights * mean
            weights = len(self.losses) * weights / weights.sum()
        return weights


class ReLoBRaLo(_LossRatios):
    r"""Relative loss balancing with random lookback (Bischof & Kraus 2021, Multi-Objective Loss
    Balancing for Physics-Informed Deep Learning). With
    :math:`\hat w_k(t') = K\,\mathrm{softmax}_k(L / (T L(t')))`,

    .. math:: w = \alpha (\rho\, w + (1 - \rho)\, \hat w(\text{first}))
                  + (1 - \alpha)\, \hat w(\text{previous})

    where :math:`\rho` is 1 with a given probability, else 0, drawn for each window.

    Args:
        losses: Names of the losses.
        temperature: T, above 0.
        alpha: Part of the old weights that is kept, in [0, 1].
        rho: Probability that the first window is not looked back at, in [0, 1].
        every_n_steps: Length of a window.

    Raises:
        LossError: If a number is out of range.
    """

    def __init__(
        self,
        losses: Sequence[str],
        temperature: float = 0.1,
        alpha: float = 0.999,
        rho: float = 0.999,
        every_n_steps: int = 1,
    ) -> None:
        super().__init__(losses, every_n_steps)
        self._temperature = _above_0("temperature", temperature)
        for name, value in (("alpha", alpha), ("rho", rho)):
            if not 0.0 <= value <= 1.0:
                raise LossError(f"{name} is {value!r}; it must be from 0 to 1.")
        self._alpha, self._rho = alpha, rho

    def from_means(self, mean: Tensor) -> Tensor:
        """See the class."""
        since_first = self._share_out(_ratio(mean, self.first) / self._temperature)
        since_previous = self._share_out(_ratio(mean, self.previous) / self._temperature)
        keeps = torch.rand((), device=mean.device) < self._rho
        old = self.last.where(keeps, since_first)
        return self._alpha * old + (1 - self._alpha) * since_previous


def _above_0(name: str, value: float) -> float:
    if not value > 0:
        raise LossError(f"{name} is {value!r}; it must be above 0.")
    return float(value)
