"""`Snapshot`: all that a training step changes, to be put back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


class Snapshot:
    """A copy of weights, buffers, optimisers, gradient scaler and torch's random generators.

    Args:
        modules: All that holds parameters or buffers.
        optimizers: Optimisers that begin with zeros, as Adam does.
        scaler: The gradient scaler, enabled or not.
        device: The device of them all.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        optimizers: Iterable[Optimizer],
        scaler: GradScaler,
        device: torch.device,
    ) -> None:
        self._tensors = [t for m in modules for t in itertools.chain(m.parameters(), m.buffers())]
        self._values = [tensor.detach().clone() for tensor in self._tensors]
        self._optimizers = {
            optimizer: {
                parameter: {key: value.clone() for key, value in state.items()}
                for parameter, state in optimizer.state.items()
            }
            for optimizer in optimizers
        }
        self._scaler = scaler
        self._scale: dict[str, Any] = scaler.state_dict()
        self._device = device
        self._host_random = torch.get_rng_state()
        self._cuda_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back in place, however far a step has come, and clears gradients."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        for optimizer, before in self._optimizers.items():
            self._restore_optimizer(optimizer, before)
        if self._scaler.is_enabled():
            self._restore_scaler()
        torch.set_rng_state(self._host_random)
        if self._cuda_random is not None:
            torch.cuda.set_rng_state(self._cuda_random, self._device)

    @staticmethod
    def _restore_optimizer(optimizer: Optimizer, before: dict[Tensor, dict[str, Tensor]]) -> None:
        # In place: the state's tensors are those that a capture will use.
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if parameter in before:
                    value.copy_(before[parameter][key])
                else:
                    value.zero_()
        optimizer.zero_grad(set_to_none=True)
        # A scaler lends its optimiser these, and takes them back unless the step raises.
        for lent in ("grad_scale", "found_inf"):
            optimizer.__dict__.pop(lent, None)

    def _restore_scaler(self) -> None:
        # It makes its tensors with the first loss, which a step may not have come to.
        self._scaler.scale(torch.zeros((), device=self._device))
        # With a scale given, this forgets the optimisers that were stepped since the last update.
        self._scaler.update(new_scale=self._scale["scale"])
        self._scaler.load_state_dict(self._scale)
