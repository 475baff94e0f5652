"""The device, precision, memory format, threads and seeds of a run."""

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
    """The device for a value of ``common.device``; "auto" is CUDA, else MPS, else CPU.

    A CUDA device becomes the current device of this process, so that code that only says "cuda",
    such as a custom loss, a compiled kernel or pinned memory, uses the same GPU.

    Raises:
        ConfigError: the name is not valid, or this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # torch would take the number modulo 256, so that "cuda:256" would be the first GPU.
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


# The number of threads of torch before `use_threads`, and the number that it set.
_threads = {"most": 0, "used": 0}


def use_threads(flops: float, processes: int = 1) -> None:
    """Reduces the number of CPU threads of torch to a suitable number for a step.

    A number that the user has set is not changed.

    Args:
        flops: Number of floating-point operations of a step.
        processes: Number of processes on this machine that share its cores.
    """
    if chosen_by_user(THREADS):
        return
    if torch.get_num_threads() != _threads["used"]:
        _threads["most"] = torch.get_num_threads()
    most = max(1, _threads["most"] // processes)
    _threads["used"] = min(most, worthwhile_threads(flops))
    torch.set_num_threads(_threads["used"])


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision for a value of ``common.precision``: "fp32", "bf16" or "fp16".

    "auto" is bf16 on a CUDA device that supports it and fp32 elsewhere.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        # GPUs before Ampere emulate bf16, which is slower than fp32.
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return "fp32"


def memory_format(device: torch.device, precision: str, batch_size: int) -> torch.memory_format:
    """The memory format of the weights, and thereby of the feature maps.

    Tensor cores need ``channels_last``; otherwise cuDNN copies each map before and after a
    convolution. Instance norm only keeps this format for a batch of one image; see
    `InstanceNorm2d`.
    """
    on_tensor_cores = device.type == "cuda" and precision != "fp32"
    return torch.channels_last if on_tensor_cores and batch_size == 1 else torch.contiguous_format


def place(network: nn.Module, device: torch.device, order: torch.memory_format) -> None:
    """Moves a network to a device in place, and its 4D tensors to a memory format."""
    network.to(device)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=order)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context manager for running a network; it does nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a network, or a method of one, on the first call. The network itself is unchanged.

    Raises:
        RunError: on the first call: there is no compiler, or it fails.
    """
    from torch._functorch import config

    # Several losses go back through the same part of a network; see `LossManager.gradients_at`.
    config.donated_buffer = False
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


def seed_of(seed: int, rank: int) -> int:
    """The seed of a process that trains with others: ``seed`` itself for the main one."""
    if not rank:
        return seed
    return int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seeds Python, NumPy and torch, and chooses between reproducible and fast algorithms.

    Args:
        seed: The seed.
        deterministic: Whether to use only deterministic algorithms, in the whole process.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():
        # Only called if necessary, because it imports the compiler, which takes over a second.
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
