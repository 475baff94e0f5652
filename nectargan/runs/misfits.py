"""Compares the parts of a checkpoint with those of a run before any of them is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nectargan.errors import CheckpointError

_NO_DATA = " without data"  # of a tensor on the meta device


def check_names(found: object, wanted: Iterable[str], what: str) -> None:
    """Raises `CheckpointError` unless a section of a checkpoint has exactly the wanted names."""
    names = sorted(map(str, found)) if isinstance(found, Mapping) else []
    if names != sorted(wanted):
        raise misfit(f"its {what} are {', '.join(names) or 'missing'}, not {', '.join(wanted)}")


def check_scaler(found: object, wanted: Mapping[str, float]) -> None:
    """Compares the state of a gradient scaler, numbers by name, with that of the run; raises
    `CheckpointError`."""
    if wanted:
        check_names(found, wanted, "numbers of the scaler")
    for name, value in found.items() if isinstance(found, Mapping) else ():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise misfit(f"its scaler has {name} {value!r}")


def check_tensors(found: object, wanted: Mapping[str, Tensor], what: str) -> None:
    """Compares the names, shapes and types of tensors. A kernel could write out of bounds if they
    were wrong.

    Args:
        found: The part of the checkpoint.
        wanted: Tensors with the right names, shapes and types.
        what: Name of the part in messages.

    Raises:
        CheckpointError: the tensors differ.
    """
    for how in tensor_misfits(found, wanted, what):
        raise misfit(how)


def tensor_misfits(found: object, wanted: Mapping[str, Tensor], what: str) -> Iterator[str]:
    """The differences that `check_tensors` looks for. The wanted tensors need no data."""
    if not isinstance(found, Mapping) or any(not isinstance(name, str) for name in found):
        yield f"its {what} has no tensors by name"
        return
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            yield f"its {what} {'lacks' if name in wanted else 'has a foreign'} '{name}'"
    for name in filter(found.__contains__, wanted):
        is_one, must_be_one = _type_of(found[name]), _type_of(wanted[name]).removesuffix(_NO_DATA)
        if is_one != must_be_one:
            yield f"'{name}' of its {what} is {is_one}, not {must_be_one}"


def adam_state(
    found: object, parameters: Sequence[Tensor], steps: int, what: str
) -> dict[int, dict[str, Tensor]]:
    """Compares a state of Adam with the parameters that it belongs to, and copies it.

    Args:
        found: The state by index of the parameter, as in ``state_dict()["state"]``.
        parameters: The parameters.
        steps: Maximum number of steps of the state; 0 for an optimizer without state.
        what: Name of the optimizer in messages.

    Returns:
        Copies in the memory format of the parameters. Tensors in a file may share memory, which
        would be updated more than once.

    Raises:
        CheckpointError: the state does not fit.
    """
    if not steps and not found:
        return {}
    flat = {
        f"{number}.{key}": value
        for number, state in (found.items() if isinstance(found, Mapping) else ())
        for key, value in (state.items() if isinstance(state, Mapping) else ())
    }
    wanted: dict[str, Tensor] = {}
    for number, parameter in enumerate(parameters):
        wanted[f"{number}.step"] = torch.zeros(())
        wanted |= {f"{number}.{key}": parameter for key in ("exp_avg", "exp_avg_sq")}
    check_tensors(flat, wanted, what)
    counts = {float(flat[name]) for name in wanted if name.endswith(".step")}
    if len(counts) != 1 or not counts.issubset(range(1, steps + 1)):
        raise misfit(
            f"its {what} has {min(counts):g} to {max(counts):g} steps, but the run has {steps}"
        )
    copies: dict[int, dict[str, Tensor]] = {}
    for name, tensor in wanted.items():
        index, _, key = name.partition(".")
        copy = torch.empty_like(tensor, device="cpu").copy_(flat[name])
        copies.setdefault(int(index), {})[key] = copy
    return copies


def _type_of(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    if value.is_meta:
        layout += _NO_DATA
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{layout}"


def misfit(how: str) -> CheckpointError:
    """The error for a checkpoint that does not fit."""
    return CheckpointError(f"The checkpoint does not fit the run: {how}.")
