"""`LossRecorder`: the hook that copies losses from the device to the ledger asynchronously."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nectargan.defaults import WINDOW_SECONDS, WINDOW_STEPS
from nectargan.distributed import ALONE, World
from nectargan.interrupts import uninterrupted
from nectargan.losses.lm_data import GradientEvent, LossEvent, MetricEvent
from nectargan.record.gradient_rows import Products, measure, sums_over_images
from nectargan.record.ledger import GradientRow, LossRow
from nectargan.record.running_means import StepValues


class Clock:
    """Unix time that never decreases, even if the system clock is set back.

    With decreasing times a resumed run would be plotted before its own start, and TensorBoard
    would drop the points that seem older.
    """

    def __init__(self) -> None:
        self._last = 0
        self._at = time.monotonic_ns()

    def __call__(self) -> int:
        """The time in milliseconds."""
        at = time.monotonic_ns()
        self._last = max(time.time_ns(), self._last + at - self._at)
        self._at = at
        return self._last // 1_000_000

    def go_on_from(self, milliseconds: int) -> None:
        """Makes all further times at least ``milliseconds``."""
        self._last = max(self._last, milliseconds * 1_000_000)


class _Value(NamedTuple):
    weight: float | Tensor  # a scalar on the device if it follows from gradients
    raw: Tensor  # scalars on the device
    weighted: Tensor


class _Step(NamedTuple):
    step: int
    epoch: int
    time: int
    values: dict[str, list[_Value]]
    metrics: dict[str, list[Tensor]]
    gradients: dict[tuple[str, ...], list[Tensor]]  # products by the names of the losses
    counts: tuple[int, ...]  # images of each process

    def scalars(self) -> int:
        """The number of its scalars on the device."""
        weights = sum(isinstance(values[-1].weight, Tensor) for values in self.values.values())
        return 2 * len(self.values) + weights + len(self.metrics)


class _Window(NamedTuple):
    steps: list[_Step]
    numbers: Tensor  # float32 on the CPU: losses and metrics of each step, then their gradients
    scalars: int  # how many of them are losses and metrics
    copied: Any  # torch.cuda.Event, set when `numbers` is complete; None on other devices


class LossRecorder:
    """Collects each `LossEvent` and writes the `LossRow` of each, one window of steps at a time.

    The scalars of an event stay on their device until the window ends, after ``window_steps`` steps
    or ``window_seconds``. All values of the window are then copied to the CPU together. On CUDA the
    copy is asynchronous, into pinned memory, and the rows are written when the next window ends,
    so that only `flush` waits for the device.

    A loss that is computed several times in a step, for example with gradient accumulation, gets
    one row with the means of its values and the last weight.

    If several processes share each batch, each of them has a recorder, and all write the same rows:
    the means over the whole batch. They add the values of a window at once, when it is
    written. A window then ends with its last step only.

    `note_metric` and `note_gradients` are hooks as well. Their values travel with those of the
    losses. The gradients of several backward passes in a step count as those of its images.

    Args:
        write: Called with the rows of each window, in order.
        window_steps: Maximum number of steps in a window.
        window_seconds: Maximum duration of a window in seconds.
        clock: Returns the time of a step as Unix time in milliseconds; by default a `Clock`.
        write_gradients: Called with the rows of the gradients of each window, if there are any.
        take_values: Called with the metrics and pairwise cosines of each step of a window.
        world: The processes that share each batch.

    Attributes:
        last: The last row that was written, by name of the loss.
        tags: The tags of each loss at the time when it was first recorded.
    """

    def __init__(
        self,
        write: Callable[[list[LossRow]], object],
        window_steps: int = WINDOW_STEPS,
        window_seconds: float = WINDOW_SECONDS,
        clock: Callable[[], int] | None = None,
        write_gradients: Callable[[list[GradientRow]], object] | None = None,
        take_values: Callable[[list[StepValues]], object] | None = None,
        world: World = ALONE,
    ) -> None:
        self._clock = clock or Clock()
        self.last: dict[str, LossRow] = {}
        self.tags: dict[str, tuple[str, ...]] = {}
        self._write = write
        self._write_gradients = write_gradients
        self._take_values = take_values
        self._window_steps = window_steps
        self._window_seconds = window_seconds if world.size == 1 else math.inf
        self._world = world
        self._at: _Step | None = None
        self._steps: list[_Step] = []
        self._window_began = time.monotonic()
        self._in_flight: _Window | None = None

    def __call__(self, event: LossEvent) -> None:
        """Records one event. The recorder itself is the hook to register with a `LossManager`."""
        value = _Value(event.weight, event.raw, event.weighted)
        self._step_of(event).values.setdefault(event.name, []).append(value)
        if event.name not in self.tags:
            self.tags[event.name] = event.tags

    def note_metric(self, event: MetricEvent) -> None:
        """A metric hook: records one measurement."""
        self._step_of(event).metrics.setdefault(event.name, []).append(event.value)

    def note_gradients(self, event: GradientEvent) -> None:
        """A gradient hook: records the gradients of a backward pass."""
        self._step_of(event).gradients.setdefault(event.losses, []).append(event.products)

    def flush(self) -> None:
        """Writes everything that was recorded so far; waits for the device if necessary.

        What is not written is lost if another process has ended, which has a part of it.
        """
        self._at = None
        if not self._world.is_whole:
            self._steps, self._in_flight = [], None
        self._end_window()
        self._land()

    def _step_of(self, event: LossEvent | MetricEvent | GradientEvent) -> _Step:
        if self._at is not None and event.step == self._at.step:
            return self._at
        now = time.monotonic()
        full = len(self._steps) >= self._window_steps
        if full or (self._steps and now - self._window_began >= self._window_seconds):
            # An interrupt here could cause rows to be written twice. Elsewhere no such protection
            # is needed, because a step is added to the window by a single append.
            with uninterrupted():
                self._end_window()
        if not self._steps:
            self._window_began = now
        counts = self._world.counts
        self._at = _Step(event.step, event.epoch, self._clock(), {}, {}, {}, counts)
        self._steps.append(self._at)
        return self._at

    def _end_window(self) -> None:
        """Writes the rows of the previous window and starts to copy this one."""
        self._land()
        steps = self._steps
        if not any(step.values or step.metrics or step.gradients for step in steps):
            return
        scalars: list[Tensor] = []
        products: list[Tensor] = []
        for step in steps:
            for values in step.values.values():
                scalars += [_mean([v.raw for v in values]), _mean([v.weighted for v in values])]
                if isinstance(values[-1].weight, Tensor):
                    scalars.append(values[-1].weight)
            scalars += [_mean(values) for values in step.metrics.values()]
            products += [each for all_of in step.gradients.values() for each in all_of]
        numbers = _joined(scalars, products)
        copied = None
        if numbers.is_cuda:
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
            stream = torch.cuda.current_stream(numbers.device)
            numbers = host.copy_(numbers, non_blocking=True)
            copied.record(stream)
        self._in_flight = _Window(steps, numbers, len(scalars), copied)
        self._steps = []
        if copied is None:
            self._land()

    def _land(self) -> None:
        """Writes the rows of the window that is being copied, if there is one."""
        if self._in_flight is None:
            return
        window = self._in_flight
        if window.copied is not None:
            window.copied.synchronize()
        numbers = window.numbers.cpu()
        products = list(self._products(window.steps, numbers[window.scalars :]))
        found, sums = self._of_all(window, numbers[: window.scalars], sums_over_images(products))
        scalars = iter(found.numpy())
        rows: list[LossRow] = []
        gradients: list[GradientRow] = []
        cosines: dict[int, dict[str, float]] = {}
        for of_step, pairs in measure(products, sums):
            gradients += of_step
            cosines.setdefault(of_step[0].step, {}).update(pairs)
        values: list[StepValues] = []
        for at in window.steps:
            place = at.step, at.epoch, at.time
            for name, of_loss in at.values.items():
                raw, weighted, weight = next(scalars), next(scalars), of_loss[-1].weight
                applied = next(scalars) if isinstance(weight, Tensor) else weight
                rows.append(LossRow(*place, name, raw, applied, weighted))
            metrics = {name: float(next(scalars)) for name in at.metrics}
            values.append(StepValues(*place, metrics, cosines.get(at.step, {})))
        self.last |= {row.loss: row for row in rows}
        self._write(rows)
        if gradients and self._write_gradients is not None:
            self._write_gradients(gradients)
        if self._take_values is not None:
            self._take_values(values)
        self._in_flight = None

    def _products(self, steps: list[_Step], numbers: Tensor) -> Iterator[Products]:
        """Splits ``numbers`` into the products of the gradients of each step."""
        world = self._world
        for at in steps:
            for losses, passes in at.gradients.items():
                images = sum(len(each) for each in passes)
                count = images * len(losses) ** 2
                values = numbers[:count].view(images, len(losses), len(losses))
                numbers = numbers[count:]
                if world.size > 1:
                    # Without images, a process computes on a pattern, which counts for nothing.
                    values, images = values[: at.counts[world.rank]], sum(at.counts)
                yield Products(at.step, at.epoch, at.time, losses, values, images)

    def _of_all(self, window: _Window, own: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The means of scalars over the images of all processes, and the sums over all of them."""
        world = self._world
        if world.size == 1:
            return own, sums
        parts_of_steps = [step.counts[world.rank] / sum(step.counts) for step in window.steps]
        of_each = torch.tensor([step.scalars() for step in window.steps])
        weights = torch.tensor(parts_of_steps, dtype=torch.float64).repeat_interleave(of_each)
        # What comes from a pattern may be NaN.
        parts = (own.double() * weights).where(weights > 0, 0.0)
        found = world.all_reduce(torch.cat([parts, sums]))
        return found[: len(own)].float(), found[len(own) :]


def _mean(scalars: list[Tensor]) -> Tensor:
    return scalars[0] if len(scalars) == 1 else _stack(scalars).mean()


def _joined(scalars: list[Tensor], others: list[Tensor]) -> Tensor:
    """All values as one float32 tensor ``(n,)`` on the device of the first."""
    if not others:
        return _stack(scalars)
    flat = [each.to(others[0].device, torch.float32).flatten() for each in others]
    return torch.cat([_stack(scalars).to(others[0].device), *flat] if scalars else flat)


def _stack(scalars: list[Tensor]) -> Tensor:
    """Stacks scalars of any dtype and device to ``(n,)`` float32 on the device of the first."""
    first = scalars[0].device
    return torch.stack([scalar.to(first, torch.float32) for scalar in scalars])
