"""`GradientBlocks`: the ``with`` blocks of a `LossManager` that measure gradients."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from nectargan.distributed import ALONE, World
from nectargan.errors import LossError
from nectargan.losses.balancing.balancer import Balancer
from nectargan.losses.balancing.shares import Share, ShareRule
from nectargan.losses.gradients import Cut, mean_of_all
from nectargan.losses.hooks import EventSource
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.loss_registry import LossRegistry

log = logging.getLogger("nectargan")


class Pending(NamedTuple):
    """A loss of a block whose weight follows from the gradients at its end."""

    entry: LMLoss
    weight: float
    raw: Tensor
    weighted: Tensor


class GradientBlocks(EventSource, LossRegistry):
    """Measures the gradients of losses at the outputs of a generator, and weights them by these.

    Attributes:
        balancer: The rule that sets the weights of the losses within `gradients_at`. For losses
            with a share, a `ShareRule` is made at the first block if there is none.
        world: The processes that share each batch. Weights that follow from gradients follow from
            those of the whole batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.balancer: Balancer | None = None
        self.world: World = ALONE
        self._epoch_by_interval: dict[str, float] = {}
        self._loop_tells_steps = False
        self._cut: Cut | None = None
        self._known_unrelated: set[str] = set()
        self._pending: list[Pending] = []
        self._factors: Mapping[str, Tensor] = {}

    @contextmanager
    def gradients_at(
        self, *outputs: Tensor, scaler: GradScaler | None = None, factor: float = 1.0
    ) -> Iterator[Any]:
        """Makes the backward pass of the losses in a ``with`` block and measures what each one does
        to the outputs of the generator. It takes the place of ``loss.backward()``::

            with losses.gradients_at(generator(source)) as fake:
                losses.compute_loss("G_GAN", discriminator(source, fake))
                losses.compute_loss_xy("G_L1", fake, target)
            optimizer.step()

        The end of the block adds the gradients of the weighted losses that it computed to the
        parameters, and calls the gradient hooks. If no hook is due at this step, and no weight
        follows from gradients, it is an ordinary backward pass. An exception in the block ends it
        without one.

        A loss that does not depend on the outputs is applied as well, but its gradient is not
        measured; a warning says so once. In a loop that never calls `start_step`, every block
        begins a new step.

        Args:
            *outputs: Outputs of the generator, ``(N, ...)``, with their gradient.
            scaler: The gradient scaler of a training in fp16. Hooks get gradients without its
                scale; they are infinite or NaN at a step that it skips.
            factor: Factor of all losses, such as 1/n if the gradients of n batches are added up.
                The gradients that are measured include it.

        Yields:
            The tensor to compute the losses from, or a tuple of them for several outputs. It has
            the values of the output, and no gradient of the losses gets beyond it before the end of
            the block.

        Raises:
            LossError: If the outputs are not tensors of the same images, within another block, or
                if a loss with a share does not depend on the outputs.
        """
        if self._cut is not None:
            raise LossError("gradients_at is called within another block of gradients_at.")
        measures = self.is_balanced or self._measures_now()
        reweigh = self._reweigh if self.is_balanced else None
        cut = self._cut = Cut(outputs, measures, scaler, factor, reweigh)
        self._pending.clear()
        self._factors = {}
        try:
            yield cut.leaves if len(outputs) > 1 else cut.leaves[0]
        finally:
            self._cut = None
        measured = cut.backward()
        if reweigh is not None:
            self._results.take_factors(self._factors)
        for name in cut.unrelated:
            if self._losses[name].share is not None:
                raise LossError(
                    f"Loss '{name}' has a share, but does not depend on the generated images; give "
                    "it a weight."
                )
            if name not in self._known_unrelated:
                self._known_unrelated.add(name)
                log.warning(
                    "loss '%s' does not depend on the generated images: its gradient is applied, "
                    "but is not on record.",
                    name,
                )
        if measured is not None:
            self._results.take_gradients(*measured)

    @property
    def is_balanced(self) -> bool:
        """Whether the weights of losses follow from their gradients."""
        shares = (loss.share is not None for loss in self._losses.values())
        return self.balancer is not None or any(shares)

    def _reweigh(
        self, names: tuple[str, ...], products: Tensor, values: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if self.balancer is None:
            shares = {n: e.share for n, e in self._losses.items() if isinstance(e.share, Share)}
            found = {name: share for name, share in shares.items() if name in names}
            self.balancer = ShareRule(names, found).to(products.device)
            self.balancer.start_step(self.step, self._epoch_by_interval)
        elif not self._loop_tells_steps:
            self.balancer.start_step(self.step, self._epoch_by_interval)
        over_all = functools.partial(mean_of_all, self.world) if self.world.size > 1 else None
        self._factors = self.balancer.factors(names, products, values, over_all)
        if self.world.size > 1 and self._factors:
            # A rule may draw random numbers.
            drawn = self.world.broadcast(torch.stack(list(self._factors.values())))
            self._factors = dict(zip(self._factors, drawn.unbind(), strict=True))
        return self._factors

    def _measures_now(self) -> bool:
        if self._results is self and self._loop_tells_steps:
            return self._gradient_hooks.due(self.step)
        # The step is known later: when the losses are computed, or when a graph is replayed.
        return self.measures_gradients

    def take_factors(self, factors: Mapping[str, Tensor]) -> None:
        """Calls the loss hooks for the losses of the block that ends."""
        for entry, weight, raw, weighted in self._pending:
            factor = factors.get(entry.name)
            if factor is None:
                self.fire(entry, weight, raw, weighted)
                continue
            entry.last_weight = weight * factor
            self.fire(entry, entry.last_weight, raw, weighted * factor)
        self._pending.clear()
