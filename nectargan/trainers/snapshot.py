"""`Snapshot`: saves and restores everything that a training step changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


class Snapshot:
    """A copy of weights, buffers, optimizers, gradient scaler and torch's random generators.

    Args:
        modules: All modules with parameters or buffers.
        optimizers: Optimizers whose state starts with zeros, such as Adam.
        scaler: The gradient scaler, enabled or not.
        device: The device of all of them.
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
        """Restores everything in place, even in the middle of a step, and clears gradients."""
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
        # In place, because a captured graph uses these tensors.
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if parameter in before:
                    value.copy_(before[parameter][key])
                else:
                    value.zero_()
        optimizer.zero_grad(set_to_none=True)
        # A scaler sets these attributes during the step, and removes them unless the step raises.
        for name in ("grad_scale", "found_inf"):
            optimizer.__dict__.pop(name, None)

    def _restore_scaler(self) -> None:
        # The scaler creates its tensors with the first loss, so that it may not have them yet.
        self._scaler.scale(torch.zeros((), device=self._device))
        # With a scale given, this clears the record of optimizers that were stepped.
        self._scaler.update(new_scale=self._scale["scale"])
        self._scaler.load_state_dict(self._scale)
