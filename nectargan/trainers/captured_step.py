"""`CapturedStep`: a whole training step as one CUDA graph.

A step at batch 1 is some thousand small kernels, and an eager step waits for Python to launch them.
A graph is launched at once. What may differ between two replays lies in tensors that are filled
before: the images, the weights of the losses, the learning rates.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nectargan.errors import ConfigError, RunError
from nectargan.losses.captured_losses import CapturedLosses
from nectargan.losses.loss_manager import LossManager

Work = Callable[[], object]
Step = Callable[[Tensor, Tensor], object]

_WARM_UPS = 3

log = logging.getLogger("nectargan")


def graph_obstacle(wanted: str, device: torch.device, precision: str) -> str | None:
    """Why the step of a run is not captured; ``None`` if it is.

    Args:
        wanted: ``train.cuda_graph``: "auto", "on" or "off".
        device: The device of the run.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ConfigError: it is "on" and cannot be.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if wanted == "off":
        return "train.cuda_graph is 'off'"
    if device.type != "cuda":
        obstacle = f"the device is {device.type}, not CUDA"
    elif precision == "fp16":
        obstacle = "fp16 scales its gradients, which waits for the device"
    elif distributed and torch.distributed.get_world_size() > 1:
        obstacle = "several processes train together"
    else:
        return None
    if wanted == "on":
        raise ConfigError(f"train.cuda_graph is 'on', but {obstacle}; use 'auto' or 'off'.")
    return obstacle


class GraphBackend(Protocol):
    """What captures and replays; `CudaGraphs`, or a stand-in for it."""

    def warm_up(self, work: Work, times: int) -> None:
        """Runs ``work`` as it will be captured; raises RuntimeError if it waits for the device."""

    def capture(self, work: Work) -> Work:
        """Captures ``work`` without carrying it out; returns what carries it out, any number of
        times."""


class CudaGraphs:
    """Captures on a CUDA device.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def warm_up(self, work: Work, times: int) -> None:
        """See `GraphBackend`."""
        with torch.cuda.device(self._device), warnings.catch_warnings():
            # Torch warns of an optimiser that could be captured and is not, as here; and that the
            # mode which finds waits is a prototype.
            warnings.simplefilter("ignore")
            # Capturing needs another stream than the default one, and so does the warm-up.
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(times - 1):
                    work()
                with _refusing_syncs():
                    work()
            torch.cuda.current_stream().wait_stream(stream)

    def capture(self, work: Work) -> Work:
        """See `GraphBackend`."""
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using CUDA meanwhile: one of them pins memory for the loader.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                work()
        return graph.replay


class CapturedStep:
    """Runs a step by replaying it. Its updates, losses and hooks are those of the eager step.

    The first full batch captures it. Batches of another size take the eager step. If a loss is
    registered or replaced later on, the step is captured again. Parameters have the gradients of
    the last update, however it was made.

    Args:
        step: The eager step; ``(source, target)`` to one update of all networks.
        losses: The manager of its losses.
        modules: All that holds parameters or buffers that the step changes.
        optimizers: Their optimisers, with learning rates and counters on the device.
        batch_size: Size of the batches to capture.
        backend: What captures.
        required: Raise if the step cannot be captured, instead of going on eagerly.

    Raises:
        RunError: on a call: the step cannot be captured, and ``required`` is set.
    """

    def __init__(
        self,
        step: Step,
        losses: LossManager,
        modules: Iterable[nn.Module],
        optimizers: Iterable[Optimizer],
        batch_size: int,
        backend: GraphBackend,
        required: bool = False,
    ) -> None:
        self._step = step
        self._losses = losses
        self._modules = list(modules)
        self._optimizers = list(optimizers)
        self._batch_size = batch_size
        self._backend = backend
        self._required = required
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._captured = CapturedLosses(losses)
        self._replay: Work | None = None
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._was_eager = False
        self._gave_up = False

    def __call__(self, source: Tensor, target: Tensor) -> None:
        """One update of all networks."""
        if self._gave_up or len(source) != self._batch_size:
            self._step(source, target)
            self._was_eager = True
            return
        if self._replay is None or self._captured.is_stale:
            try:
                self._replay = self._capture(source, target)
            except RuntimeError as error:
                self._give_up(error)
                self._step(source, target)
                return
        for static, new in zip(self._inputs or (), (source, target), strict=True):
            static.copy_(new)
        self._captured.refresh()
        self._replay()
        self._captured.fire()
        if self._was_eager:
            # The eager step left gradients of its own, which no replay fills.
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
            self._was_eager = False

    def _capture(self, source: Tensor, target: Tensor) -> Work:
        inputs = source.clone(), target.clone()
        captured = CapturedLosses(self._losses)

        def work() -> None:
            with self._losses.capture(captured):
                self._step(*inputs)
                captured.gather()

        with preserved(self._modules, self._optimizers, source.device):
            self._backend.warm_up(work, _WARM_UPS)
        replay = self._backend.capture(work)
        self._gradients = [(p, p.grad) for m in self._modules for p in m.parameters()]
        self._inputs, self._captured = inputs, captured
        return replay

    def _give_up(self, error: RuntimeError) -> None:
        reason = " ".join(str(error).split())[:200]
        if self._required:
            raise RunError(
                f"train.cuda_graph is 'on', but the step cannot be captured: {reason}; use 'auto' "
                "or 'off'."
            ) from None
        log.warning("the step cannot be captured and is run eagerly, which is slower: %s", reason)
        self._replay = None
        self._gave_up = True


@contextmanager
def preserved(
    modules: Iterable[nn.Module], optimizers: Iterable[Optimizer], device: torch.device
) -> Iterator[None]:
    """Leaves weights, buffers, optimiser states and torch's random generators as they were before
    the ``with`` block, and no gradients."""
    optimizers = list(optimizers)
    tensors = [t for m in modules for t in itertools.chain(m.parameters(), m.buffers())]
    saved = [tensor.detach().clone() for tensor in tensors]
    states = [
        {p: {key: value.clone() for key, value in state.items()} for p, state in o.state.items()}
        for o in optimizers
    ]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, before in zip(tensors, saved, strict=True):
                    tensor.copy_(before)
                for optimizer, state in zip(optimizers, states, strict=True):
                    _restore(optimizer, state)


def _restore(optimizer: Optimizer, states: dict[Tensor, dict[str, Tensor]]) -> None:
    # In place: the state's tensors are those that the capture will use.
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if parameter in states:
                value.copy_(states[parameter][key])
            else:
                value.zero_()  # with which Adam begins
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _refusing_syncs() -> Iterator[None]:
    """Turns a wait for the device into a RuntimeError, before it could spoil a capture."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
