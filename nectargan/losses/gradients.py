r"""What each loss does to the generated images: the gradient of each loss at the images.

All losses of the generator meet in one place, the images that it generated. The backward pass is
cut there. Each weighted loss :math:`k` is differentiated down to the images, which gives its
gradient :math:`g_k`; one backward pass of their sum then goes on through the generator. This is the
work of a plain backward pass, and the parameters get the same gradients up to rounding.

The measures are made of the products of these gradients at each image :math:`i`,
:math:`P_{ikl} = \langle g_{ik}, g_{il} \rangle`, summed over everything that belongs to the image:

- norm of a loss: :math:`\sqrt{P_{ikk}}`, mean over the images;
- share: its norm over the sum of the norms of all losses;
- cosine: between :math:`g_{ik}` and the sum of the gradients of all other losses, mean over the
  images;
- pairwise cosine: :math:`P_{ikl} / \sqrt{P_{ikk} P_{ill}}`, mean over the images.

A cosine with a gradient that is zero is undefined: such images are left out of the mean, and the
mean over no image is NaN. So are all shares if every gradient is zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from nectargan.distributed import World
from nectargan.errors import LossError

# Takes the names of the losses, the products of their gradients and the weighted losses by name.
Reweigh = Callable[[tuple[str, ...], Tensor, Mapping[str, Tensor]], Mapping[str, Tensor]]


class Cut:
    """A backward pass that is cut at the outputs of the generator.

    Args:
        outputs: What the generator returned: tensors whose first dimension is the image.
        measured: Whether the gradient of each loss is wanted. If not, the pass is an ordinary one.
        scaler: The gradient scaler of a training in fp16.
        factor: By which every loss is multiplied.
        reweigh: Returns by what each loss is multiplied as well, once its gradient is known:
            scalars on the device, by name. Only for a pass that is measured.

    Attributes:
        leaves: What the losses have to be computed from, in place of ``outputs``.
        unrelated: After `backward`, names of the losses that do not depend on the outputs.

    Raises:
        LossError: If the outputs are not tensors with one number of images.
    """

    def __init__(
        self,
        outputs: Sequence[Tensor],
        measured: bool,
        scaler: GradScaler | None = None,
        factor: float = 1.0,
        reweigh: Reweigh | None = None,
    ) -> None:
        _check_outputs(outputs)
        self._outputs = tuple(outputs)
        self._measured = measured
        self._scaler = scaler
        self._factor = factor
        self._reweigh = reweigh
        self._losses: dict[str, Tensor] = {}
        self.leaves = self._outputs
        if measured:
            self.leaves = tuple(
                output.detach().requires_grad_() if output.requires_grad else output
                for output in outputs
            )
        self.unrelated: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._losses

    def add(self, name: str, weighted: Tensor) -> None:
        """Adds a weighted loss with its gradient; of a map, the mean counts."""
        if weighted.dim():
            weighted = weighted.mean()
        known = self._losses.get(name)
        self._losses[name] = weighted if known is None else known + weighted

    def backward(self) -> tuple[tuple[str, ...], Tensor] | None:
        """Adds the gradient of the sum of all losses to the parameters.

        Returns:
            The names of the losses that depend on the outputs, and the products of their gradients,
            as in `GradientEvent`; ``None`` if nothing was measured.
        """
        losses = {name: loss for name, loss in self._losses.items() if loss.requires_grad}
        if self._measured:
            self.unrelated += [name for name in self._losses if name not in losses]
        self._losses.clear()
        if not losses:
            return None
        if not self._measured:
            self._backward(functools.reduce(torch.add, losses.values()))
            return None
        values = {name: loss.detach() for name, loss in losses.items()}
        gradients = self._gradients(losses)
        if not gradients:
            return None
        # Back to the order in which they were computed.
        names = tuple(reversed(gradients))
        products = self._unscaled(products_of([gradients[name] for name in names]))
        if self._reweigh is not None:
            factors = self._reweigh(names, products, values)
            one = torch.ones((), device=products.device)
            column = torch.stack([factors.get(name, one) for name in names])
            products = products * (column[:, None] * column)
            for name, factor in factors.items():
                gradients[name] = [g if g is None else g * factor for g in gradients[name]]
        self._backward_through_generator(gradients.values())
        return names, products

    def _gradients(self, losses: dict[str, Tensor]) -> dict[str, list[Tensor | None]]:
        """The gradient of each loss at each leaf; empties ``losses``.

        A loss is differentiated with respect to all that it depends on, so that nothing is lost of
        one that depends on parameters in another way as well. Losses may share a part of the graph,
        which must therefore be retained. The last one comes first, as autograd would do.
        """
        gradients = {}
        while losses:
            name, loss = losses.popitem()
            self._backward(loss, retain_graph=True)
            del loss  # frees its part of the graph
            found = [leaf.grad for leaf in self.leaves]
            for leaf in self.leaves:
                leaf.grad = None
            if all(each is None for each in found):
                self.unrelated.append(name)
            else:
                gradients[name] = found
        return gradients

    def _backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        if self._factor != 1.0:
            loss = loss * self._factor
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # untyped in torch

    def _backward_through_generator(self, gradients: Iterable[list[Tensor | None]]) -> None:
        roots, sums = [], []
        for output, *at_output in zip(self._outputs, *gradients, strict=True):
            found = [each for each in at_output if each is not None]
            if found:
                roots.append(output)
                sums.append(functools.reduce(torch.add, found))
        if roots:
            torch.autograd.backward(roots, sums)

    def _unscaled(self, products: Tensor) -> Tensor:
        if self._scaler is None or not self._scaler.is_enabled():
            return products
        scale = self._scaler.scale(torch.ones((), device=products.device))
        return products / scale.square()


def _check_outputs(outputs: Sequence[object]) -> None:
    counts = set()
    for output in outputs:
        if not isinstance(output, Tensor) or not output.dim():
            kind = "a scalar" if isinstance(output, Tensor) else type(output).__name__
            raise LossError(
                "The outputs of a generator must be tensors whose first dimension is the image, "
                f"not {kind}."
            )
        counts.add(len(output))
    if len(counts) != 1:
        found = " and ".join(map(str, sorted(counts))) or "no"
        raise LossError(f"All outputs of a generator must be of the same images, not of {found}.")


# --- measures ----------------------------------------------------------------------------------


def products_of(gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """The products of gradients at each image.

    Args:
        gradients: For each of the K losses its gradient at each output, ``(N, ...)``; ``None`` for
            zeros.

    Returns:
        Float32 ``(N, K, K)``.
    """
    by_output = [
        [torch.zeros_like(found[0]) if gradient is None else gradient for gradient in at_output]
        for at_output in zip(*gradients, strict=True)
        if (found := [gradient for gradient in at_output if gradient is not None])
    ]
    # Autocast would multiply in 16 bits.
    with torch.no_grad(), torch.autocast(by_output[0][0].device.type, enabled=False):
        return functools.reduce(torch.add, map(_products_at_output, by_output))


def _products_at_output(gradients: Sequence[Tensor]) -> Tensor:
    """As `products_of`, for one output and without zeros left out."""
    images, values = len(gradients[0]), gradients[0][0].numel()
    # In parts: for one long product of each image, cuBLAS occupies one multiprocessor an image.
    parts = math.gcd(values, 128)
    split = torch.stack([g.float().reshape(images, parts, -1) for g in gradients], dim=2)
    return (split @ split.transpose(2, 3)).sum(dim=1)


def mean_of_all(world: World, own: Tensor) -> Tensor:
    """The mean over all images of a batch that processes share; the same in every process.

    Args:
        world: The processes, with the number of images of each.
        own: The means over the images of this process, of any shape.
    """
    # A process without images computes losses of a pattern, which count for nothing.
    part = world.part
    return world.all_reduce(own * part if part else torch.zeros_like(own))


def norms_of(products: Tensor) -> Tensor:
    """The L2 norm of the gradient of each loss, mean over the images.

    Args:
        products: As in `GradientEvent`; ``(..., N, K, K)``.

    Returns:
        ``(..., K)``.
    """
    return products.diagonal(dim1=-2, dim2=-1).sqrt().mean(dim=-2)


def shares_of(norms: Tensor) -> Tensor:
    """The norm of each loss over the sum of the norms of all; ``(..., K)``, NaN if that is zero."""
    return norms / norms.sum(dim=-1, keepdim=True)


def cosines_of(products: Tensor) -> Tensor:
    """The mean over the images of `image_cosines_of`, where that is defined; NaN if it never is.

    Args:
        products: As in `GradientEvent`; ``(..., N, K, K)``.

    Returns:
        ``(..., K)``, in [-1, 1].
    """
    return image_cosines_of(products).nanmean(dim=-2)


def pairwise_cosines_of(products: Tensor) -> Tensor:
    """The mean over the images of `pairwise_image_cosines_of`, where that is defined; NaN if it
    never is.

    Args:
        products: As in `GradientEvent`; ``(..., N, K, K)``.

    Returns:
        ``(..., K, K)``, in [-1, 1]; 1 on the diagonal.
    """
    return pairwise_image_cosines_of(products).nanmean(dim=-3)


def image_cosines_of(products: Tensor) -> Tensor:
    """The cosine between the gradient of each loss and the sum of those of all others at each
    image; ``(..., N, K)``, NaN where one of them is zero."""
    other = 1 - torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
    # The products of the others are summed. Subtracting from the sum of all would lose a small loss
    # beside a large one.
    of_others = products.unsqueeze(-3) * other[:, None, :] * other[:, :, None]
    own, rest = products.diagonal(dim1=-2, dim2=-1), of_others.sum(dim=(-2, -1))
    return _cosines((products * other).sum(dim=-1), own.sqrt() * rest.clamp(min=0).sqrt())


def pairwise_image_cosines_of(products: Tensor) -> Tensor:
    """The cosine between the gradients of two losses at each image; ``(..., N, K, K)``, NaN where
    one of them is zero."""
    norms = products.diagonal(dim1=-2, dim2=-1).sqrt()
    return _cosines(products, norms.unsqueeze(-1) * norms.unsqueeze(-2))


def _cosines(products: Tensor, norms: Tensor) -> Tensor:
    return (products / norms).clamp(-1, 1).where(norms > 0, torch.nan)
