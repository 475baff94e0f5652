"""`Hooks`: the functions that a `LossManager` calls with its events."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from nectargan.errors import LossError
from nectargan.losses.lm_data import (
    GradientEvent,
    LMLoss,
    LossEvent,
    MetricEvent,
    check_series_name,
)


class Event(Protocol):
    """What all events have in common."""

    @property
    def subject(self) -> str:
        """What the event is about, for error messages."""


E = TypeVar("E", bound=Event)
LossHook = Callable[[LossEvent], object]
GradientHook = Callable[[GradientEvent], object]
MetricHook = Callable[[MetricEvent], object]


class Hooks(Generic[E]):
    """Hooks in the order of registration; false in a condition if there are none."""

    def __init__(self) -> None:
        self._hooks: OrderedDict[int, Callable[[E], object]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def register(self, hook: Callable[[E], object]) -> RemovableHandle:
        """Adds a hook; the ``remove()`` of what is returned takes it away again."""
        handle = RemovableHandle(self._hooks)
        self._hooks[handle.id] = hook
        return handle

    def fire(self, event: E) -> None:
        """Calls every hook. An exception propagates, with the name of the hook as a note."""
        for hook in tuple(self._hooks.values()):
            try:
                hook(event)
            except Exception as error:  # a hook may raise anything
                error.add_note(f"raised in loss hook '{_name_of(hook)}' for {event.subject}")
                raise


class _AtSteps:
    """A hook that is called at the first and at every n-th step."""

    def __init__(self, fn: GradientHook, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise LossError(f"every_n_steps is {every_n_steps}; it must be 1 or more.")
        self.args = (fn,)
        self.every_n_steps = every_n_steps

    def is_due(self, step: int) -> bool:
        return step == 1 or step % self.every_n_steps == 0

    def __call__(self, event: GradientEvent) -> None:
        if self.is_due(event.step):
            self.args[0](event)


class GradientHooks(Hooks[GradientEvent]):
    """Hooks that are called at some of the steps."""

    def register_every(self, fn: GradientHook, every_n_steps: int) -> RemovableHandle:
        """See `LossManager.register_gradient_hook`."""
        return self.register(_AtSteps(fn, every_n_steps))

    def due(self, step: int) -> bool:
        """Whether any hook is called at this step."""
        return any(isinstance(h, _AtSteps) and h.is_due(step) for h in self._hooks.values())


class Results(Protocol):
    """What is done with the results of a step: by the manager at once, or after a replay."""

    def weigh(self, entry: LMLoss, raw: Tensor, weight_kwargs: Mapping[str, Any]) -> Tensor:
        """Weights a loss."""

    def take_metric(self, name: str, value: Tensor) -> None:
        """Passes a measurement on."""

    def take_gradients(self, losses: tuple[str, ...], products: Tensor) -> None:
        """Passes the gradients on."""

    def take_factors(self, factors: Mapping[str, Tensor]) -> None:
        """Takes by what the losses of a block are multiplied, beside their weights."""


class EventSource(ABC):
    """Hooks for losses, metrics and gradients, and the events that they are called with.

    Attributes:
        epoch: The current epoch, from 1; ``None`` until an epoch is given.
        step: The current step, from 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch: int | None = None
        self.step = 1
        self._hooks = Hooks[LossEvent]()
        self._metric_hooks = Hooks[MetricEvent]()
        self._gradient_hooks = GradientHooks()
        self._results: Results = self

    @abstractmethod
    def weigh(self, entry: LMLoss, raw: Tensor, weight_kwargs: Mapping[str, Any]) -> Tensor:
        """Weights a loss and calls the hooks; see `LossManager.compute_loss`."""

    @abstractmethod
    def take_factors(self, factors: Mapping[str, Tensor]) -> None:
        """Calls the loss hooks for the losses of a block; see `LossManager.gradients_at`."""

    def register_hook(self, fn: LossHook, query: Iterable[str] | None = None) -> RemovableHandle:
        """Registers a function that is called with a `LossEvent` after each loss is weighted.

        The docstring of `nectargan.losses.loss_manager` shows the order of the calls.

        Args:
            fn: The hook. An exception that it raises propagates to the caller of `compute_loss`,
                with the name of the hook as a note.
            query: Tags; the hook is only called for losses with at least one of them. ``None`` for
                all losses.

        Returns:
            A handle whose ``remove()`` unregisters the hook.
        """
        return self._hooks.register(for_tags(fn, query))

    def register_metric_hook(self, fn: MetricHook) -> RemovableHandle:
        """Registers a function that is called with a `MetricEvent` by `log_metric`."""
        return self._metric_hooks.register(fn)

    def register_gradient_hook(self, fn: GradientHook, every_n_steps: int = 1) -> RemovableHandle:
        """Registers a function that is called with a `GradientEvent` at the end of `gradients_at`.

        Without such a hook no gradients are measured.

        Args:
            fn: The hook. Like a loss hook, it must not read the values during the step.
            every_n_steps: The hook is called at the first and at every n-th step.

        Returns:
            A handle whose ``remove()`` unregisters the hook.

        Raises:
            LossError: If ``every_n_steps`` is below 1.
        """
        return self._gradient_hooks.register_every(fn, every_n_steps)

    @property
    def measures_gradients(self) -> bool:
        """Whether gradients are measured at some steps: whether there is a gradient hook."""
        return bool(self._gradient_hooks)

    def log_metric(self, name: str, value: Tensor) -> None:
        """Passes a measurement of this step to the metric hooks, without waiting for the device.

        `Tracker` writes the mean of each such series over every window of steps to ``metrics.csv``.

        Args:
            name: Name of the series, such as "discriminator/accuracy".
            value: The value; of a tensor with dimensions, the mean.

        Raises:
            LossError: If the name is not allowed, or the value is not a tensor.
        """
        check_series_name(name)
        if not isinstance(value, Tensor):
            raise LossError(f"Metric '{name}' is {type(value).__name__}; it must be a tensor.")
        value = value.detach()
        # A new tensor, because the caller may modify the value in place.
        self._results.take_metric(name, value.mean() if value.dim() else value.clone())

    @contextmanager
    def handing_to(self, results: Results) -> Iterator[None]:
        """During the ``with`` block, ``results`` weights all losses and gets all results. No hook
        is called, and ``last_loss_map`` is not updated."""
        self._results = results
        try:
            yield
        finally:
            self._results = self

    def fire(self, entry: LMLoss, weight: float | Tensor, raw: Tensor, weighted: Tensor) -> None:
        """Calls the hooks for a computed loss.

        Args:
            entry: The loss.
            weight: The weight that was applied.
            raw: The raw value, a detached scalar.
            weighted: The weighted value, a detached scalar.
        """
        tags, epoch = tuple(entry.tags), self.epoch or 1
        self._hooks.fire(LossEvent(entry.name, tags, raw, weight, weighted, epoch, self.step))

    def take_metric(self, name: str, value: Tensor) -> None:
        """Calls the metric hooks."""
        self._metric_hooks.fire(MetricEvent(name, value, self.epoch or 1, self.step))

    def take_gradients(self, losses: tuple[str, ...], products: Tensor) -> None:
        """Calls the gradient hooks; see `GradientEvent`."""
        self._gradient_hooks.fire(GradientEvent(losses, products, self.epoch or 1, self.step))


def tag_set(query: Iterable[str]) -> frozenset[str]:
    """The tags of a query, which is one tag or several."""
    return frozenset((query,) if isinstance(query, str) else query)


def for_tags(fn: LossHook, query: Iterable[str] | None) -> LossHook:
    """A hook that calls ``fn`` for losses with one of the tags; ``None`` for all losses."""
    return fn if query is None else functools.partial(_call_if_tagged, fn, tag_set(query))


def _call_if_tagged(fn: LossHook, wanted: frozenset[str], event: LossEvent) -> None:
    if not wanted.isdisjoint(event.tags):
        fn(event)


def _name_of(hook: Callable[..., object]) -> str:
    if isinstance(hook, (functools.partial, _AtSteps)):
        hook = hook.args[0]
    return getattr(hook, "__qualname__", None) or type(hook).__qualname__
