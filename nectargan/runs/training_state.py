"""`TrainingState`: all that a run is resumed from, checked before any of it is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from nectargan.errors import CheckpointError
from nectargan.wording import counted

Whole = Annotated[int, Field(ge=0, lt=2**63)]
_Ledger = Literal["losses.csv", "metrics.csv"]
_Best = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)
]


class Part(BaseModel):
    """A part of a checkpoint; what it has besides is not looked at."""

    model_config = ConfigDict(strict=True)


class _MLflowRun(Part):
    run_id: Annotated[str, Field(min_length=1)]


class _Change(Part):
    epoch: Whole
    options: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]]


class TrainingState(Part):
    """The section "training" of a checkpoint, as far as it is the same for every trainer.

    A subclass of `Trainer` adds sections of its own, which its ``restore`` checks.
    """

    epoch: Whole
    """The epoch at hand, or the last one done; 0 before the first."""
    batch: Whole | None
    """Batches done in it; ``None`` between two epochs."""
    epoch_began: Whole
    """Steps made before it."""
    bests: dict[str, _Best]
    """The best value of each metric of validation, and its epoch."""
    random: dict[str, Any]
    """See `random_state`."""
    # Named one by one: they are files that will be cut.
    ledgers: dict[_Ledger, Whole]
    """Bytes of each ledger, by file name; empty for a run without them."""
    ledger_digests: dict[_Ledger, str] | None = None
    """SHA-256 of those bytes; ``None`` in checkpoints of version 1.0."""
    data: dict[str, str] | None = None
    """Digest of the images of each split; ``None`` in checkpoints of version 1.0."""
    changes: list[_Change] | None = None
    """See `nectargan.analysis.run_changes`; ``None`` in checkpoints of version 1.0."""
    mlflow: _MLflowRun | None = None
    """The MLflow run, once there was one."""

    def check(self, done: int, step: int, steps_per_epoch: int, may_skip: bool) -> None:
        """Compares every counter with the run.

        Args:
            done: Epochs that the checkpoint says are done.
            step: Steps that it says are done.
            steps_per_epoch: Batches of an epoch.
            may_skip: Whether batches may have been skipped because their images were bad.

        Raises:
            CheckpointError: they contradict the run, or each other.
        """
        within = self.batch is not None
        batch = steps_per_epoch if self.batch is None else self.batch
        most = max(0, self.epoch - 1) * steps_per_epoch
        end = most + batch if self.epoch else 0
        told = f"epoch {self.epoch}, batch {batch}, of {counted(steps_per_epoch, 'step')} an epoch"
        if batch > steps_per_epoch:
            raise _misfit(f"its batch is {batch}, and an epoch has {steps_per_epoch}")
        if done != self.epoch - within:
            raise _misfit(f"it has {counted(done, 'epoch')} done, and is in {told}")
        if step > end or (step < end and not may_skip):
            raise _misfit(f"its step is {step}, and that of {told}, is {end}")
        if not max(0, step - batch) <= self.epoch_began <= min(step, most):
            raise _misfit(f"its epoch began after {self.epoch_began} steps of {step}, in {told}")
        for metric, (_, epoch) in self.bests.items():
            if epoch not in range(1, self.epoch + 1):
                raise _misfit(f"its best {metric} is of epoch {epoch:g}, and it is in {told}")


def read_training_state(content: Mapping[str, Any], place: Path) -> TrainingState:
    """The training state in the content of a checkpoint that was read from ``place``.

    Raises:
        CheckpointError: it has none, or one that is damaged.
    """
    if content.get("training") == {}:
        raise CheckpointError(f"'{place}' has only networks, nothing to go on from.")
    return validated(TrainingState, content.get("training"), f"'{place}' is nothing to go on from")


_Model = TypeVar("_Model", bound=Part)


def validated(model: type[_Model], content: object, complaint: str) -> _Model:
    """``content`` as a model; raises `CheckpointError`, which begins with ``complaint``."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, item["loc"]))
        reason = f"{where}: {item['msg']}" if where else item["msg"]
        raise CheckpointError(f"{complaint} ({reason}).") from None


def check_names(found: object, wanted: Iterable[str], what: str) -> None:
    """Raises `CheckpointError` unless a section of a checkpoint has just the wanted names."""
    names = sorted(map(str, found)) if isinstance(found, Mapping) else []
    if names != sorted(wanted):
        raise _misfit(f"its {what} are {', '.join(names) or 'missing'}, not {', '.join(wanted)}")


def check_scaler(found: object, wanted: Mapping[str, float]) -> None:
    """Compares the state of a gradient scaler, numbers by name, with one of the run's; raises
    `CheckpointError`."""
    if wanted:
        check_names(found, wanted, "numbers of the scaler")
    for name, value in found.items() if isinstance(found, Mapping) else ():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise _misfit(f"its scaler has {name} {value!r}")


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
        raise _misfit(f"its {what} has no tensors by name")
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            raise _misfit(f"its {what} {'lacks' if name in wanted else 'has a foreign'} '{name}'")
    for name, tensor in wanted.items():
        if _kind(found[name]) != _kind(tensor):
            raise _misfit(f"'{name}' of its {what} is {_kind(found[name])}, not {_kind(tensor)}")


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
    made = {float(flat[name]) for name in wanted if name.endswith(".step")}
    if len(made) != 1 or not made.issubset(range(1, steps + 1)):
        raise _misfit(f"its {what} made {min(made):g} to {max(made):g} steps, of {steps} in all")
    copies: dict[int, dict[str, Tensor]] = {}
    for name, tensor in wanted.items():
        index, _, key = name.partition(".")
        copy = torch.empty_like(tensor, device="cpu").copy_(flat[name])
        copies.setdefault(int(index), {})[key] = copy
    return copies


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    if value.is_meta:
        layout += " without data"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{layout}"


def _misfit(how: str) -> CheckpointError:
    return CheckpointError(f"The checkpoint does not fit the run: {how}.")
