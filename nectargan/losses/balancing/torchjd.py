"""`TorchJD`: weights that the package torchjd computes from the products of the gradients."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.errors import LossError, did_you_mean
from nectargan.losses.balancing.balancer import Balancer
from nectargan.wording import one_line

log = logging.getLogger("nectargan")

_SUFFIX = "Weighting"


class TorchJD(Balancer):
    """Asks a weighting of torchjd (Quinton & Rey 2024, Jacobian Descent for Multi-Objective
    Optimization), such as UPGrad, CAGrad or MGDA, every n steps.

    The weighting gets the Gramian of the gradients at the generated images, mean over the steps
    since it was last asked, on the CPU. It is asked between two steps, outside of a captured graph,
    and reading the Gramian waits for the device. Until then all weights are 1. Weights that are not
    finite, or a weighting that fails, leave the weights as they are, with a warning.

    Args:
        losses: Names of the losses.
        weighting: Name of the weighting: that of a class in ``torchjd.aggregation``, with or
            without "Weighting" at its end.
        every_n_steps: Steps between two times that it is asked.
        **arguments: Keyword arguments of that class.

    Raises:
        LossError: If torchjd, or a package that the weighting needs, is not installed, there is no
            such weighting, or it refuses the arguments.
    """

    total: Tensor
    count: Tensor
    last: Tensor

    def __init__(
        self,
        losses: Sequence[str],
        weighting: str = "UPGrad",
        every_n_steps: int = 10,
        **arguments: Any,
    ) -> None:
        super().__init__(losses)
        if type(every_n_steps) is not int or every_n_steps < 1:
            raise LossError(f"every_n_steps is {every_n_steps!r}; it must be 1 or more.")
        self._every_n_steps = every_n_steps
        self.weighting = _make(weighting, arguments)
        self.register_buffer("total", torch.zeros(len(self.losses), len(self.losses)))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.ones(len(self.losses)))

    def start_step(self, step: int, epochs: Mapping[str, float]) -> None:
        """Asks the weighting, if it is time."""
        super().start_step(step, epochs)
        if step > 1 and (step - 1) % self._every_n_steps == 0:
            self._ask()

    @torch.no_grad()
    def _ask(self) -> None:
        count = self.count.item()
        if not count:
            return
        gramian = (self.total / count).cpu()
        try:
            weights = self.weighting(gramian)
            if weights.shape != self.last.shape or not weights.isfinite().all():
                raise ValueError(f"it returned {weights.tolist()}")
        except Exception as error:  # whatever a solver raises
            log.warning(
                "the weighting %s failed, and all weights stay as they are: %s",
                type(self.weighting).__name__,
                one_line(error),
            )
        else:
            self.last.copy_(weights)
        self.total.zero_()
        self.count.zero_()

    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """See `Balancer.weights`."""
        is_usable = gramian.isfinite().all()
        self.total.add_(gramian.where(is_usable, 0.0))
        self.count.add_(is_usable)
        return self.last.clone()


def _make(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise LossError(
            f"torchjd cannot be imported ({one_line(error)}); install it with pip install "
            "'nectargan[torchjd]'."
        ) from None
    known = [each.removesuffix(_SUFFIX) for each in aggregation.__all__ if each.endswith(_SUFFIX)]
    known.remove("")  # their base class
    short = name.removesuffix(_SUFFIX)
    if short not in known:
        raise LossError(f"torchjd has no weighting '{name}'.{did_you_mean(short, known)}")
    try:
        weighting: nn.Module = getattr(aggregation, short + _SUFFIX)(**arguments)
    except (ImportError, TypeError, ValueError) as error:
        raise LossError(
            f"its weighting '{short}' cannot be made: {one_line(error).rstrip('.')}."
        ) from None
    return weighting
