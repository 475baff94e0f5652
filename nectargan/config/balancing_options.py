"""Options of weights that follow from the gradients: ``train.balancer``, and which shares fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from nectargan.config.base import ImportPath, Section
from nectargan.config.choices import BalancerName
from nectargan.config.loss_options import LossWeight, ShareConfig, schedule_of, weight_of
from nectargan.config.objectives import DISCRIMINATOR
from nectargan.imports import is_import_path
from nectargan.scheduling.data import Schedule

_ROUNDING = 1e-6  # of a sum of shares


class BalancerConfig(Section):
    """A rule that sets the weights of the generator's losses at every step.

    It may also be written as a name or an import path alone.
    """

    name: BalancerName | None = None
    """Name of a built-in rule."""
    function: ImportPath | None = None
    """Instead of a built-in rule: import path, "package.module.Name", of your own, a class derived
    from nectargan.losses.balancing.Balancer. It is imported when a run starts."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the rule."""

    @model_validator(mode="before")
    @classmethod
    def _may_be_one_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return {"function" if is_import_path(value) else "name": value}

    @model_validator(mode="after")
    def _is_one_rule(self) -> BalancerConfig:
        if (self.name is None) == (self.function is None):
            raise ValueError('it needs either a "name" or a "function" (an import path)')
        return self


def shares_of(losses: Mapping[str, LossWeight]) -> dict[str, Schedule]:
    """The share of each loss that has one; custom functions are not imported."""
    weights = {name: weight_of(option) for name, option in losses.items()}
    return {n: weight.schedule for n, weight in weights.items() if isinstance(weight, ShareConfig)}


def weights_of(losses: Mapping[str, LossWeight]) -> dict[str, Schedule]:
    """The weight of each loss that has no share; custom functions are not imported."""
    weights = {name: weight_of(option) for name, option in losses.items()}
    return {
        name: schedule_of(weight)
        for name, weight in weights.items()
        if not isinstance(weight, ShareConfig)
    }


def share_problems(
    shares: Mapping[str, Schedule], weights: Mapping[str, Schedule], epochs: int
) -> Iterator[tuple[str, str]]:
    """Shares that cannot be held; nothing if a custom function is not imported yet.

    Args:
        shares: The share of each loss that has one, over the epochs.
        weights: The weights of all other losses.
        epochs: Length of the run.

    Yields:
        The name of a loss, and the rest of the sentence about it.
    """
    if not shares or not all(s.is_imported for s in [*shares.values(), *weights.values()]):
        return
    for name in shares:
        if name in DISCRIMINATOR:
            yield name, "cannot have a share: shares are for the losses of the generator."
            return
    plain = [name for name in weights if name not in DISCRIMINATOR]
    last = list(shares)[-1]
    for epoch in range(1, epochs + 1):
        values = {name: schedule.value_at(epoch) for name, schedule in shares.items()}
        for name, share in values.items():
            if not 0.0 <= share <= 1.0 or (plain and share == 1.0):
                yield name, f"has the share {share:g} in epoch {epoch}; {_allowed(plain)}."
                return
        total = sum(values.values())
        told = f"brings the sum of all shares to {total:.6g} in epoch {epoch}"
        if plain and total >= 1.0 - _ROUNDING:
            yield last, f"{told}; beside {plain[0]}, which has a weight, it must stay below 1."
            return
        if not plain and abs(total - 1.0) > _ROUNDING:
            yield last, f"{told}; where every loss of the generator has a share, it must be 1."
            return
        if plain and not any(weights[name].value_at(epoch) for name in plain):
            told = " and ".join(plain)
            yield (
                last,
                f"has a share beside {told}, which must not all weigh 0, as in epoch {epoch}.",
            )
            return


def _allowed(plain: list[str]) -> str:
    return "a share is at least 0 and below 1" if plain else "a share is from 0 to 1"
