"""`CapturedLosses`: the weights and events of a training step in a captured CUDA graph.

A replay of the graph runs no Python code. A weight must therefore be a tensor on the device that is
updated before each replay; a Python number would become a constant of the graph. The hooks are
called after the replay, in the order in which the step computed its losses, its metrics and its
gradients.
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

# Tolerances for comparing the values of two runs of the same step. Nondeterministic kernels change
# the update of the discriminator, and so the losses of the generator, in 16 bits by some percent.
# Memory that was freed and reused changes the values by orders of magnitude.
_RELATIVE, _ABSOLUTE = 0.1, 0.01


class _Weight:
    """The weight of one computation of a loss, as a number and as a tensor on the device."""

    def __init__(
        self, entry: LMLoss, value: float, like: Tensor, kwargs: Mapping[str, Any]
    ) -> None:
        self.entry = entry
        self.value = value
        self.kwargs = kwargs
        # Of the same dtype as the loss. If both are scalars, another dtype could change the dtype
        # of the result.
        self.tensor = like.new_full((), value)


class _Loss(NamedTuple):
    """One computation of a loss within the step."""

    weight: _Weight
    raw: Tensor  # the detached result of the function; each replay overwrites it
    weighted: Tensor


class CapturedLosses:
    """The losses of a captured step.

    The step runs a few times as a warm-up and once during the capture, each time inside `noting`
    and followed by `gather`. After that, a step consists of `refresh`, a replay of the graph, and
    `fire`.

    Args:
        manager: The manager that computes the losses.

    Attributes:
        values: What the last run or replay of the step has computed, as one float32 tensor: the raw
            and the weighted value of each loss, the metrics, the factors of losses, and the
            products of the gradients.
    """

    def __init__(self, manager: LossManager) -> None:
        self._manager = manager
        self._functions = self._registered_functions()
        # The key is the name of the loss and the number of times that the step has computed it
        # before.
        self._weights: dict[tuple[str, int], _Weight] = {}
        self._losses: list[_Loss] = []
        self._metrics: list[tuple[str, Tensor]] = []
        self._gradients: list[tuple[tuple[str, ...], Tensor]] = []
        self._factors: dict[str, Tensor] = {}
        self._balancer = manager.balancer
        self._measures_gradients = manager.measures_gradients
        self.values = torch.empty(0)
        self._is_warm = False

    @property
    def is_stale(self) -> bool:
        """Whether the manager's losses have changed since the capture, its balancer, or whether
        gradients are wanted."""
        return (
            self._balancer is not self._manager.balancer
            or self._functions != self._registered_functions()
            or self._measures_gradients != self._manager.measures_gradients
        )

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Makes the manager weight losses by tensors and store them here during the ``with`` block.

        The stored losses replace those of the previous block. `fire` calls the hooks for them.
        """
        self._is_warm = bool(self._losses)
        self._losses, self._metrics, self._gradients, self._factors = [], [], [], {}
        with self._manager.handing_to(self):
            yield

    def weigh(self, entry: LMLoss, raw: Tensor, weight_kwargs: Mapping[str, Any]) -> Tensor:
        """Weights a loss by a tensor; called by the manager."""
        key = entry.name, sum(loss.weight.entry is entry for loss in self._losses)
        weight = self._weights.get(key)
        if weight is None:
            if self._is_warm:
                raise LossError(
                    f"Loss '{entry.name}' is not computed in every step. Such a step cannot be "
                    "captured; set train.cuda_graph to 'off'."
                )
            value = self._manager.weight_in_force(entry, weight_kwargs)
            weight = self._weights[key] = _Weight(entry, value, raw, weight_kwargs)
        weighted = raw * weight.tensor
        self._losses.append(_Loss(weight, raw.detach(), weighted.detach()))
        return weighted

    def take_metric(self, name: str, value: Tensor) -> None:
        """Notes a measurement; called by the manager."""
        self._metrics.append((name, value))

    def take_factors(self, factors: Mapping[str, Tensor]) -> None:
        """Notes by what losses are multiplied, beside their weights; called by the manager."""
        self._factors |= factors

    def take_gradients(self, losses: tuple[str, ...], products: Tensor) -> None:
        """Notes gradients; called by the manager."""
        self._gradients.append((losses, products))

    def gather(self) -> None:
        """Copies all values into the tensor `values`; the graph contains this operation."""
        pairs = []
        for weight, raw, weighted in self._losses:
            if raw.dim():
                raw = raw.mean()
                weighted = raw * weight.tensor
            if weight.entry.name in self._factors:
                weighted = weighted * self._factors[weight.entry.name]
            pairs += [raw.float(), weighted.float()]
        scalars = pairs + [value.float() for _, value in self._metrics]
        scalars += [factor.float() for factor in self._factors.values()]
        products = [products.flatten() for _, products in self._gradients]
        parts = ([torch.stack(scalars)] if scalars else []) + products
        self.values = torch.cat(parts) if parts else torch.empty(0)

    def unlike(self, values: Tensor) -> list[str]:
        """Compares the values with those of another run. Waits for the device.

        Args:
            values: `values` of another run of the step that started from the same state.

        Returns:
            The names of the losses whose values differ.

        Raises:
            LossError: If the other run computed a different number of losses.
        """
        if values.shape != self.values.shape:
            raise LossError("The step does not compute the same losses each time.")
        count = 2 * len(self._losses)
        same = torch.isclose(
            self.values[:count], values[:count], rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True
        ).reshape(len(self._losses), 2)
        return [
            loss.weight.entry.name
            for loss, is_same in zip(self._losses, same.all(dim=1).tolist(), strict=True)
            if not is_same
        ]

    def refresh(self) -> None:
        """Copies the current weights to the device; called before each replay."""
        for weight in self._weights.values():
            value = self._manager.weight_in_force(weight.entry, weight.kwargs)
            if value != weight.value:
                weight.value = value
                weight.tensor.fill_(value)

    def fire(self) -> None:
        """Calls the manager's hooks with what the step has computed; called after each replay."""
        # A copy, because the next replay would overwrite values that a hook has kept.
        sizes = [2] * len(self._losses) + [1] * (len(self._metrics) + len(self._factors))
        sizes += [products.numel() for _, products in self._gradients]
        values = iter(torch.split(self.values.clone(), sizes))
        pairs = [next(values) for _ in self._losses]
        metrics = [next(values).squeeze() for _ in self._metrics]
        factors = {name: next(values).squeeze() for name in self._factors}
        for (weight, raw, _), pair in zip(self._losses, pairs, strict=True):
            entry = weight.entry
            entry.last_loss_map, entry.last_weight = raw, weight.value
            if entry.name in factors:
                entry.last_weight = weight.value * factors[entry.name]
            self._manager.fire(entry, entry.last_weight, *pair.unbind())
        for (name, _), value in zip(self._metrics, metrics, strict=True):
            self._manager.take_metric(name, value)
        for names, products in self._gradients:
            self._manager.take_gradients(names, next(values).view_as(products))

    def _registered_functions(self) -> list[tuple[str, Callable[..., Tensor]]]:
        losses = self._manager.get_registered_losses().items()
        return [(name, loss.function) for name, loss in losses]
