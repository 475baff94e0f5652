"""`LossRegistry`: losses by name and tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from nectargan.errors import LossError
from nectargan.losses.balancing.shares import Share
from nectargan.losses.hooks import tag_set
from nectargan.losses.lm_data import LMLoss
from nectargan.scheduling.data import Schedule


class LossRegistry:
    """The losses of a `LossManager`, in the order of registration."""

    def __init__(self) -> None:
        self._losses: dict[str, LMLoss] = {}

    # --- registration --------------------------------------------------------------------------

    def register_loss_fn(
        self,
        name: str,
        loss_fn: Callable[..., Tensor],
        loss_weight: float = 1.0,
        schedule: Schedule | None = None,
        tags: Iterable[str] | None = None,
        share: Share | Schedule | float | None = None,
    ) -> None:
        """Registers a loss.

        Args:
            name: Unique name; see `LMLoss` for the allowed characters.
            loss_fn: Any callable that returns a tensor, either a scalar or a map of any shape.
            loss_weight: Constant weight; ignored if there is a ``schedule``.
            schedule: Weight over the epochs.
            tags: Labels for queries.
            share: Instead of a weight: the share of the pull on the generated images, for losses
                that are computed within `LossManager.gradients_at`.

        Raises:
            LossError: If the name is already registered, or an argument is invalid.
        """
        if isinstance(tags, str):
            raise LossError(
                f"The tags of loss '{name}' are a string; they must be a list of strings."
            )
        self.register(
            LMLoss(
                name=name,
                function=loss_fn,
                loss_weight=loss_weight,
                schedule=Schedule() if schedule is None else schedule,
                tags=list(tags or ()),
                share=share,
            )
        )

    def register(self, loss: LMLoss) -> None:
        """Registers a loss; raises `LossError` if its name is already registered."""
        if loss.name in self._losses:
            raise LossError(f"A loss named '{loss.name}' is already registered; names are unique.")
        self._losses[loss.name] = loss

    def init_from_spec(
        self, spec: Callable[..., dict[str, LMLoss]], *args: Any, **kwargs: Any
    ) -> dict[str, LMLoss]:
        """Registers all losses of an objective, or none of them.

        Args:
            spec: A function that returns the losses by name, such as `pix2pix`.
            *args: Arguments of ``spec``.
            **kwargs: Keyword arguments of ``spec``.

        Returns:
            The losses that ``spec`` returned.

        Raises:
            LossError: If ``spec`` returns anything else, or a name is already registered.
        """
        losses = spec(*args, **kwargs)
        if not isinstance(losses, Mapping):
            raise LossError(
                f"A loss spec must return a dict of LMLoss, not {type(losses).__name__}."
            )
        for name, loss in losses.items():
            if not isinstance(loss, LMLoss) or loss.name != name:
                raise LossError(
                    f"A loss spec must return each LMLoss under its name; {name!r} is {loss!r}."
                )
            if name in self._losses:
                raise LossError(f"A loss named '{name}' is already registered; names are unique.")
        self._losses.update(losses)
        return losses

    # --- queries -------------------------------------------------------------------------------

    def get_registered_losses(self, query: Iterable[str] | None = None) -> dict[str, LMLoss]:
        """Returns the losses by name, in the order of registration.

        Args:
            query: Tags; only losses with at least one of them are returned. ``None`` for all.
        """
        if query is None:
            return dict(self._losses)
        wanted = tag_set(query)
        return {
            name: loss for name, loss in self._losses.items() if not wanted.isdisjoint(loss.tags)
        }

    def get_loss_tensors(self, query: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Returns the last raw result of each computed loss: detached, on its device, not averaged.

        Args:
            query: Tags, as in `get_registered_losses`.
        """
        losses = self.get_registered_losses(query).items()
        return {n: loss.last_loss_map for n, loss in losses if loss.last_loss_map is not None}

    def get_loss_values(self, query: Iterable[str] | None = None) -> dict[str, float]:
        """Returns the last raw value of each computed loss; of a map, its mean.

        Waits for the device, so it must not be called within a step.

        Args:
            query: Tags, as in `get_registered_losses`.
        """
        return {n: raw.float().mean().item() for n, raw in self.get_loss_tensors(query).items()}

    def get_loss_weights(self, query: Iterable[str] | None = None) -> dict[str, float]:
        """Returns the weight of each loss: the last applied one, or at first the initial one.

        Args:
            query: Tags, as in `get_registered_losses`.
        """
        losses = self.get_registered_losses(query).items()
        return {name: loss.weight_now for name, loss in losses}
