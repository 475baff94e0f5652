from __future__ import annotations

import math
import random
import shutil

import numpy as np
import pytest
import torch

from nectargan import cpu
from nectargan.cpu import THREADS
from nectargan.errors import ConfigError, RunError
from nectargan.trainers.devices import (
    autocast,
    compiled,
    resolve_device,
    resolve_precision,
    seed_everything,
    use_threads,
)

CPU = torch.device("cpu")


def test_auto_is_the_best_device_there_is() -> None:
    best = "cpu"
    if torch.cuda.is_available():
        best = "cuda"
    elif torch.backends.mps.is_available():
        best = "mps"
    assert resolve_device("auto").type == best


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta", "cpu:x", "xpu"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=f"common.device is '{name}'"):
        resolve_device(name)


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:1", 1), ("auto", 1)])
def test_a_cuda_device_becomes_the_current_one(
    monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    device = resolve_device(name)
    assert device == torch.device("cuda", index)
    assert current in ([device], [] if name == "auto" else [device])


def test_precision_on_a_cpu() -> None:
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast_chooses_the_dtype(precision: str, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (x @ x).dtype == dtype


def test_seeds_reach_every_generator() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_everything(7, deterministic=False)
    first = draw()
    seed_everything(7, deterministic=False)
    assert draw() == first
    seed_everything(8, deterministic=False)
    assert not set(draw()) & set(first)


def test_deterministic_algorithms_are_switched_on_and_off() -> None:
    seed_everything(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    seed_everything(0, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles with a C++ compiler")
def test_a_compiled_network_is_the_network() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
    images = torch.rand(2, 3)
    run = compiled(network)
    torch.testing.assert_close(run(images), network(images))
    run(images).sum().backward()
    assert network[0].weight.grad is not None


def test_without_a_compiler_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> object:
        from torch._dynamo.exc import TorchDynamoException

        raise TorchDynamoException("no compiler\nwas found")

    monkeypatch.setattr(torch, "compile", lambda network, dynamic: fail)
    with pytest.raises(RunError, match=r"cannot compile the networks here: no compiler was found;"):
        compiled(torch.nn.Linear(1, 1))(torch.zeros(1))


def test_threads_are_reduced_to_what_a_step_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "usable_cores", lambda: 4)
    before = torch.get_num_threads()
    used = []
    try:
        torch.set_num_threads(3)  # as torch had them, or the user's code
        for flops in (1e9, 9e9, math.inf):
            use_threads(flops)
            used.append(torch.get_num_threads())
        torch.set_num_threads(1)
        use_threads(math.inf)
        used.append(torch.get_num_threads())
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        torch.set_num_threads(2)
        use_threads(1e9)
        used.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert used == [1, 2, 3, 1, 2]
