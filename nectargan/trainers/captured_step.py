"""`CapturedStep`: a whole training step as one CUDA graph.

A step at batch 1 is some thousand small kernels, and an eager step waits for Python to launch them.
A graph is launched at once. What may differ between two replays lies in tensors that are filled
before: the images, the weights of the losses, the learning rates.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from nectargan.distributed import ALONE, World
from nectargan.errors import ConfigError, LossError, RunError
from nectargan.losses.captured_losses import CapturedLosses
from nectargan.losses.loss_manager import LossManager
from nectargan.trainers.cuda_graphs import GraphBackend, Work
from nectargan.trainers.snapshot import Snapshot
from nectargan.wording import one_line

Step = Callable[..., object]

_WARM_UPS = 3

log = logging.getLogger("nectargan")


# Names of GPUs of which several, each with its own process, have captured steps that equal eager
# ones in `tools/gpu_checks.py`. None so far.
PROVED_WITH_SEVERAL: frozenset[str] = frozenset()


def graph_obstacle(
    wanted: str, device: torch.device, precision: str, world: World = ALONE
) -> str | None:
    """Why the step of a run is not captured; ``None`` if it is.

    Args:
        wanted: ``train.cuda_graph``: "auto", "on" or "off".
        device: The device of the run.
        precision: "fp32", "bf16" or "fp16".
        world: The processes that train together; their devices are connected.

    Raises:
        ConfigError: it is "on" and cannot be.
    """
    if wanted == "off":
        return "train.cuda_graph is 'off'"
    if device.type != "cuda":
        obstacle = f"the device is {device.type}, not CUDA"
    elif not world.can_capture:
        obstacle = "several processes train on one GPU"
    elif world.size > 1 and wanted == "auto" and not _is_proved(device):
        obstacle = "not proved on several GPUs yet; train.cuda_graph=on tries it"
    else:
        return None
    if wanted == "on":
        raise ConfigError(f"train.cuda_graph is 'on', but {obstacle}; use 'auto' or 'off'.")
    return obstacle


def _is_proved(device: torch.device) -> bool:
    return torch.cuda.get_device_name(device) in PROVED_WITH_SEVERAL


class _Capture(NamedTuple):
    """A captured step, and the tensors that its replays read and fill."""

    inputs: tuple[Tensor, ...]
    losses: CapturedLosses
    gradients: list[tuple[nn.Parameter, Tensor | None]]
    replay: Work


class CapturedStep:
    """Runs a step by replaying it. Its updates, losses and hooks are those of the eager step.

    The first full batch captures it: the step is run a few times to warm up, everything that this
    changed is put back, and the first replay must compute the losses that the first of these runs
    did. Batches of another size take the eager step. If a loss is registered or replaced later on,
    the step is captured again. Parameters have the gradients of the last update, however it was
    made. All processes of a run capture the same steps, or none.

    Args:
        step: The eager step; the tensors of a batch to one update of all networks.
        losses: The manager of its losses.
        modules: All that holds parameters or buffers that the step changes.
        optimizers: Their optimisers, with learning rates and counters on the device.
        scaler: Their gradient scaler, enabled or not.
        batch_size: Size of the batches to capture, in this process.
        backend: What captures.
        required: Raise if the step cannot be captured, instead of going on eagerly.
        on_give_up: Told why, when it goes on eagerly.
        is_special: Whether the step at hand computes what most do not; it is run eagerly.
        world: The processes that make each step together.

    Raises:
        RunError: on a call: the step cannot be captured, and ``required`` is set; or the attempt
            left the device unusable.
    """

    def __init__(
        self,
        step: Step,
        losses: LossManager,
        modules: Iterable[nn.Module],
        optimizers: Iterable[Optimizer],
        scaler: GradScaler,
        batch_size: int,
        backend: GraphBackend,
        required: bool = False,
        on_give_up: Callable[[str], object] | None = None,
        is_special: Callable[[], bool] = lambda: False,
        world: World = ALONE,
    ) -> None:
        self._step = step
        self._losses = losses
        self._modules = list(modules)
        self._snapshot = functools.partial(Snapshot, self._modules, list(optimizers), scaler)
        self._batch_size = batch_size
        self._backend = backend
        self._required = required
        self._on_give_up = on_give_up
        self._is_special = is_special
        self._world = world
        self._capture: _Capture | None = None
        self._was_eager = False
        self._gave_up = False

    def __call__(self, *batch: Tensor) -> None:
        """One update of all networks, with the tensors of a batch as the step takes them."""
        if self._gave_up or not self._is_full(batch) or self._is_special():
            self._step(*batch)
            self._was_eager = True
            return
        capture = self._capture
        if capture is None or capture.losses.is_stale:
            capture = self._attempt(batch)
            if capture is None:
                self._step(*batch)
                return
        else:
            for static, new in zip(capture.inputs, batch, strict=True):
                static.copy_(new)
            capture.losses.refresh()
            capture.replay()
        capture.losses.fire()
        if self._was_eager:
            # The eager step left gradients of its own, which no replay fills.
            for parameter, gradient in capture.gradients:
                parameter.grad = gradient
            self._was_eager = False

    def release(self) -> None:
        """Frees the graph. NCCL waits for it when processes disconnect."""
        self._capture = None

    def _is_full(self, batch: tuple[Tensor, ...]) -> bool:
        """Whether the batch has the usual size, in all processes."""
        counts = self._world.counts if self._world.size > 1 else (len(batch[0]),)
        return all(count == self._batch_size for count in counts)

    def _attempt(self, batch: tuple[Tensor, ...]) -> _Capture | None:
        """Captures the step; ``None`` if one of the processes cannot."""
        snapshot = self._snapshot(batch[0].device)
        self._capture = None  # frees the memory of an earlier one
        try:
            self._capture = self._make_capture(batch, snapshot)
        except RuntimeError as error:
            snapshot.restore()
            self._give_up(str(error))
        return self._capture

    @contextmanager
    def _in_all(self) -> Iterator[None]:
        """Raises a RuntimeError in all processes if one of them fails within."""
        problem = ""
        try:
            yield
        except (RuntimeError, LossError) as error:
            problem = one_line(error)[:200]
        problems = [each for each in self._world.gather(problem) if each]
        if problems:
            raise RuntimeError(problems[0])

    def _make_capture(self, batch: tuple[Tensor, ...], snapshot: Snapshot) -> _Capture:
        """Captures the step and makes the first replay."""
        inputs = tuple(each.clone() for each in batch)
        captured = CapturedLosses(self._losses)
        expected: list[Tensor] = []

        def work() -> None:
            with captured.noting():
                self._step(*inputs)
                captured.gather()
            if not expected:
                expected.append(captured.values.clone())

        with self._in_all():
            self._backend.warm_up(work, _WARM_UPS)
            snapshot.restore()
            replay = self._backend.capture(work)
        gradients = [(p, p.grad) for m in self._modules for p in m.parameters()]
        with self._in_all():
            captured.refresh()
            replay()
            changed = captured.unlike(expected[0])
            if changed:
                raise RuntimeError(
                    f"a replay computes another {' and '.join(changed)} than the step itself, "
                    "which may read memory of the host that is gone by then"
                )
        return _Capture(inputs, captured, gradients, replay)

    def _give_up(self, reason: str) -> None:
        if self._required:
            raise self._world.agreed(
                RunError(
                    f"train.cuda_graph is 'on', but the step cannot be captured: {reason}; use "
                    "'auto' or 'off'."
                )
            )
        log.warning("the step cannot be captured and is run eagerly, which is slower: %s", reason)
        self._gave_up = True
        if self._on_give_up is not None:
            self._on_give_up(reason)
