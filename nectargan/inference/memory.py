"""What an image takes of memory on its way through a generator, and what is free."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nectargan import cgroups
from nectargan.build import build_generator
from nectargan.inference.levels import input_of_level
from nectargan.models.padding import fitting_side

if TYPE_CHECKING:
    from nectargan.inference.model import Model

# For what kernels take besides, such as copies in another order. A U-Net took 42 % of the estimate.
_BESIDES = {"cpu": 2.0}
_BESIDES_ELSEWHERE = 1.5
# Of a network that cannot be run on shapes alone: some 250 numbers a pixel.
_BYTES_PER_PIXEL = 1000.0


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; for the CPU, those of the machine or of what is left of this
    process's share."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(free + held)
    own = psutil.Process().memory_info().rss
    return float(min(psutil.virtual_memory().available, cgroups.memory_limit() - own))


def peak_of_pass(model: Model, height: int, width: int) -> float:
    """Bytes that one image of this size takes at most, the weights aside.

    The network is built and run on torch's "meta" device, which knows shapes alone: it takes no
    memory.
    """
    found = _peak_on_meta(
        model,
        lambda network: network(torch.empty(1, model.in_channels, height, width)),
    )
    found = found or _BYTES_PER_PIXEL * height * width
    # The images themselves, and their numbers in [-1, 1].
    channels = model.in_channels + model.out_channels
    images = 16.0 * channels * height * width
    return found * _BESIDES.get(model.device.type, _BESIDES_ELSEWHERE) + images


def peak_of_level(model: Model, number: int, height: int, width: int) -> float:
    """Bytes that a level of a generator and those below it take at most, with what they take and
    make, for an image of this size."""

    def compute(network: Any) -> Tensor:
        side = fitting_side(model.smallest, model.multiple, 1)
        image = torch.empty(1, model.in_channels, side, side)
        channels = cast("Tensor", input_of_level(network, number, image)).shape[1]
        made: Tensor = network.level(
            number, torch.empty(1, channels, height >> number, width >> number)
        )
        return made

    found = _peak_on_meta(model, compute)
    return found * _BESIDES.get(model.device.type, _BESIDES_ELSEWHERE) if found else math.inf


def _peak_on_meta(model: Model, compute: Callable[[Any], Tensor]) -> float:
    """Bytes of the tensors of a computation with the model's network; 0 if that is not known."""
    peak = _Peak()
    # A custom network may need values instead of shapes, and may raise anything.
    with suppress(Exception), torch.no_grad(), torch.device("meta"):
        network = build_generator(model.config).eval()
        with peak:
            compute(network)
        return float(peak.most)
    return 0.0


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """Counts the bytes of all tensors that are there at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.most = 0
        self._there: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for key, (kept, _) in list(self._there.items()):
            if kept.expired():  # type: ignore[no-untyped-call]  # untyped in torch
                del self._there[key]
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # untyped in torch
                self._there[storage._cdata] = reference, storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._there.values()))
        return result
