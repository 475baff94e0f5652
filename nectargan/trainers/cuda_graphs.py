"""`CudaGraphs`: what warms a step up, captures it and replays it on a CUDA device."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from nectargan.errors import RunError

Work = Callable[[], object]


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
        # Capturing needs another stream than the default one. Torch's own is made once, on the
        # device that is current then; a capture on another device would record nothing.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # untyped in torch

    def warm_up(self, work: Work, times: int) -> None:
        """See `GraphBackend`. What follows on the current stream comes after ``work``, whether that
        succeeds or not."""
        with torch.cuda.device(self._device), warnings.catch_warnings():
            # Torch warns of an optimiser that could be captured and is not, as here; and that the
            # mode which finds waits is a prototype.
            warnings.simplefilter("ignore")
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    for _ in range(times - 1):
                        work()
                    with _refusing_syncs():
                        work()
            finally:
                current.wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        """See `GraphBackend`.

        Raises:
            RunError: it failed, and nothing can be computed on the device any more.
        """
        with torch.cuda.device(self._device):
            graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                # Other threads may go on using CUDA meanwhile: one of them pins memory for the
                # loader.
                with (
                    _collecting_no_garbage(),
                    torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
                ):
                    work()
            except Exception as error:
                # The end of a spoilt capture raises too, before torch goes back to its stream.
                cause = error.__context__ if isinstance(error.__context__, Exception) else error
                torch.cuda.set_stream(current)
                self._check_usable(cause)
                raise cause from None
        return graph.replay

    def _check_usable(self, cause: Exception) -> None:
        """Raises RunError if a failed capture has left the device or its random generator in the
        middle of it."""
        try:
            torch.cuda.synchronize()
            torch.rand(1, device=self._device)
            torch.cuda.synchronize()
        except RuntimeError:
            # CUDA's own first line; the others are about how to debug CUDA.
            reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
            raise RunError(
                "The capture of the step failed and left the device unusable for this process: "
                f"{reason}; start again with --set train.cuda_graph=off."
            ) from None


@contextmanager
def _collecting_no_garbage() -> Iterator[None]:
    """Collects garbage before, not within: freeing a CUDA object can spoil a capture."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _refusing_syncs() -> Iterator[None]:
    """Turns a wait for the device into a RuntimeError, before it could spoil a capture."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
