"""`LossManager`: computes every loss, weights it, and tells its hooks.

When hooks fire, in one training step::

    manager.start_step(epoch, step)              # the loop says once where it is
    for each loss that the step computes:
        raw      = function(*inputs)             # compute_loss, compute_loss_xy
        weight   = schedule.value_at(epoch)      # or the plain loss_weight
        weighted = raw * weight
        last_loss_map = raw.detach()             # a map stays whole, on its device
        for hook in hooks:                       # in the order of registration
            hook(LossEvent(name, tags, raw, weight, weighted, epoch, step))
        return weighted                          # with its gradient
    loss.backward(); optimizer.step()            # no hook fires here

A hook gets scalars without a gradient, which are its to keep: a loss that returns a map is given as
its mean. A hook must not read their values (``.item()``) in the step, or the device stalls;
`LossRecorder` shows how.

In a step that is captured and replayed (`CapturedLosses`), all hooks fire after the replay instead,
for the same losses in the same order.
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
        config: Kept as `config` for the owner's convenience; nothing here reads it.
        experiment_directory: Kept as `experiment_directory`; nothing is written there.

    Attributes:
        epoch: The epoch in force, from 1; ``None`` until the loop has told one.
        step: The step in force, from 1.
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

    # --- where the loop is ---------------------------------------------------------------------

    def start_step(self, epoch: int, step: int, fraction: float = 1.0) -> None:
        """Tells the manager once, for all losses, where the training loop is.

        A loop that never calls this is followed as well: an ``epoch`` given to a computation holds
        until another is given, and a loss that comes round again begins the next step.

        Args:
            epoch: Epoch, from 1.
            step: Step since the start of the run, from 1.
            fraction: Part of the epoch that is done after this step, in (0, 1]; for schedules with
                ``interval="step"``, which are evaluated at ``epoch - 1 + fraction``.

        Raises:
            LossError: the epoch or the step is below 1.
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
            name: Unique name; see `LMLoss`.
            loss_fn: Any callable that returns a tensor: a scalar, or a map of any shape.
            loss_weight: Constant weight; a ``schedule`` takes its place.
            schedule: Weight over the epochs.
            tags: Labels for queries.

        Raises:
            LossError: the name is taken or cannot be used, or the function or weight cannot.
        """
        if isinstance(tags, str):
            raise LossError(f"The tags of loss '{name}' are a string; give a list of strings.")
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
        """Registers a loss made elsewhere; raises `LossError` if its name is taken."""
        if loss.name in self._losses:
            raise LossError(f"A loss named '{loss.name}' is registered already; names are unique.")
        self._losses[loss.name] = loss

    def init_from_spec(
        self, spec: Callable[..., dict[str, LMLoss]], *args: Any, **kwargs: Any
    ) -> dict[str, LMLoss]:
        """Registers all losses of an objective, or none of them.

        Args:
            spec: A function that returns the losses by name, `pix2pix` for example.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            What ``spec`` returned.

        Raises:
            LossError: ``spec`` returned something else, or a name that is taken.
        """
        losses = spec(*args, **kwargs)
        if not isinstance(losses, Mapping):
            raise LossError(
                f"A loss spec must return a dict of LMLoss, not {type(losses).__name__}."
            )
        for name, loss in losses.items():
            if not isinstance(loss, LMLoss) or loss.name != name:
                raise LossError(
                    f"A loss spec must return LMLoss by its name; {name!r} is {loss!r}."
                )
            if name in self._losses:
                raise LossError(f"A loss named '{name}' is registered already; names are unique.")
        self._losses.update(losses)
        return losses

    def register_hook(self, fn: LossHook, query: Iterable[str] | None = None) -> RemovableHandle:
        """Calls ``fn(event)`` right after every weighting; see the module for the order.

        Args:
            fn: The hook. What it raises ends the step, with the hook's name added as a note.
            query: Only for losses with one of these tags; ``None`` for all.

        Returns:
            A handle whose ``remove()`` ends the calls.
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
        """The weighted loss between ``x`` and ``y``: `compute_loss` with two inputs."""
        return self.compute_loss(loss_name, x, y, epoch=epoch, loss_kwargs=loss_kwargs)

    def compute_loss(
        self,
        name: str,
        *inputs: Any,
        epoch: float | None = None,
        loss_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Runs a loss function, weights the result and fires the hooks.

        Args:
            name: Name of a registered loss.
            *inputs: Passed to the loss function: tensors, or whatever it takes.
            epoch: Epoch (from 1, fractions allowed) to weight at, kept for the computations that
                follow; where none is given, the one last told.
            loss_kwargs: Keywords for the loss function; the value of ``"weight_kwargs"`` among
                them goes to the schedule function instead.

        Returns:
            ``raw * weight`` with its gradient, in the shape that the loss function returned.

        Raises:
            UnknownLossError: no such loss.
            LossError: the loss is scheduled and nobody has told an epoch, the epoch is not above
                0, or the loss function returned no tensor.
        """
        entry = self._losses.get(name)
        if entry is None:
            raise UnknownLossError(f"No loss is named '{name}'." + did_you_mean(name, self._losses))
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
        """Within the ``with`` block, ``weigh(loss, raw, weight_kwargs)`` returns the weighted loss;
        no hook fires, and no loss remembers its value."""
        self._weigh = weigh
        try:
            yield
        finally:
            self._weigh = self._weigh_and_fire

    def weight_in_force(self, entry: LMLoss, weight_kwargs: Mapping[str, Any]) -> float:
        """The weight of a loss at this point of training, which it remembers as its last."""
        return self._weight_at(entry, self._epoch_for(entry), weight_kwargs)

    def _weight_loss(
        self, loss_entry: LMLoss, loss_value: Tensor, epoch: float, **weight_kwargs: Any
    ) -> Tensor:
        """``loss_value`` times the weight in force at ``epoch``."""
        return loss_value * self._weight_at(loss_entry, epoch, weight_kwargs)

    @staticmethod
    def _weight_at(entry: LMLoss, epoch: float, weight_kwargs: Mapping[str, Any]) -> float:
        schedule = entry.schedule
        if entry.is_scheduled:
            schedule.current_value = schedule.value_at(epoch, **weight_kwargs)
        entry.last_weight = schedule.current_value
        return entry.last_weight

    def _epoch_for(self, entry: LMLoss) -> float:
        """The epoch to evaluate a schedule at: whole epochs unless it moves with every step."""
        if not self._epoch_by_interval and entry.is_scheduled:
            raise LossError(
                f"The weight of loss '{entry.name}' is scheduled, but no epoch is known: give "
                "epoch= here, or call start_step(epoch, step) in the loop."
            )
        return self._epoch_by_interval.get(entry.schedule.interval, 1.0)

    def _follow_step(self, name: str) -> None:
        if name in self._seen_in_step:
            self.step += 1
            self._seen_in_step.clear()
        self._seen_in_step.add(name)

    def fire(self, entry: LMLoss, weight: float, raw: Tensor, weighted: Tensor) -> None:
        """Calls the hooks for a loss to which ``weight`` was applied; both tensors are scalars."""
        tags, epoch = tuple(entry.tags), self.epoch or 1
        self._hooks.fire(LossEvent(entry.name, tags, raw, weight, weighted, epoch, self.step))

    # --- queries -------------------------------------------------------------------------------

    def get_registered_losses(self, query: Iterable[str] | None = None) -> dict[str, LMLoss]:
        """The losses by name, in the order of registration.

        Args:
            query: Tags; only losses with at least one of them. ``None`` for all.
        """
        if query is None:
            return dict(self._losses)
        wanted = tag_set(query)
        return {
            name: loss for name, loss in self._losses.items() if not wanted.isdisjoint(loss.tags)
        }

    def get_loss_tensors(self, query: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The last raw result of each loss that was computed: detached, on its device, a map where
        the loss returns one. ``query`` as in `get_registered_losses`."""
        losses = self.get_registered_losses(query).items()
        return {n: loss.last_loss_map for n, loss in losses if loss.last_loss_map is not None}

    def get_loss_values(self, query: Iterable[str] | None = None) -> dict[str, float]:
        """The last raw value (mean of a map) of each loss that was computed. Waits for the device:
        not for use within a step. ``query`` as in `get_registered_losses`."""
        return {n: raw.float().mean().item() for n, raw in self.get_loss_tensors(query).items()}

    def get_loss_weights(self, query: Iterable[str] | None = None) -> dict[str, float]:
        """The weight last in force for each loss. ``query`` as in `get_registered_losses`."""
        losses = self.get_registered_losses(query).items()
        return {name: loss.weight_now for name, loss in losses}


def _scalars(raw: Tensor, weight: float, weighted: Tensor) -> Iterable[Tensor]:
    """Both as scalars that nobody else has: who computed the loss may change it in place."""
    if raw.dim():
        raw = raw.mean()
        weighted = raw * weight
    return torch.stack((raw, weighted)).unbind()
