"""`LossManager` computes and weights losses, and calls hooks with the results.

The order of calls in one training step::

    manager.start_step(epoch, step)              # called once by the training loop
    for each loss that the step computes:
        raw      = function(*inputs)             # compute_loss, compute_loss_xy
        weight   = schedule.value_at(epoch)      # or the constant loss_weight
        weighted = raw * weight
        last_loss_map = raw.detach()             # not averaged, on its device
        for hook in hooks:                       # in the order of registration
            hook(LossEvent(name, tags, raw, weight, weighted, epoch, step))
        return weighted                          # with its gradient
    loss.backward(); optimizer.step()            # no hook is called here

With ``with manager.gradients_at(generated) as fake``, the losses are computed from ``fake``, and
the end of the block makes the backward pass and calls the gradient hooks. If losses have shares, or
there is a `Balancer`, the weights of the losses in the block follow from their gradients, and the
loss hooks are called at the end of the block too.

A hook gets detached scalars and may keep them. A loss that returns a map is passed as its mean. A
hook must not read the values during the step (``.item()``), because that waits for the device;
`LossRecorder` shows how to read them later.

In a captured step (`CapturedLosses`), all hooks are called after the replay of the graph, for the
same losses in the same order: first the loss hooks, then those of metrics and of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nectargan.errors import LossError, UnknownLossError, did_you_mean
from nectargan.losses.gradient_blocks import GradientBlocks, Pending
from nectargan.losses.lm_data import LMLoss


class LossManager(GradientBlocks):
    """Registry of weighted losses.

    Args:
        config: Unused; accepted for code written for v0.2.3.
        experiment_directory: Unused; accepted for code written for v0.2.3.

    Attributes:
        epoch: The current epoch, from 1; ``None`` until an epoch is given.
        step: The current step, from 1.
        balancer: The rule that sets the weights of the losses within `gradients_at`. For losses
            with a share, a `ShareRule` is made at the first block if there is none.
    """

    def __init__(
        self, config: Any = None, experiment_directory: str | PathLike[str] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.experiment_directory = Path(experiment_directory) if experiment_directory else None
        self._seen_in_step: set[str] = set()

    # --- epoch and step ------------------------------------------------------------------------

    def start_step(self, epoch: int, step: int, fraction: float = 1.0) -> None:
        """Sets the epoch and the step for all losses. The training loop calls it at each step.

        Calling it is optional. Without it, an ``epoch`` given to `compute_loss` holds until another
        one is given, and a new step begins when a loss is computed again.

        Args:
            epoch: Epoch, from 1.
            step: Step since the start of the run, from 1.
            fraction: Fraction of the epoch that is finished after this step, in (0, 1]. Schedules
                with ``interval="step"`` are evaluated at ``epoch - 1 + fraction``.

        Raises:
            LossError: If the epoch or the step is below 1.
        """
        if epoch < 1 or step < 1:
            raise LossError(f"Epoch {epoch}, step {step}: epochs and steps count from 1.")
        self.epoch = epoch
        self.step = step
        self._epoch_by_interval = {"epoch": epoch, "step": epoch - 1 + fraction}
        self._loop_tells_steps = True
        if self.balancer is not None:
            self.balancer.start_step(step, self._epoch_by_interval)

    # --- computation ---------------------------------------------------------------------------

    def compute_loss_xy(
        self,
        loss_name: str,
        x: Tensor,
        y: Tensor,
        epoch: float | None = None,
        loss_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Computes the weighted loss between ``x`` and ``y``; see `compute_loss`."""
        return self.compute_loss(loss_name, x, y, epoch=epoch, loss_kwargs=loss_kwargs)

    def compute_loss(
        self,
        name: str,
        *inputs: Any,
        epoch: float | None = None,
        loss_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Calls a loss function, weights the result and calls the hooks.

        Args:
            name: Name of a registered loss.
            *inputs: Arguments of the loss function.
            epoch: Epoch at which the weight is computed, from 1; fractions are allowed. It is also
                used for later computations that give no epoch.
            loss_kwargs: Keyword arguments of the loss function. The dictionary under
                ``"weight_kwargs"`` is passed to the schedule function instead.

        Returns:
            ``raw * weight`` with its gradient, in the shape that the loss function returned. A
            weight that follows from the gradients is not known yet, and the result is without it.

        Raises:
            UnknownLossError: If there is no such loss.
            LossError: If the loss has a schedule and no epoch is known, the epoch is not above 0,
                the loss function does not return a tensor, or the loss has a share and is not
                computed within `gradients_at`.
        """
        entry = self._losses.get(name)
        if entry is None:
            raise UnknownLossError(
                f"There is no loss named '{name}'." + did_you_mean(name, self._losses)
            )
        if entry.share is not None and self._cut is None:
            raise LossError(
                f"Loss '{name}' has a share: its weight follows from the gradients, so it must be "
                "computed within gradients_at."
            )
        if epoch is not None:
            if not 0 < epoch < math.inf:
                raise LossError(f"Epoch {epoch} of loss '{name}': epochs count from 1.")
            self.epoch = math.ceil(epoch)
            self._epoch_by_interval = {"epoch": epoch, "step": epoch}
        if not self._loop_tells_steps:
            self._follow_step(name)

        if loss_kwargs:
            kwargs = dict(loss_kwargs)
            weight_kwargs = kwargs.pop("weight_kwargs", None) or {}
            raw = entry.function(*inputs, **kwargs)
        else:
            weight_kwargs = {}
            raw = entry.function(*inputs)
        if not isinstance(raw, Tensor):
            raise LossError(f"Loss '{name}' returned {type(raw).__name__}; it must be a tensor.")
        weighted = self._results.weigh(entry, raw, weight_kwargs)
        if self._cut is not None:
            self._cut.add(name, weighted)
        return weighted

    def weigh(self, entry: LMLoss, raw: Tensor, weight_kwargs: Mapping[str, Any]) -> Tensor:
        """Weights a loss and calls the hooks; `compute_loss` is the function to call."""
        weighted = self._weight_loss(entry, raw, self._epoch_for(entry), **weight_kwargs)
        entry.last_loss_map = raw.detach()
        weight = float(entry.last_weight)
        if self._cut is not None and self.is_balanced:
            scalars = _scalars(entry.last_loss_map, weight, weighted.detach())
            self._pending.append(Pending(entry, weight, *scalars))
        elif self._hooks:
            self.fire(entry, weight, *_scalars(entry.last_loss_map, weight, weighted.detach()))
        return weighted

    def weight_in_force(self, entry: LMLoss, weight_kwargs: Mapping[str, Any]) -> float:
        """Computes the current weight of a loss and stores it as its ``last_weight``."""
        return self._weight_at(entry, self._epoch_for(entry), weight_kwargs)

    def _weight_loss(
        self, loss_entry: LMLoss, loss_value: Tensor, epoch: float, **weight_kwargs: Any
    ) -> Tensor:
        """``loss_value`` times the weight at ``epoch``."""
        return loss_value * self._weight_at(loss_entry, epoch, weight_kwargs)

    @staticmethod
    def _weight_at(entry: LMLoss, epoch: float, weight_kwargs: Mapping[str, Any]) -> float:
        schedule = entry.schedule
        if entry.is_scheduled:
            schedule.current_value = schedule.value_at(epoch, **weight_kwargs)
        entry.last_weight = weight = schedule.current_value * entry.every
        return weight

    def _epoch_for(self, entry: LMLoss) -> float:
        """The epoch at which to evaluate a schedule; a whole number if the interval is "epoch"."""
        if not self._epoch_by_interval and entry.is_scheduled:
            raise LossError(
                f"The weight of loss '{entry.name}' has a schedule, but no epoch is known; give "
                "epoch= here, or call start_step(epoch, step) in the loop."
            )
        return self._epoch_by_interval.get(entry.schedule.interval, 1.0)

    def _follow_step(self, name: str) -> None:
        is_repeated = self._cut is not None and name in self._cut
        if name in self._seen_in_step and not is_repeated:
            self.step += 1
            self._seen_in_step.clear()
        self._seen_in_step.add(name)


def _scalars(raw: Tensor, weight: float, weighted: Tensor) -> Iterable[Tensor]:
    """Both values as new scalars, because the caller may modify the returned loss in place."""
    if raw.dim():
        raw = raw.mean()
        weighted = raw * weight
    return torch.stack((raw, weighted)).unbind()
