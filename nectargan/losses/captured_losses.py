"""`CapturedLosses`: weights and events of a training step that is captured once, then replayed.

A replay runs no Python. A weight that a schedule moves must therefore be a tensor on the device,
filled before the replay: a number would be frozen into the capture for ever. And hooks are called
after the replay, in the order in which the step computed its losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nectargan.errors import LossError
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.loss_manager import LossManager

# How far the values of one step may differ between two runs of it. Kernels that add in any order
# shift a discriminator's update a little, and the generator's losses with it, in 16 bits by
# percents; memory that is gone differs by orders of magnitude.
_RELATIVE, _ABSOLUTE = 0.1, 0.01


class _Weight:
    """The weight of one computation of a loss, here and on the device."""

    def __init__(
        self, entry: LMLoss, value: float, like: Tensor, kwargs: Mapping[str, Any]
    ) -> None:
        self.entry = entry
        self.value = value
        self.kwargs = kwargs
        # Of the loss's own dtype: between two scalars, another one would change that of the result.
        self.tensor = like.new_full((), value)


class _Loss(NamedTuple):
    """One computation of a loss within the step."""

    weight: _Weight
    raw: Tensor  # as the function returned it, detached; filled anew by each replay
    weighted: Tensor


class CapturedLosses:
    """The losses of a captured step.

    The step is run a few times to warm up and once more to be captured, each time within `noting`,
    and followed by `gather`. From then on, a step is `refresh`, a replay, `fire`.

    Args:
        manager: The manager that computes the losses.

    Attributes:
        values: Raw and weighted of each loss in the last run of the step, or in the last replay;
            float32.
    """

    def __init__(self, manager: LossManager) -> None:
        self._manager = manager
        self._functions = self._registered_functions()
        # A loss may be computed several times in a step: by its name, and how often before.
        self._weights: dict[tuple[str, int], _Weight] = {}
        self._losses: list[_Loss] = []
        self.values = torch.empty(0)
        self._is_warm = False

    @property
    def is_stale(self) -> bool:
        """Whether the manager's losses are no longer those that were captured."""
        return self._functions != self._registered_functions()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Within the ``with`` block, losses are weighted by tensors and noted for `fire`, in place
        of those noted before."""
        self._is_warm = bool(self._losses)
        self._losses = []
        with self._manager.weighing_by(self._weigh):
            yield

    def _weigh(self, entry: LMLoss, raw: Tensor, weight_kwargs: Mapping[str, Any]) -> Tensor:
        key = entry.name, sum(loss.weight.entry is entry for loss in self._losses)
        weight = self._weights.get(key)
        if weight is None:
            if self._is_warm:
                raise LossError(
                    f"Loss '{entry.name}' is not computed in every step; such a step cannot be "
                    "captured, set train.cuda_graph to 'off'."
                )
            value = self._manager.weight_in_force(entry, weight_kwargs)
            weight = self._weights[key] = _Weight(entry, value, raw, weight_kwargs)
        weighted = raw * weight.tensor
        self._losses.append(_Loss(weight, raw.detach(), weighted.detach()))
        return weighted

    def gather(self) -> None:
        """Brings all values into one tensor; part of what is captured."""
        pairs = []
        for weight, raw, weighted in self._losses:
            if raw.dim():
                raw = raw.mean()
                weighted = raw * weight.tensor
            pairs += [raw.float(), weighted.float()]
        self.values = torch.stack(pairs) if pairs else torch.empty(0)

    def unlike(self, values: Tensor) -> list[str]:
        """Names of the losses that are no longer what they were. Waits for the device.

        Args:
            values: `values` of a run of the step from the same state.

        Raises:
            LossError: that run computed other losses.
        """
        if values.shape != self.values.shape:
            raise LossError("The step does not compute the same losses each time.")
        same = torch.isclose(
            self.values, values, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True
        ).reshape(len(self._losses), 2)
        return [
            loss.weight.entry.name
            for loss, is_same in zip(self._losses, same.all(dim=1).tolist(), strict=True)
            if not is_same
        ]

    def refresh(self) -> None:
        """Brings the weights in force to the device; before each replay."""
        for weight in self._weights.values():
            value = self._manager.weight_in_force(weight.entry, weight.kwargs)
            if value != weight.value:
                weight.value = value
                weight.tensor.fill_(value)

    def fire(self) -> None:
        """Fires the manager's hooks for every loss of the step; after each replay."""
        # A copy: the next replay must not change what a hook has kept.
        values = self.values.clone().unbind()
        for i, (weight, raw, _) in enumerate(self._losses):
            weight.entry.last_loss_map = raw
            self._manager.fire(weight.entry, weight.value, values[2 * i], values[2 * i + 1])

    def _registered_functions(self) -> list[tuple[str, Callable[..., Tensor]]]:
        losses = self._manager.get_registered_losses().items()
        return [(name, loss.function) for name, loss in losses]
