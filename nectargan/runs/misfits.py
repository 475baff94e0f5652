"""Comparing the parts of a checkpoint with those of a run, before any of them is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nectargan.errors import CheckpointError


def check_names(found: object, wanted: Iterable[str], what: str) -> None:
    """Raises `CheckpointError` unless a section of a checkpoint has just the wanted names."""
    names = sorted(map(str, found)) if isinstance(found, Mapping) else []
    if names != sorted(wanted):
        raise misfit(f"its {what} are {', '.join(names) or 'missing'}, not {', '.join(wanted)}")


def check_scaler(found: object, wanted: Mapping[str, float]) -> None:
    """Compares the state of a gradient scaler, numbers by name, with one of the run's; raises
    `CheckpointError`."""
    if wanted:
        check_names(found, wanted, "numbers of the scaler")
    for name, value in found.items() if isinstance(found, Mapping) else ():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise misfit(f"its scaler has {name} {value!r}")


def check_tensors(found: object, wanted: Mapping[str, Tensor], what: str) -> None:
    """Compares the names, shapes and types of tensors: a kernel that takes the wrong ones may write
    past their ends.

    Args:
        found: What a checkpoint holds.
        wanted: Tensors as they must be, by name.
        what: What messages call them.

    Raises:
        CheckpointError: they differ.
    """
    if not isinstance(found, Mapping) or any(not isinstance(name, str) for name in found):
        raise misfit(f"its {what} has no tensors by name")
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            raise misfit(f"its {what} {'lacks' if name in wanted else 'has a foreign'} '{name}'")
    for name, tensor in wanted.items():
        if _type_of(found[name]) != _type_of(tensor):
            raise misfit(
                f"'{name}' of its {what} is {_type_of(found[name])}, not {_type_of(tensor)}"
            )


def adam_state(
    found: object, parameters: Sequence[Tensor], steps: int, what: str
) -> dict[int, dict[str, Tensor]]:
    """A state of Adam, compared with the parameters that it belongs to.

    Args:
        found: The state by number of the parameter, as in ``state_dict()["state"]``.
        parameters: The parameters.
        steps: Most steps that it can have made; 0 for an optimizer that has no state yet.
        what: What messages call it.

    Returns:
        Copies, laid out as the parameters are: tensors of a file may share their memory, and would
        be updated more than once.

    Raises:
        CheckpointError: it does not fit.
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
        raise misfit(f"its {what} made {min(counts):g} to {max(counts):g} steps, of {steps} in all")
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
        layout += " without data"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{layout}"


def misfit(how: str) -> CheckpointError:
    """The error about a checkpoint that does not fit."""
    return CheckpointError(f"The checkpoint does not fit the run: {how}.")
