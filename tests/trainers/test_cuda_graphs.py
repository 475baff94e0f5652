"""`CudaGraphs` asks CUDA for the right things in the right order, also when the work fails.

Without a CUDA device its streams are stood in for: what is tested here is the order.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from nectargan.errors import LossError, RunError
from nectargan.trainers.cuda_graphs import CudaGraphs

DEVICE = torch.device("cpu")


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self._cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self._cuda.log.append(f"{self.name} waits for {other.name}")


class Cuda:
    """The part of ``torch.cuda`` that `CudaGraphs` uses.

    Attributes:
        log: What was asked for.
        spoilt: Whether the end of a capture raises, as it does after an error within.
        broken: Whether the device is unusable from then on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.spoilt = self.broken = False
        self.current = Stream(self, "main")
        self._streams = 0
        for name in ("Stream", "stream", "device", "graph", "set_stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, f"_{name}"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
        monkeypatch.setattr(
            torch.cuda, "set_sync_debug_mode", lambda m: self.log.append(f"on wait: {m}")
        )

    def work(self) -> None:
        self.log.append(f"work on {self.current.name}")

    def replay(self) -> None:
        self.log.append("replay")

    def _Stream(self, device: torch.device) -> Stream:  # noqa: N802
        self._streams += 1
        return Stream(self, f"side {self._streams}")

    @contextmanager
    def _device(self, device: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def _stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _graph(self, graph: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        before, self.current = self.current, stream
        self.log.append(f"capture on {stream.name}, {capture_error_mode}")
        try:
            yield
        finally:
            if self.spoilt:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.current = before

    def _set_stream(self, stream: Stream) -> None:
        self.current = stream

    def _synchronize(self) -> None:
        self.log.append("synchronize")
        if self.broken:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_warm_up_and_capture_share_a_stream(cuda: Cuda) -> None:
    graphs = CudaGraphs(DEVICE)
    graphs.warm_up(cuda.work, 3)
    assert cuda.log == [
        "side 1 waits for main",
        "work on side 1",
        "work on side 1",
        "on wait: error",
        "work on side 1",
        "on wait: default",
        "main waits for side 1",
    ]
    cuda.log.clear()
    replay = graphs.capture(cuda.work)
    assert cuda.log == ["capture on side 1, thread_local", "work on side 1"]
    replay()
    assert cuda.log[-1] == "replay"
    assert cuda.current.name == "main"


def test_each_has_a_stream_of_its_own(cuda: Cuda) -> None:
    """Torch's own is bound to the first device that captures."""
    first, second = CudaGraphs(DEVICE), CudaGraphs(DEVICE)
    first.capture(cuda.work)
    second.capture(cuda.work)
    assert [line for line in cuda.log if line.startswith("work")] == [
        "work on side 1",
        "work on side 2",
    ]


@pytest.mark.parametrize("failing", [1, 3])
def test_what_follows_a_failed_warm_up_comes_after_it(cuda: Cuda, failing: int) -> None:
    """Or weights would be put back while the device still updates them."""
    runs = 0

    def work() -> None:
        nonlocal runs
        runs += 1
        if runs == failing:
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        CudaGraphs(DEVICE).warm_up(work, 3)
    assert cuda.log[-1] == "main waits for side 1"
    assert cuda.log.count("on wait: error") == cuda.log.count("on wait: default")
    assert cuda.current.name == "main"


def test_no_garbage_is_collected_within_a_capture(cuda: Cuda) -> None:
    seen: list[bool] = []
    CudaGraphs(DEVICE).capture(lambda: seen.append(gc.isenabled()))
    assert seen == [False]
    assert gc.isenabled()
    cuda.spoilt = True
    with pytest.raises(RuntimeError):
        CudaGraphs(DEVICE).capture(cuda.work)
    assert gc.isenabled()


@pytest.mark.parametrize("spoilt", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, LossError])
def test_a_failed_capture_leaves_its_stream_and_names_the_cause(
    cuda: Cuda, spoilt: bool, error: type[Exception]
) -> None:
    def work() -> None:
        raise error("the cause")

    cuda.spoilt = spoilt
    with pytest.raises(error, match="the cause"):
        CudaGraphs(DEVICE).capture(work)
    assert cuda.current.name == "main"
    assert cuda.log[-2:] == ["synchronize", "synchronize"]


def test_a_capture_that_only_its_end_finds_spoilt(cuda: Cuda) -> None:
    cuda.spoilt = True
    with pytest.raises(RuntimeError, match="due to a previous error"):
        CudaGraphs(DEVICE).capture(cuda.work)
    assert cuda.current.name == "main"


def test_a_device_left_unusable_ends_the_run_in_one_sentence(cuda: Cuda) -> None:
    def work() -> None:
        cuda.broken = True
        raise RuntimeError("CUDA error: copies\nCompile with `TORCH_USE_CUDA_DSA`")

    with pytest.raises(RunError) as caught:
        CudaGraphs(DEVICE).capture(work)
    assert str(caught.value) == (
        "The capture of the step failed and left the device unusable for this process: CUDA error: "
        "copies; start again with --set train.cuda_graph=off."
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_after_a_failed_capture_the_gpu_is_usable_or_an_error_says_so() -> None:
    """In a process of its own, which may not be able to use the device afterwards."""
    code = """
import torch
from nectargan.errors import RunError
from nectargan.trainers.cuda_graphs import CudaGraphs
device = torch.device("cuda", 0)
x = torch.ones(3, device=device)
graphs = CudaGraphs(device)
graphs.warm_up(lambda: torch.nn.functional.dropout(x), 3)
try:
    graphs.capture(lambda: torch.nn.functional.dropout(x).sum().item())
except RuntimeError:
    assert torch.rand(3, device=device).sum().item() > 0
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    print("usable")
except RunError as error:
    assert "train.cuda_graph=off" in str(error)
    print("said not to be")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout in ("usable\n", "said not to be\n")
