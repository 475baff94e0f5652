"""A stand-in for CUDA graphs that captures and replays on a CPU.

It notes every operation that torch carries out, backward passes and optimisers included, with the
very tensors that went in and came out. A replay carries the operations out again on these tensors
and runs no Python of the step. So a number that should have been a tensor is as frozen here as in a
CUDA graph, and reading a value while capturing is refused as it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They change the shape of a tensor in place, once for all replays.
RESHAPES = ("unsqueeze_", "squeeze_")
READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero")


class _Noting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: set[int] = set()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        self.names.append(name)
        if name in READS:
            raise RuntimeError(f"{name} is not permitted when capturing")
        for tensor in self._mutated(func, args, kwargs):
            key = tensor.untyped_storage().data_ptr()
            if key not in self.made and key not in self.before:
                whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
                self.before[key] = (whole, whole.clone())
        result = func(*args, **kwargs)
        # What was made here needs no putting back; views of what went in were not made here.
        self.made |= _storages(result) - _storages((args, kwargs))
        if name not in RESHAPES:
            self.operations.append((func, args, kwargs, result))
        return result

    @staticmethod
    def _mutated(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        if func is torch.ops.aten.native_batch_norm.default:
            return [t for t in args[3:5] if t is not None]  # its schema does not tell
        if not func._schema.is_mutable:
            return []
        given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
        written = [
            given[a.name]
            for a in func._schema.arguments
            if a.alias_info is not None and a.alias_info.is_write and a.name in given
        ]
        return [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]


def _storages(tree: Any) -> set[int]:
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in leaves}


class CpuGraphs:
    """A `GraphBackend` for tests.

    Attributes:
        captures: How often something was captured.
        names: The operations last captured.
    """

    def __init__(self) -> None:
        self.captures = 0
        self.names: list[str] = []

    def warm_up(self, work: Callable[[], object], times: int) -> None:
        for _ in range(times - 1):
            work()
        with _Noting():  # for its refusals
            work()

    def capture(self, work: Callable[[], object]) -> Callable[[], object]:
        self.captures += 1
        generator = torch.get_rng_state()
        with _Noting() as noted:
            work()
        # A capture carries nothing out: what it changed is put back.
        torch.set_rng_state(generator)
        for now, before in noted.before.values():
            now.copy_(before)
        self.names = noted.names

        def replay() -> None:
            with torch.no_grad():
                for func, args, kwargs, result in noted.operations:
                    _carry_out(func, args, kwargs, result)

        return replay


def _carry_out(func: Any, args: Any, kwargs: Any, result: Any) -> None:
    again = func(*args, **kwargs)
    if func.namespace == "c10d":  # processes exchange in place, while this one may go on
        for leaf in tree_leaves(again):
            if isinstance(leaf, torch.ScriptObject):
                torch.distributed.Work.unbox(leaf).wait()
        return
    if func._schema.is_mutable:
        return
    for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new.reshape(old.shape))
