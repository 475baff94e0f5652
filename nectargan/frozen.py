"""Networks with weights from a file, which are never trained: those of VGG losses and metrics."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nectargan.errors import CheckpointError


class Frozen(nn.Module):
    """A network that takes its weights from a file and stays in eval mode."""

    def load(self, state: object, source: str) -> None:
        """Loads the tensors that the network has, in float32; other tensors are ignored.

        Args:
            state: The content of the file, a state dict.
            source: The file or address, for the error message.

        Raises:
            CheckpointError: A tensor is missing or has another shape.
        """
        found = state if isinstance(state, Mapping) else {}
        for name, own in self.state_dict().items():
            value = found.get(name)
            if not isinstance(value, Tensor) or value.shape != own.shape:
                has = f"one of {tuple(value.shape)}" if isinstance(value, Tensor) else "none"
                raise CheckpointError(
                    f"'{source}' does not contain the weights of this network: it must have a "
                    f"tensor '{name}' of shape {tuple(own.shape)}, but has {has}."
                )
        self.load_state_dict({name: found[name] for name in self.state_dict()}, assign=True)
        self.float().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        """Does nothing: the network is frozen and stays in eval mode."""
        return super().train(False)
