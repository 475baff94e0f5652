"""`LMLoss`, a registered loss, and `LossEvent`, the argument of a loss hook."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import NamedTuple

from torch import Tensor

from nectargan.errors import LossError
from nectargan.names import EXPERIMENT_NAMES, FORMULA, is_experiment_name
from nectargan.scheduling.data import Schedule

_UNSCHEDULED = Schedule()
# MLflow rejects other names, together with the whole batch that contains them.
_NAME = re.compile(r"[\w.\- ]+(/[\w.\- ]+)*")
_LONGEST_NAME = 200
_READ_AS_MISSING = ("na", "n/a", "nan", "-nan", "null", "none", "inf", "infinity")


@dataclass
class LMLoss:
    """A loss registered with a `LossManager`.

    Attributes:
        name: Unique name of letters, digits, ``_``, ``-``, ``.``, spaces and single slashes.
        function: Any callable that returns a tensor, such as an `nn.Module`.
        loss_weight: Constant weight. With a schedule, the initial value of the schedule.
        schedule: Weight over the epochs. The default `Schedule` means that there is no schedule.
        tags: Labels by which the manager finds losses.
        last_weight: The weight that was last applied; at first the initial weight.
        last_loss_map: The last raw result of ``function``, detached, on its device; ``None`` before
            the first computation.

    Raises:
        LossError: If the name, the function, the weight, the schedule or a tag is invalid.
    """

    name: str
    function: Callable[..., Tensor]
    loss_weight: float = 1.0
    schedule: Schedule = field(default_factory=Schedule)
    tags: Sequence[str] = field(default_factory=list)
    last_weight: float = field(init=False, repr=False, compare=False)
    last_loss_map: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_series_name(self.name)
        if not callable(self.function):
            raise LossError(
                f"The function of loss '{self.name}' is {self.function!r}; it must be callable."
            )
        if isinstance(self.tags, str):
            raise LossError(
                f"The tags of loss '{self.name}' are a string; they must be a list of strings."
            )
        if not isinstance(self.schedule, Schedule):
            raise LossError(
                f"The schedule of loss '{self.name}' is {self.schedule!r}; it must be a Schedule."
            )
        self.tags = list(self.tags)
        for tag in self.tags:
            if not isinstance(tag, str) or not is_experiment_name(tag):
                raise LossError(
                    f"{tag!r} cannot be a tag of loss '{self.name}'; {EXPERIMENT_NAMES}."
                )
        if self.is_scheduled:
            self.loss_weight = self.schedule.initial_value
        else:
            # A copy, because two losses with the same default schedule must not share a weight.
            self.schedule = replace(self.schedule)
            self.schedule.current_value = _checked_weight(self.name, self.loss_weight)
        self.last_weight = float(self.loss_weight)

    @property
    def is_scheduled(self) -> bool:
        """Whether the weight comes from the schedule instead of ``loss_weight``."""
        return self.schedule != _UNSCHEDULED

    @property
    def weight_now(self) -> float:
        """The weight of the loss: with a schedule, the weight that was last applied.

        Without a schedule it is ``schedule.current_value``, which may be set by hand. With one,
        ``schedule.current_value`` may belong to another loss that shares the schedule.
        """
        return self.last_weight if self.is_scheduled else self.schedule.current_value


class LossEvent(NamedTuple):
    """One computation of a weighted loss, as a `LossManager` passes it to its hooks.

    Attributes:
        name: Name of the loss.
        tags: Tags of the loss.
        raw: Result of the loss function, or its mean if the result is a map; shape ``()``,
            detached, on its device.
        weight: The applied weight.
        weighted: ``raw * weight``; shape ``()``, detached, on its device.
        epoch: Epoch, from 1.
        step: Step (update of the generator) since the start of the run, from 1.
    """

    name: str
    tags: tuple[str, ...]
    raw: Tensor
    weight: float
    weighted: Tensor
    epoch: int
    step: int


def check_series_name(name: object) -> None:
    """Raises `LossError` unless all sinks and the CSV files can store ``name`` unchanged."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise LossError(
            f"{name!r} cannot name a series; allowed are letters, digits, '_', '-', '.', spaces "
            "and single slashes between them."
        )
    if name.lower() in _READ_AS_MISSING or name.replace(".", "").replace("-", "").isdecimal():
        raise LossError(f"{name!r} cannot name a series; pandas would read it as something else.")
    if name.startswith(FORMULA):
        raise LossError(f"{name!r} cannot name a series; a spreadsheet would read it as a formula.")
    if len(name) > _LONGEST_NAME or name != name.strip():
        raise LossError(
            f"{name!r} cannot name a series; it must have at most {_LONGEST_NAME} characters and "
            "must not begin or end with a space."
        )


def _checked_weight(name: str, weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise LossError(f"The weight of loss '{name}' is {weight!r}; it must be a number.")
    if not math.isfinite(weight):
        raise LossError(f"The weight of loss '{name}' is {weight}; it must be finite.")
    return float(weight)
