"""Perceptual loss on VGG19 features (Simonyan and Zisserman 2015), without torchvision."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import CheckpointError, LossError
from nectargan.files import open_regular
from nectargan.losses.losses import check_choice, check_same_shape, full_precision

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# (convolutions, channels) of each block; a pooling between two blocks.
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
LAYERS = tuple(f"relu{b}_{i + 1}" for b, (n, _) in enumerate(_BLOCKS, 1) for i in range(n))
# Wang et al. 2018 (pix2pixHD), in the order of depth.
PERCEPTUAL_WEIGHTS = {
    "relu1_1": 1 / 32,
    "relu2_1": 1 / 16,
    "relu3_1": 1 / 8,
    "relu4_1": 1 / 4,
    "relu5_1": 1.0,
}
# A pixel must be left after the four poolings before relu5_1.
_SMALLEST = 16
# What torch.load was seen to raise on damaged files: it does not sum them up in one error.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    pickle.UnpicklingError,
)


class VGG19Features(nn.Module):
    """The convolutions of VGG19 up to the deepest of the wanted layers, frozen.

    Names of parameters are those of torchvision (``features.0.weight``, ...), whose official state
    dict it loads; the classifier and deeper layers in it are ignored.

    Args:
        layers: Names such as "relu3_1": the first ReLU of the third block.
        weights: File with the state dict. None: the one that torch.hub keeps, downloaded where
            it has none yet, its hash checked.

    Raises:
        LossError: an unknown layer, or none.
        CheckpointError: the weights cannot be had, read or used.
    """

    def __init__(
        self,
        layers: Sequence[str] = tuple(PERCEPTUAL_WEIGHTS),
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not layers:
            raise LossError("VGG19Features: layers is empty; name at least one, such as relu1_1.")
        for layer in layers:
            check_choice(type(self).__name__, "layers", layer, LAYERS)
        deepest = max(LAYERS.index(layer) for layer in layers)
        # On "meta" nothing is drawn for weights that the state dict replaces.
        with torch.device("meta"):
            self.features = _convolutions(deepest + 1)
        relus = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]
        self._taps = {relus[LAYERS.index(layer)]: layer for layer in layers}

        source = str(weights or VGG19_URL)
        state = _read(Path(weights)) if weights else _download()
        self.load_state_dict(self._select(state, source), assign=True)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> VGG19Features:
        """Stays in eval mode whatever is asked: it is a ruler, not a pupil."""
        return super().train(False)

    def _select(self, state: object, source: str) -> dict[str, Tensor]:
        """The tensors of ``state`` that this network has, all of them and of the right shape."""
        found = state if isinstance(state, Mapping) else {}
        for name, own in self.state_dict().items():
            value = found.get(name)
            if not isinstance(value, Tensor) or value.shape != own.shape:
                has = f"one of {tuple(value.shape)}" if isinstance(value, Tensor) else "none"
                raise CheckpointError(
                    f"'{source}' holds no VGG19 state dict of torchvision: it must have a tensor "
                    f"'{name}' of shape {tuple(own.shape)} and has {has}."
                )
        return {name: found[name].float() for name in self.state_dict()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of images.

        Args:
            x: ``(N, 3, H, W)``, RGB, normalised with ImageNet's mean and standard deviation.

        Returns:
            The wanted layers by name, in the order of depth; each ``(N, C, H / 2^k, W / 2^k)``
            after k poolings, which round down.
        """
        taken = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._taps:
                taken[self._taps[index]] = x
        return taken


class VGGPerceptualLoss(nn.Module):
    """L1 between VGG19 features of two images, weighted over five layers.

    relu1_1 to relu5_1 weigh 1/32, 1/16, 1/8, 1/4 and 1, as in pix2pixHD (Wang et al. 2018).

    Args:
        weights: File with torchvision's state dict; None: through torch.hub. See `VGG19Features`.
        channels: Channels of the images: 3, or 1 (repeated to 3).

    Attributes:
        autocast: Makes the context to run the network in; none by default.

    Raises:
        LossError: any other number of channels.
        CheckpointError: the weights cannot be had, read or used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | Path | None = None, channels: int = 3) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise LossError(
                f"The VGG loss cannot compare images of {channels} channels; it takes 1 or 3."
            )
        self.channels = channels
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        self.network = VGG19Features(weights=weights)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of generated images ``x`` against ``y``; no gradient reaches ``y``.

        Args:
            x: ``(N, channels, H, W)`` in [-1, 1], each side at least 16 pixels.
            y: The same.

        Returns:
            A scalar, float32.

        Raises:
            LossError: the shapes differ, or are not of this kind.
        """
        check_same_shape(type(self).__name__, x, y)
        if x.shape[1] != self.channels:
            raise LossError(
                f"The VGG loss was made for images of {self.channels} channels, not {x.shape[1]}."
            )
        self.check_size(x.shape[2], x.shape[3])
        with self.autocast():
            with torch.no_grad():
                wanted = self.network(self._normalised(y))
            made = self.network(self._normalised(x))
        terms = [
            weight * F.l1_loss(full_precision(made[layer]), full_precision(wanted[layer]))
            for layer, weight in PERCEPTUAL_WEIGHTS.items()
        ]
        return torch.stack(terms).sum()

    def check_size(self, height: int, width: int) -> None:
        """Raises `LossError` unless images of this size, in pixels, reach the deepest layer."""
        if min(height, width) < _SMALLEST:
            raise LossError(
                f"The VGG loss cannot compare images of {height} x {width} (height x width); "
                f"each side must be at least {_SMALLEST}."
            )

    def _normalised(self, images: Tensor) -> Tensor:
        """From [-1, 1] to what VGG19 was trained on; one channel becomes three by broadcasting."""
        return ((images + 1) / 2 - self.mean) / self.std


def _convolutions(count: int) -> nn.Sequential:
    """The first ``count`` convolutions, numbered as in torchvision, each with its ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for repeats, width in _BLOCKS:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(min(repeats, count)):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
            count -= 1
        if not count:
            break
    return nn.Sequential(*layers)


def _read(path: Path) -> object:
    try:
        with open_regular(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"The VGG19 weights '{path}' cannot be read ({_brief(error)}); "
            f"train.vgg_weights must point to the file of {VGG19_URL}."
        ) from error


def _download() -> object:
    try:
        return torch.hub.load_state_dict_from_url(
            VGG19_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (*UNREADABLE, HTTPException) as error:
        raise CheckpointError(
            f"The VGG19 weights cannot be had through torch.hub ({_brief(error)}); download "
            f"{VGG19_URL} on a machine that can, and set train.vgg_weights to the path of the file."
        ) from error


def _brief(error: BaseException) -> str:
    """The first sentence of an error: torch explains unpickling over a page."""
    first = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
