"""Where and how a run computes: device, precision, seeds."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nectargan.cpu import THREADS, chosen_by_user, worthwhile_threads
from nectargan.errors import ConfigError, RunError
from nectargan.wording import one_line

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device behind ``common.device``: "auto" is CUDA, else MPS, else CPU.

    A CUDA device becomes the current one of this process: code that names only "cuda", such as a
    loss of one's own, a compiled kernel or pinned memory, must not go to another card.

    Raises:
        ConfigError: no such device, or this machine has none.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # torch takes the number modulo 256, and "cuda:256" for the first one.
    if not re.fullmatch(r"(cpu|mps)(:0)?|cuda(:\d{1,9})?", name):
        raise ConfigError(
            f"common.device is '{name}'; allowed are 'auto', 'cpu', 'mps', 'cuda' and 'cuda:N'."
        )
    kind, _, number = name.partition(":")
    index = int(number or 0)
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index >= count:
            raise ConfigError(
                f"common.device is '{name}', but torch sees {count} CUDA devices on this machine; "
                "use 'auto' or 'cpu'."
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        return device
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"common.device is '{name}', which this machine does not have.")
    return torch.device(kind)


# Threads that torch had of itself, or by the user's call, and what they were reduced to.
_threads = {"most": 0, "used": 0}


def use_threads(flops: float) -> None:
    """Reduces torch's threads on the CPU to those that a step of so many floating-point operations
    is worth, on the cores that may be used; never below or above what the user has set."""
    if chosen_by_user(THREADS):
        return
    if torch.get_num_threads() != _threads["used"]:
        _threads["most"] = torch.get_num_threads()
    _threads["used"] = min(_threads["most"], worthwhile_threads(flops))
    torch.set_num_threads(_threads["used"])


def resolve_precision(name: str, device: torch.device) -> str:
    """What ``common.precision`` means on ``device``: "fp32", "bf16" or "fp16".

    "auto" is bf16 on a CUDA device that supports it and fp32 elsewhere.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        # Emulated bf16, on cards before Ampere, would be slower than fp32.
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return "fp32"


def memory_format(device: torch.device, precision: str, batch_size: int) -> torch.memory_format:
    """The order in which the networks' weights, and with them their maps, lie in memory.

    Tensor cores take ``channels_last``; in the other order cuDNN copies each map before and after
    a convolution. Instance norm keeps it for a batch of one image alone. See `InstanceNorm2d`.
    """
    on_tensor_cores = device.type == "cuda" and precision != "fp32"
    return torch.channels_last if on_tensor_cores and batch_size == 1 else torch.contiguous_format


def place(network: nn.Module, device: torch.device, order: torch.memory_format) -> None:
    """Moves a network to a device, in place, and lays out the weights of its 2D convolutions."""
    network.to(device)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=order)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context to run a network in; none for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A network, or a method of one, compiled by torch on its first call; its own object stays as
    it is.

    Raises:
        RunError: on the first call: there is no compiler, or it fails.
    """
    run = torch.compile(forward, dynamic=False)

    def call(*inputs: Tensor) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return run(*inputs)
        except TorchDynamoException as error:
            reason = one_line(error)[:300]
            raise RunError(
                "train.compile is 'default', but torch cannot compile the networks here: "
                f"{reason}; use 'off'."
            ) from None

    return call


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seeds Python, NumPy and torch, and chooses between reproducible and fast algorithms.

    Args:
        seed: The run's seed.
        deterministic: Allow only deterministic algorithms, for the whole process.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():
        # Not called for nothing: it imports the whole compiler, over a second.
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
