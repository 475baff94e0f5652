"""`LMLoss`, a registered loss, and the events that a `LossManager` passes to its hooks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import NamedTuple

from torch import Tensor

from nectargan.errors import LossError
from nectargan.losses.balancing.shares import Share
from nectargan.losses.gradients import (
    cosines_of,
    image_cosines_of,
    norms_of,
    pairwise_cosines_of,
    pairwise_image_cosines_of,
    shares_of,
)
from nectargan.names import EXPERIMENT_NAMES, FORMULA, is_experiment_name
from nectargan.scheduling.data import Schedule

_UNSCHEDULED = Schedule()
# MLflow rejects other names, together with the whole batch that contains them.
_NAME = re.compile(r"[\w.\- ]+(/[\w.\- ]+)*")
LONGEST_NAME = 200
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
        share: Instead of a weight: the share of the pull on the generated images. A number or a
            schedule becomes a `Share`.
        every: The loss is computed once in so many steps, and its weight is multiplied by this
            number, so that its mean effect is that of the weight.
        last_weight: The weight that was last applied; at first the initial weight. A scalar on the
            device if it follows from gradients.
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
    share: Share | Schedule | float | None = None
    every: int = 1
    last_weight: float | Tensor = field(init=False, repr=False, compare=False)
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
        if self.share is not None:
            if self.is_scheduled or self.loss_weight != 1.0:
                raise LossError(f"Loss '{self.name}' has both a share and a weight.")
            if not isinstance(self.share, Share):
                self.share = Share(self.share)
        if self.is_scheduled:
            self.loss_weight = self.schedule.initial_value
        else:
            # A copy, because two losses with the same default schedule must not share a weight.
            self.schedule = replace(self.schedule)
            self.schedule.current_value = _checked_weight(self.name, self.loss_weight)
        self.last_weight = float(self.loss_weight) * self.every

    @property
    def is_scheduled(self) -> bool:
        """Whether the weight comes from the schedule instead of ``loss_weight``."""
        return self.schedule != _UNSCHEDULED

    @property
    def weight_now(self) -> float:
        """The weight of the loss: with a schedule or a share, the weight that was last applied.

        A weight that follows from gradients is read from the device. Without a schedule it is
        ``schedule.current_value``, which may be set by hand. With one, ``schedule.current_value``
        may belong to another loss that shares the schedule.
        """
        if self.is_scheduled or isinstance(self.last_weight, Tensor):
            return float(self.last_weight)
        return self.schedule.current_value * self.every


class LossEvent(NamedTuple):
    """One computation of a weighted loss, as a `LossManager` passes it to its hooks.

    Attributes:
        name: Name of the loss.
        tags: Tags of the loss.
        raw: Result of the loss function, or its mean if the result is a map; shape ``()``,
            detached, on its device.
        weight: The applied weight. A scalar on the device, shape ``()``, if it follows from
            gradients; see `nectargan.losses.balancing`.
        weighted: ``raw * weight``; shape ``()``, detached, on its device.
        epoch: Epoch, from 1.
        step: Step (update of the generator) since the start of the run, from 1.
    """

    name: str
    tags: tuple[str, ...]
    raw: Tensor
    weight: float | Tensor
    weighted: Tensor
    epoch: int
    step: int

    @property
    def subject(self) -> str:
        """The loss, for error messages."""
        return f"loss '{self.name}'"


class MetricEvent(NamedTuple):
    """A measurement at a step, as a `LossManager` passes it to its metric hooks.

    Attributes:
        name: Name of the series.
        value: The value; shape ``()``, detached, on its device.
        epoch: Epoch, from 1.
        step: Step, from 1.
    """

    name: str
    value: Tensor
    epoch: int
    step: int

    @property
    def subject(self) -> str:
        """The series, for error messages."""
        return f"metric '{self.name}'"


class GradientEvent(NamedTuple):
    """The gradients of the losses at the generated images, as passed to gradient hooks.

    The properties are computed when they are read, on the device, without waiting for it. They are
    defined in `nectargan.losses.gradients`.

    Attributes:
        losses: Names of the K losses, in the order in which the step computed them. A loss that was
            computed several times is listed once, with the sum of its gradients.
        products: Products of the gradients of the weighted losses at each of the N images; float32
            ``(N, K, K)``, detached, on its device.
        epoch: Epoch, from 1.
        step: Step (update of the generator) since the start of the run, from 1.
    """

    losses: tuple[str, ...]
    products: Tensor
    epoch: int
    step: int

    @property
    def subject(self) -> str:
        """For error messages."""
        return f"the gradients of {', '.join(self.losses)}"

    @property
    def norms(self) -> Tensor:
        """See `norms_of`; ``(K,)``."""
        return norms_of(self.products)

    @property
    def shares(self) -> Tensor:
        """See `shares_of`; ``(K,)``."""
        return shares_of(self.norms)

    @property
    def cosines(self) -> Tensor:
        """See `cosines_of`; ``(K,)``."""
        return cosines_of(self.products)

    @property
    def pairwise_cosines(self) -> Tensor:
        """See `pairwise_cosines_of`; ``(K, K)``."""
        return pairwise_cosines_of(self.products)

    @property
    def image_cosines(self) -> Tensor:
        """See `image_cosines_of`; ``(N, K)``."""
        return image_cosines_of(self.products)

    @property
    def pairwise_image_cosines(self) -> Tensor:
        """See `pairwise_image_cosines_of`; ``(N, K, K)``."""
        return pairwise_image_cosines_of(self.products)

    @property
    def gramian(self) -> Tensor:
        """The products, mean over the images; ``(K, K)``."""
        return self.products.mean(dim=-3)


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
    if len(name) > LONGEST_NAME or name != name.strip():
        raise LossError(
            f"{name!r} cannot name a series; it must have at most {LONGEST_NAME} characters and "
            "must not begin or end with a space."
        )


def _checked_weight(name: str, weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise LossError(f"The weight of loss '{name}' is {weight!r}; it must be a number.")
    if not math.isfinite(weight):
        raise LossError(f"The weight of loss '{name}' is {weight}; it must be finite.")
    return float(weight)
