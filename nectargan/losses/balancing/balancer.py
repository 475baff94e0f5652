"""`Balancer`: the base class of rules that set the weights of losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.errors import LossError, did_you_mean
from nectargan.losses.gradients import norms_of


class Balancer(nn.Module):
    """Sets the weights of K losses at every step, from what they do to the generated images.

    A subclass defines `weights`. It runs within the training step and, on CUDA, within a captured
    graph: it must compute on the device, must not read a value (``.item()``, ``if tensor``), and
    keeps what it remembers in buffers (``register_buffer``) that it changes in place. Buffers are
    saved in checkpoints, so that a resumed run equals an uninterrupted one.

    Args:
        losses: Names of the K losses.

    Attributes:
        losses: Names of the K losses, in the order of all vectors.
        balanced: Those whose weights it sets; by default all.
    """

    step: Tensor

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__()
        self.losses = self.balanced = tuple(losses)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def kind(self) -> str:
        """What its state belongs to: another rule, or other losses, cannot go on from it."""
        return f"{type(self).__qualname__} of {', '.join(self.losses)}"

    def completed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state in a checkpoint, with what an earlier version of the rule did not save."""
        return dict(state)

    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """The weights for this step.

        Args:
            norms: L2 norm of the gradient of each loss at the generated image, mean over the
                images; float32 ``(K,)``. Losses have the weight of the config, and those with a
                share the weight 1. The norm of a loss that was not computed is 0.
            gramian: Products of these gradients, mean over the images; float32 ``(K, K)``.
            step: Step since the start of the run, from 1; int64 ``()``.

        Returns:
            ``(K,)``: what each loss is multiplied by, beside the weight of the config. Those of
            losses that are not `balanced` have no effect.
        """
        raise NotImplementedError

    def observe(self, values: Tensor) -> None:
        """Takes the values of the losses, before `weights`; does nothing by default.

        Args:
            values: Each loss times the weight of the config; float32 ``(K,)``, NaN for a loss that
                was not computed.
        """

    def start_step(self, step: int, epochs: Mapping[str, float]) -> None:
        """Called before each step, outside of the captured graph.

        Args:
            step: Step since the start of the run, from 1.
            epochs: The time of the step as a schedule sees it, by `Schedule.interval`.
        """
        self.step.fill_(step)

    @torch.no_grad()
    def factors(
        self,
        names: Sequence[str],
        products: Tensor,
        values: Mapping[str, Tensor],
        over_all: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """What each of the losses of a step is multiplied by.

        Args:
            names: The losses in ``products``.
            products: Products of their gradients; see `GradientEvent`.
            values: Each loss times the weight of the config, by name; detached scalars.
            over_all: Turns means over the images of this process into those over the images of all
                processes; ``None`` for a single process.

        Returns:
            Float32 scalars on the device, by name of the loss; of those in `balanced`.

        Raises:
            LossError: If a loss is not among `losses`, or the rule does not return K weights.
        """
        for name in names:
            if name not in self.losses:
                raise LossError(
                    f"Loss '{name}' is not one of those whose weights are balanced."
                    + did_you_mean(name, self.losses)
                )
        # Autocast would compute in 16 bits.
        with torch.autocast(products.device.type, enabled=False):
            missing = products.new_full((), torch.nan)
            losses = torch.stack(
                [values[n].float() if n in names else missing for n in self.losses]
            )
            products = self._with_all_losses(names, products)
            norms, products = norms_of(products), products.mean(dim=-3)
            if over_all is not None:
                means = over_all(torch.cat([losses, norms, products.flatten()]))
                losses, norms, products = torch.split(
                    means, [len(losses), len(norms), products.numel()]
                )
                products = products.view(len(norms), -1)
            self.observe(losses)
            weights = self.weights(norms, products, self.step)
        if not isinstance(weights, Tensor) or weights.shape != (len(self.losses),):
            found = f"a tensor {tuple(weights.shape)}" if isinstance(weights, Tensor) else weights
            raise LossError(
                f"{type(self).__name__}.weights returned {found}; it must return a tensor "
                f"({len(self.losses)},), one weight for each loss."
            )
        by_name = dict(zip(self.losses, weights.float().unbind(), strict=True))
        return {name: by_name[name] for name in names if name in self.balanced}

    def _with_all_losses(self, names: Sequence[str], products: Tensor) -> Tensor:
        """The products of all K losses, in their order; 0 for a loss that was not computed."""
        if tuple(names) == self.losses:
            return products
        # Picked one by one, because a list of indices would be copied from the host.
        order = [names.index(name) if name in names else None for name in self.losses]
        for dim in (-2, -1):
            zeros = torch.zeros_like(products.select(dim, 0))
            picked = [zeros if k is None else products.select(dim, k) for k in order]
            products = torch.stack(picked, dim=dim)
        return products
