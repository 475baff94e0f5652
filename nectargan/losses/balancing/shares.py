r"""`ShareRule`: each loss gets the share of the pull on the generated images that it is to have.

The pull of a loss is the norm of its weighted gradient at the generated images. Losses with plain
weights are the anchor, and N is the sum of their pulls. With the smoothed norm :math:`n_k` of the
unweighted gradient of a loss and its share :math:`s_k`, its weight is

.. math:: w_k = \frac{s_k}{1 - \sum_j s_j} \frac{N}{n_k}

so that its pull is the share :math:`s_k` of the sum of all. If every loss has a share, these sum to
1, and :math:`w_k = s_k N / n_k` with the N of the first step, in which all weights count as 1.

The norms are smoothed as in the balancer of Encodec (Défossez et al. 2022, High Fidelity Neural
Audio Compression, section 3.4): an exponential moving average, corrected for its start. Such an
average lags behind a norm that grows, as that of an adversarial loss does early in a run, and the
loss would pull more than its share for hundreds of steps. So the weight is also multiplied by a
factor :math:`e^c`, which follows from the shares :math:`p_k` that were held before (integral
control):

.. math:: c \leftarrow c - g\, \frac{p_k - s_k}{s_k (1 - s_k)}

The share is then held on average. Without smoothing, it is exact at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nectargan.errors import LossError
from nectargan.losses.balancing.balancer import Balancer
from nectargan.scheduling.data import Schedule

# The pull of a loss in a single step exceeds what its share allows at most by this factor. Without
# it, a gradient that comes back after it had vanished would meet the weight of a vanished gradient.
_SURGE = 10.0
_ROUNDING = 1e-6
# The gain g of the factor that corrects what smoothing leaves, as a multiple of 1 - smoothing, and
# its bound: the error of a step is reduced to a half at most.
_GAIN, _MOST_GAIN = 10.0, 0.5
# The largest error of a single step that counts, so that one outlier does not change the weight.
_MOST_ERROR = 3.0
_MOST = math.log(_SURGE)


@dataclass(frozen=True)
class Share:
    """The share of a loss.

    Attributes:
        schedule: The share over the epochs: a number or a schedule, from 0 to below 1.
        smoothing: Part of the smoothed norm that is kept at each step, in [0, 1). With 0 the share
            is held at every step, otherwise on average.
        min: Lowest weight.
        max: Highest weight.

    Raises:
        LossError: If a number is out of range.
    """

    schedule: Schedule | float
    smoothing: float = 0.99
    min: float = 0.0
    max: float = 1e4

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule) and not 0.0 <= self.schedule <= 1.0:
            raise LossError(f"The share {self.schedule!r} is not a number from 0 to 1.")
        if not 0.0 <= self.smoothing < 1.0:
            raise LossError(f"The smoothing {self.smoothing!r} is not at least 0 and below 1.")
        if not 0.0 <= self.min <= self.max:
            raise LossError(f"A weight cannot be from {self.min!r} to {self.max!r}.")

    def value_at(self, epochs: Mapping[str, float]) -> float:
        """The share at a time, given by `Schedule.interval`.

        Raises:
            LossError: If there is a schedule, and no time.
        """
        if not isinstance(self.schedule, Schedule):
            return self.schedule
        if not epochs:
            raise LossError(
                "A share has a schedule, but no epoch is known; call start_step(epoch, step) in "
                "the loop."
            )
        return self.schedule.value_at(epochs[self.schedule.interval])


class ShareRule(Balancer):
    """Holds the shares of losses; the module has the formula.

    A norm that is zero, NaN or infinite does not change the smoothed norm. A weight that cannot be
    computed stays as it was; the first one is 1, or the bound nearest to 1.

    Args:
        losses: Names of all K losses.
        shares: The shares by name of the loss; all others are the anchor.

    Raises:
        LossError: If a share is that of an unknown loss.
    """

    total: Tensor
    mass: Tensor
    last: Tensor
    pull: Tensor
    correction: Tensor
    _ratios: Tensor
    _anchor: Tensor
    _smoothing: Tensor
    _gain: Tensor
    _bounds: Tensor

    def __init__(self, losses: Sequence[str], shares: Mapping[str, Share]) -> None:
        super().__init__(losses)
        for name in shares:
            if name not in self.losses:
                raise LossError(f"There is no loss '{name}' to have a share.")
        self.balanced = tuple(shares)
        self._shares = dict(shares)
        self._set: dict[str, float] = {}
        self._has_anchor = len(shares) < len(self.losses)
        self._smooths = any(share.smoothing for share in shares.values())
        rows = [
            shares.get(name, Share(0.0, smoothing=0.0, min=1.0, max=1.0)) for name in self.losses
        ]
        bounds = torch.tensor([[row.min for row in rows], [row.max for row in rows]])
        # The state: sum and mass of the moving averages, the exponents of the factors that correct
        # them, the weights, and the pull to keep.
        self.register_buffer("total", torch.zeros(len(rows)))
        self.register_buffer("mass", torch.zeros(len(rows)))
        self.register_buffer("correction", torch.zeros(len(rows)))
        self.register_buffer("last", torch.ones(len(rows)).clamp(bounds[0], bounds[1]))
        self.register_buffer("pull", torch.zeros(()))
        # What follows from the config and the epoch.
        anchor = torch.tensor([float(name not in shares) for name in self.losses])
        smoothing = torch.tensor([row.smoothing for row in rows])
        gain = (_GAIN * (1 - smoothing)).clamp(max=_MOST_GAIN).where(smoothing > 0, 0.0)
        self.register_buffer("_ratios", torch.zeros(len(rows)), persistent=False)
        self.register_buffer("_anchor", anchor, persistent=False)
        self.register_buffer("_smoothing", smoothing, persistent=False)
        self.register_buffer("_gain", gain, persistent=False)
        self.register_buffer("_bounds", bounds, persistent=False)

    def completed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """See `Balancer.completed`: version 1.0 did not correct what smoothing leaves."""
        return {"correction": torch.zeros_like(self.correction), **state}

    @property
    def kind(self) -> str:
        """See `Balancer.kind`."""
        return f"{super().kind} with shares of {', '.join(self._shares)}"

    def start_step(self, step: int, epochs: Mapping[str, float]) -> None:
        """Sets the shares at this time.

        Raises:
            LossError: If they cannot be held: one is negative, or their sum is not below 1, or not
                1 if every loss has one.
        """
        super().start_step(step, epochs)
        shares = {name: share.value_at(epochs) for name, share in self._shares.items()}
        total = sum(shares.values())
        if min(shares.values(), default=0.0) < 0 or (
            total >= 1 - _ROUNDING if self._has_anchor else abs(total - 1) > _ROUNDING
        ):
            wanted = "below 1" if self._has_anchor else "1, as every loss has one"
            told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise LossError(
                f"The shares at step {step} are {told}; each must be at least 0, their sum "
                f"{wanted}."
            )
        for name, share in shares.items():
            ratio = share / (1 - total) if self._has_anchor else share / total
            if self._set.get(name) != ratio:
                # Filled, because copying a tensor from the host would wait for the device.
                self._ratios[self.losses.index(name)].fill_(ratio)
                self._set[name] = ratio

    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """See `Balancer.weights`; 1 for the losses of the anchor."""
        is_known = (norms > 0) & (norms < torch.inf)
        pull = torch.dot(norms, self._anchor) if self._has_anchor else self._first_pull(norms)
        smoothed = self._smoothed(norms, is_known) if self._smooths else norms
        found = (self._ratios * pull / smoothed).clamp(self._bounds[0], self._bounds[1])
        is_known = is_known & (pull < torch.inf)
        self.last.copy_(found.where(is_known, self.last))
        if self._smooths:
            self._correct(norms * self.last, is_known)
        return self.last.clone()

    def _first_pull(self, norms: Tensor) -> Tensor:
        """The pull of the first step at which it is finite."""
        pull = norms.sum()
        self.pull.copy_(pull.where((self.pull == 0) & (pull < torch.inf), self.pull))
        return self.pull

    def _smoothed(self, norms: Tensor, is_known: Tensor) -> Tensor:
        kept = self._smoothing.where(is_known, 1.0)
        self.total.copy_(kept * self.total + (1 - kept) * norms.where(is_known, 0.0))
        self.mass.copy_(kept * self.mass + (1 - kept))
        average = self.total / self.mass
        return torch.maximum(average * (-self.correction).exp(), norms / _SURGE)

    def _correct(self, pulls: Tensor, is_known: Tensor) -> None:
        """Changes `correction` by the shares that are held in this step."""
        asked = self._ratios / (1 + self._ratios.sum()) if self._has_anchor else self._ratios
        error = (pulls / pulls.sum() - asked) / (asked * (1 - asked))
        # A weight at a bound cannot follow.
        is_free = (self.last > self._bounds[0]) & (self.last < self._bounds[1])
        is_usable = is_known & is_free & error.isfinite()
        step = self._gain * error.clamp(-_MOST_ERROR, _MOST_ERROR)
        self.correction.sub_(step.where(is_usable, 0.0)).clamp_(-_MOST, _MOST)


def vqgan(
    losses: Sequence[str], loss: str = "G_GAN", weight: float = 1.0, max: float = 1e4
) -> ShareRule:
    """The adaptive weight of VQGAN (Esser et al. 2021, Taming Transformers, eq. 7): the gradient of
    ``loss`` gets ``weight`` times the norm of those of all others, without smoothing. This is the
    share ``weight / (1 + weight)``. VQGAN measures the norms at its last layer; here they are those
    at the generated images.

    Args:
        losses: Names of all losses.
        loss: The loss whose weight is set.
        weight: The factor, above 0.
        max: Highest norm of the others over its own.

    Raises:
        LossError: If there is no such loss, or a number is out of range.
    """
    if not weight > 0:
        raise LossError(f"The weight {weight!r} is not above 0.")
    share = Share(weight / (1 + weight), smoothing=0.0, max=weight * max)
    return ShareRule(losses, {loss: share})
