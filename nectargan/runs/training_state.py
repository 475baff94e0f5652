"""`TrainingState`: the content of a checkpoint.

A resumed run is identical, bit by bit, to one that was never interrupted. Everything on which the
next step depends is in the checkpoint, or follows from the epoch and the config (learning rates,
weights of losses, order of the images). ``TrainingState.of(trainer).save(path)`` writes it;
`TrainingState.read` and `TrainingState.restore` restore it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from nectargan.analysis.run_changes import Change
from nectargan.build import optimized_parameters
from nectargan.build_data import Data
from nectargan.build_values import ValueMappings
from nectargan.config.schema import Config
from nectargan.distributed import World
from nectargan.errors import CheckpointError, ConfigError
from nectargan.files import replacing
from nectargan.loggers.mlflow.metadata import DatasetMetadata
from nectargan.losses.balancing import Balancer
from nectargan.losses.loss_manager import LossManager
from nectargan.runs.misfits import adam_state, check_names, check_scaler, check_tensors, misfit
from nectargan.runs.random_state import random_state, set_random_state
from nectargan.version import __version__
from nectargan.wording import counted

FORMAT = 2

Whole = Annotated[int, Field(ge=0, lt=2**63)]
_Ledger = Literal["losses.csv", "metrics.csv", "gradients.csv"]
_Best = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)
]


class TrainerLike(Protocol):
    """The attributes of a `Trainer` that are saved. `Trainer` itself cannot be imported here."""

    config: Config
    device: torch.device
    data: Data
    datasets: list[DatasetMetadata]
    changes: list[Change]
    epoch: int
    batch: int | None
    step: int
    epoch_began: int
    bests: dict[str, tuple[float, int]]
    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Adam]
    scaler: GradScaler
    losses: LossManager
    world: World


class CheckpointPart(BaseModel):
    """A part of a checkpoint; unknown fields are ignored."""

    model_config = ConfigDict(strict=True)


class _MLflowRun(CheckpointPart):
    run_id: Annotated[str, Field(min_length=1)]
    uri: str | None = None


class _Change(CheckpointPart):
    epoch: Whole
    options: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]]


class _BalancerState(CheckpointPart):
    kind: str
    state: dict[str, Any]


class Training(CheckpointPart):
    """The section "training": the position in the run, and all state except the networks."""

    epoch: Whole
    """The current epoch, or the last completed one; 0 before the first."""
    batch: Whole | None
    """Completed batches of the current epoch; ``None`` between two epochs."""
    epoch_began: Whole
    """Completed steps at the start of the epoch."""
    bests: dict[str, _Best]
    """The best value of each validation metric, and its epoch."""
    optimizers: dict[str, Any] = Field(default_factory=dict)
    """State of Adam by name of the network: step and moments of each parameter, by its index."""
    scaler: dict[str, Any] = Field(default_factory=dict)
    """State of the gradient scaler; empty unless the precision is fp16."""
    random: dict[str, Any]
    """States of all random generators of the main process; see `random_state`."""
    random_of_others: list[dict[str, Any]] = Field(default_factory=list)
    """Those of the other processes, by rank; empty for a single process."""
    # Only these names are allowed, because a resume truncates the files.
    ledgers: dict[_Ledger, Whole]
    """Size of each ledger in bytes, by file name; empty for a run without ledgers."""
    ledger_digests: dict[_Ledger, str] | None = None
    """SHA-256 of these bytes; ``None`` in checkpoints of version 1.0."""
    balancer: _BalancerState | None = None
    """The state of the rule that sets the weights of the losses, if there is one."""
    means: dict[str, Any] | None = None
    """See `RunningMeans.state`; ``None`` in checkpoints of earlier versions."""
    data: dict[str, str] | None = None
    """Digest of the images of each split; ``None`` in checkpoints of version 1.0."""
    changes: list[_Change] | None = None
    """See `nectargan.analysis.run_changes`; ``None`` in checkpoints of version 1.0."""
    mlflow: _MLflowRun | None = None
    """The MLflow run; ``None`` if there was none yet."""


class Checkpoint(CheckpointPart):
    """The part of a checkpoint that is needed to apply, test or export a network."""

    config: dict[str, Any]
    """The config of the run."""
    epoch: Whole
    """Completed epochs."""
    step: Whole
    """Completed steps."""
    networks: dict[str, dict[str, Any]]
    """The state of each network by name, such as "generator"."""
    values: dict[str, Any] | None = None
    """See `ValueMappings.to_dict`; ``None`` for plain 8-bit images, as in earlier versions."""

    @property
    def mappings(self) -> ValueMappings | None:
        """How the values of files become those of the networks; ``None`` for plain 8-bit images.

        Raises:
            DataError: If they are damaged.
        """
        return None if self.values is None else ValueMappings.from_dict(self.values)

    def save(self, path: Path) -> None:
        """Writes the file atomically; raises OSError."""
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as part:
            header = {"format": FORMAT, "nectargan_version": __version__}
            torch.save({**header, **self.model_dump()}, part)


class CheckpointFile(Checkpoint):
    """The fields that every checkpoint file has, to recognize other files."""

    format: int
    nectargan_version: str


class TrainingState(Checkpoint):
    """The complete content of a checkpoint."""

    training: Training

    @classmethod
    def of(
        cls,
        trainer: TrainerLike,
        ledgers: Mapping[str, int],
        ledger_digests: Mapping[str, str],
        mlflow: Mapping[str, str] | None,
        means: Mapping[str, Any] | None = None,
        generators: Sequence[dict[str, Any]] | None = None,
    ) -> Self:
        """Copies the state of a trainer between two steps.

        Args:
            trainer: The trainer.
            ledgers: Current size of each ledger in bytes, by file name.
            ledger_digests: SHA-256 of these bytes.
            mlflow: Id and address of the MLflow run; ``None`` if there is none yet.
            means: See `RunningMeans.state`.
            generators: See `random_state`, of each process by rank; by default of this one.
        """
        first, *others = generators or [random_state(trainer.device)]
        networks = {name: network.state_dict() for name, network in trainer.networks.items()}
        adams = {name: adam.state_dict()["state"] for name, adam in trainer.optimizers.items()}
        training = {
            "epoch": trainer.epoch,
            "batch": trainer.batch,
            "epoch_began": trainer.epoch_began,
            "bests": {metric: list(best) for metric, best in trainer.bests.items()},
            "optimizers": to_cpu(adams),
            "scaler": trainer.scaler.state_dict(),
            "random": first,
            "random_of_others": others,
            "ledgers": dict(ledgers),
            "ledger_digests": dict(ledger_digests),
            "balancer": _balancer_state(trainer.losses.balancer),
            "means": None if means is None else dict(means),
            "data": _digests(trainer),
            "changes": [
                {"epoch": change.epoch, "options": {k: list(v) for k, v in change.options.items()}}
                for change in trainer.changes
            ],
            "mlflow": mlflow,
        }
        return cls(
            config=trainer.config.model_dump(mode="json"),
            epoch=trainer.epoch - (trainer.batch is not None),
            step=trainer.step,
            networks=to_cpu(networks),
            values=None if trainer.data.values is None else trainer.data.values.to_dict(),
            training=Training.model_validate(training),
        )

    @classmethod
    def read(cls, content: Mapping[str, Any], place: Path) -> Self:
        """The state in the content of a checkpoint that was read from ``place``.

        Raises:
            CheckpointError: the checkpoint has only networks, or is damaged.
        """
        if content.get("training") == {}:
            raise CheckpointError(f"'{place}' has only networks and cannot be resumed.")
        return validated(cls, content, f"'{place}' cannot be resumed")

    def restore(self, trainer: TrainerLike) -> None:
        """Copies this state to a trainer.

        Raises:
            CheckpointError: networks, optimizers or scaler do not fit, in which case the trainer is
                unchanged; or the states of the random generators are invalid.
        """
        adams, training = self._fitting_adams(trainer), self.training
        balancer, saved = trainer.losses.balancer, training.balancer
        # A fork, or a resumed run with other options, may have another rule without this state.
        if balancer is not None and saved is not None and saved.kind == balancer.kind:
            state = balancer.completed(saved.state)
            check_tensors(state, balancer.state_dict(), "balancer")
            balancer.load_state_dict(state)
        trainer.epoch, trainer.batch = training.epoch, training.batch
        trainer.step, trainer.epoch_began = self.step, training.epoch_began
        trainer.bests = {
            name: (value, int(epoch)) for name, (value, epoch) in training.bests.items()
        }
        for name, network in trainer.networks.items():
            network.load_state_dict(self.networks[name])
        for name, optimizer in trainer.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": adams[name], "param_groups": groups})
        trainer.scaler.load_state_dict(training.scaler)
        generators, rank = [training.random, *training.random_of_others], trainer.world.rank
        # With another number of processes, those that are new keep the seed that they have.
        if rank < len(generators):
            set_random_state(generators[rank], trainer.device)

    def _fitting_adams(self, trainer: TrainerLike) -> dict[str, Any]:
        """Compares all tensors with those of the trainer; returns the states of Adam by network."""
        if self.networks and not trainer.networks:
            raise CheckpointError("The checkpoint has networks, but this trainer has none.")
        check_names(self.networks, trainer.networks, "networks")
        check_names(self.training.optimizers, trainer.networks, "optimizers")
        check_scaler(self.training.scaler, trainer.scaler.state_dict())
        adams = {}
        for name, network in trainer.networks.items():
            check_tensors(self.networks[name], network.state_dict(), name)
            parameters, adam = (
                optimized_parameters(trainer.optimizers[name]),
                self.training.optimizers[name],
            )
            # With fp16, the scaler skips the first updates, so that Adam may have no state.
            steps = self.step if adam or not trainer.scaler.is_enabled() else 0
            adams[name] = adam_state(adam, parameters, steps, f"optimizer of {name}")
        return adams

    def check(self, trainer: TrainerLike, complaint: str) -> None:
        """Compares the images and counters with those of a trainer.

        Args:
            trainer: The trainer.
            complaint: Start of the error message for other images.

        Raises:
            ConfigError: the images have changed.
            CheckpointError: the counters do not fit the run, or each other.
        """
        known, found = self.training.data, _digests(trainer)
        for context in sorted({*found, *known} if known is not None else ()):
            if known is not None and known.get(context) != found.get(context):
                raise ConfigError(
                    f"{complaint} with other {context} images: their digest was "
                    f" {known.get(context, 'none')}, and in "
                    f"'{trainer.config.dataloader.dataroot}' it is {found.get(context, 'none')}; "
                    "put them back, or start another run."
                )
        may_skip = trainer.config.dataloader.on_bad_image == "skip"
        self._check_counters(len(trainer.data.train), may_skip)

    def _check_counters(self, steps_per_epoch: int, may_skip: bool) -> None:
        """With ``may_skip``, batches may have been skipped because their images were unreadable."""
        at, done, step = self.training, self.epoch, self.step
        mid_epoch = at.batch is not None
        batch = steps_per_epoch if at.batch is None else at.batch
        most = max(0, at.epoch - 1) * steps_per_epoch
        end = most + batch if at.epoch else 0
        where = f"epoch {at.epoch}, batch {batch}, of {counted(steps_per_epoch, 'step')} an epoch"
        if batch > steps_per_epoch:
            raise misfit(f"its batch is {batch}, and an epoch has {steps_per_epoch}")
        if done != at.epoch - mid_epoch:
            raise misfit(f"it has {counted(done, 'epoch')} done, and is in {where}")
        if step > end or (step < end and not may_skip):
            raise misfit(f"its step is {step}, and that of {where}, is {end}")
        if not max(0, step - batch) <= at.epoch_began <= min(step, most):
            raise misfit(f"its epoch began after {at.epoch_began} steps of {step}, in {where}")
        for metric, (_, epoch) in at.bests.items():
            if epoch not in range(1, at.epoch + 1):
                raise misfit(f"its best {metric} is of epoch {epoch:g}, and it is in {where}")


def _balancer_state(balancer: Balancer | None) -> dict[str, Any] | None:
    if balancer is None:
        return None
    return {"kind": balancer.kind, "state": to_cpu(balancer.state_dict())}


def _digests(trainer: TrainerLike) -> dict[str, str]:
    return {dataset.context: dataset.digest for dataset in trainer.datasets}


def to_cpu(state: Any) -> Any:
    """A copy of nested containers whose tensors are contiguous copies on the CPU."""
    if isinstance(state, Tensor):
        # The file must not depend on the memory format of the device.
        copy = torch.empty_like(state, device="cpu", memory_format=torch.contiguous_format)
        return copy.copy_(state.detach())
    if isinstance(state, Mapping):
        return {key: to_cpu(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(to_cpu(value) for value in state)
    return state


_Model = TypeVar("_Model", bound=CheckpointPart)


def validated(model: type[_Model], content: object, complaint: str) -> _Model:
    """Validates ``content``; raises `CheckpointError` with a message that starts with
    ``complaint``."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, item["loc"]))
        reason = f"{where}: {item['msg']}" if where else item["msg"]
        raise CheckpointError(f"{complaint} ({reason}).") from None
