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

A hook gets detached scalars and may keep them. A loss that returns a map is passed as its mean. A
hook must not read the values during the step (``.item()``), because that waits for the device;
`LossRecorder` shows how to read them later.

In a captured step (`CapturedLosses`), all hooks are called after the replay of the graph, for the
same losses in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from nectargan.errors import LossError, UnknownLossError, did_you_mean
from nectargan.losses.hooks import LossHook, LossHooks, tag_set
from nectargan.losses.lm_data import LMLoss, LossEvent
from nectargan.scheduling.data import Schedule

Weigh = Callable[[LMLoss, Tensor, Mapping[str, Any]], Tensor]


class LossManager:
    """Registry of weighted losses.

    Args:
        config: Unused; accepted for code written for v0.2.3.
        experiment_directory: Unused; accepted for code written for v0.2.3.

    Attributes:
        epoch: The current epoch, from 1; ``None`` until an epoch is given.
        step: The current step, from 1.
    """

    def __init__(
        self, config: Any = None, experiment_directory: str | PathLike[str] | None = None
    ) -> None:
        self.config = config
        self.experiment_directory = Path(experiment_directory) if experiment_directory else None
        self.epoch: int | None = None
        self.step = 1
        self._losses: dict[str, LMLoss] = {}
        self._hooks = LossHooks()
        self._epoch_by_interval: dict[str, float] = {}
        self._loop_tells_steps = False
        self._seen_in_step: set[str] = set()
        self._weigh: Weigh = self._weigh_and_fire

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

    # --- registration --------------------------------------------------------------------------

    def register_loss_fn(
        self,
        name: str,
        loss_fn: Callable[..., Tensor],
        loss_weight: float = 1.0,
        schedule: Schedule | None = None,
        tags: Iterable[str] | None = None,
    ) -> None:
        """Registers a loss.

        Args:
            name: Unique name; see `LMLoss` for the allowed characters.
            loss_fn: Any callable that returns a tensor, either a scalar or a map of any shape.
            loss_weight: Constant weight; ignored if there is a ``schedule``.
            schedule: Weight over the epochs.
            tags: Labels for queries.

        Raises:
            LossError: If the name is already registered, or an argument is invalid.
        """
        if isinstance(tags, str):
            raise LossError(
                f"The tags of loss '{name}' are a string; they must be a list of strings."
            )
        self.register(
            LMLoss(
                name=name,
                function=loss_fn,
                loss_weight=loss_weight,
                schedule=Schedule() if schedule is None else schedule,
                tags=list(tags or ()),
            )
        )

    def register(self, loss: LMLoss) -> None:
        """Registers a loss; raises `LossError` if its name is already registered."""
        if loss.name in self._losses:
            raise LossError(f"A loss named '{loss.name}' is already registered; names are unique.")
        self._losses[loss.name] = loss

    def init_from_spec(
        self, spec: Callable[..., dict[str, LMLoss]], *args: Any, **kwargs: Any
    ) -> dict[str, LMLoss]:
        """Registers all losses of an objective, or none of them.

        Args:
            spec: A function that returns the losses by name, such as `pix2pix`.
            *args: Arguments of ``spec``.
            **kwargs: Keyword arguments of ``spec``.

        Returns:
            The losses that ``spec`` returned.

        Raises:
            LossError: If ``spec`` returns anything else, or a name is already registered.
        """
        losses = spec(*args, **kwargs)
        if not isinstance(losses, Mapping):
            raise LossError(
                f"A loss spec must return a dict of LMLoss, not {type(losses).__name__}."
            )
        for name, loss in losses.items():
            if not isinstance(loss, LMLoss) or loss.name != name:
                raise LossError(
                    f"A loss spec must return each LMLoss under its name; {name!r} is {loss!r}."
                )
            if name in self._losses:
                raise LossError(f"A loss named '{name}' is already registered; names are unique.")
        self._losses.update(losses)
        return losses

    def register_hook(self, fn: LossHook, query: Iterable[str] | None = None) -> RemovableHandle:
        """Registers a function that is called with a `LossEvent` after each loss is weighted.

        The docstring of this module shows the order of the calls.

        Args:
            fn: The hook. An exception that it raises propagates to the caller of `compute_loss`,
                with the name of the hook as a note.
            query: Tags; the hook is only called for losses with at least one of them. ``None`` for
                all losses.

        Returns:
            A handle whose ``remove()`` unregisters the hook.
        """
        return self._hooks.register(fn, query)

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
            ``raw * weight`` with its gradient, in the shape that the loss function returned.

        Raises:
            UnknownLossError: If there is no such loss.
            LossError: If the loss has a schedule and no epoch is known, the epoch is not above 0,
                or the loss function does not return a tensor.
        """
        entry = self._losses.get(name)
        if entry is None:
            raise UnknownLossError(
                f"There is no loss named '{name}'." + did_you_mean(name, self._losses)
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
        return self._weigh(entry, raw, weight_kwargs)

    def _weigh_and_fire(
        self, entry: LMLoss, raw: Tensor, weight_kwargs: Mapping[str, Any]
    ) -> Tensor:
        weighted = self._weight_loss(entry, raw, self._epoch_for(entry), **weight_kwargs)
        entry.last_loss_map = raw.detach()
        if self._hooks:
            weight = entry.last_weight
            self.fire(entry, weight, *_scalars(entry.last_loss_map, weight, weighted.detach()))
        return weighted

    @contextmanager
    def weighing_by(self, weigh: Weigh) -> Iterator[None]:
        """Replaces the weighting of losses by ``weigh(loss, raw, weight_kwargs)``.

        During the ``with`` block, no hook is called, and ``last_loss_map`` is not updated.
        """
        self._weigh = weigh
        try:
            yield
        finally:
            self._weigh = self._weigh_and_fire

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
        entry.last_weight = schedule.current_value
        return entry.last_weight

    def _epoch_for(self, entry: LMLoss) -> float:
        """The epoch at which to evaluate a schedule; a whole number if the interval is "epoch"."""
        if not self._epoch_by_interval and entry.is_scheduled:
            raise LossError(
                f"The weight of loss '{entry.name}' has a schedule, but no epoch is known; give "
                "epoch= here, or call start_step(epoch, step) in the loop."
            )
        return self._epoch_by_interval.get(entry.schedule.interval, 1.0)

    def _follow_step(self, name: str) -> None:
        if name in self._seen_in_step:
            self.step += 1
            self._seen_in_step.clear()
        self._seen_in_step.add(name)

    def fire(self, entry: LMLoss, weight: float, raw: Tensor, weighted: Tensor) -> None:
        """Calls the hooks for a computed loss.

        Args:
            entry: The loss.
            weight: The weight that was applied.
            raw: The raw value, a detached scalar.
            weighted: The weighted value, a detached scalar.
        """
        tags, epoch = tuple(entry.tags), self.epoch or 1
        self._hooks.fire(LossEvent(entry.name, tags, raw, weight, weighted, epoch, self.step))

    # --- queries -------------------------------------------------------------------------------

    def get_registered_losses(self, query: Iterable[str] | None = None) -> dict[str, LMLoss]:
        """Returns the losses by name, in the order of registration.

        Args:
            query: Tags; only losses with at least one of them are returned. ``None`` for all.
        """
        if query is None:
            return dict(self._losses)
        wanted = tag_set(query)
        return {
            name: loss for name, loss in self._losses.items() if not wanted.isdisjoint(loss.tags)
        }

    def get_loss_tensors(self, query: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Returns the last raw result of each computed loss: detached, on its device, not averaged.

        Args:
            query: Tags, as in `get_registered_losses`.
        """
        losses = self.get_registered_losses(query).items()
        return {n: loss.last_loss_map for n, loss in losses if loss.last_loss_map is not None}

    def get_loss_values(self, query: Iterable[str] | None = None) -> dict[str, float]:
        """Returns the last raw value of each computed loss; of a map, its mean.

        Waits for the device, so it must not be called within a step.

        Args:
            query: Tags, as in `get_registered_losses`.
        """
        return {n: raw.float().mean().item() for n, raw in self.get_loss_tensors(query).items()}

    def get_loss_weights(self, query: Iterable[str] | None = None) -> dict[str, float]:
        """Returns the weight of each loss: the last applied one, or at first the initial one.

        Args:
            query: Tags, as in `get_registered_losses`.
        """
        losses = self.get_registered_losses(query).items()
        return {name: loss.weight_now for name, loss in losses}


def _scalars(raw: Tensor, weight: float, weighted: Tensor) -> Iterable[Tensor]:
    """Both values as new scalars, because the caller may modify the returned loss in place."""
    if raw.dim():
        raw = raw.mean()
        weighted = raw * weight
    return torch.stack((raw, weighted)).unbind()
