"""Perceptual loss on VGG19 features (Simonyan and Zisserman 2015), without torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.errors import CheckpointError, LossError, check_choice
from nectargan.files import TORCH_LOAD_ERRORS, open_regular
from nectargan.frozen import Frozen
from nectargan.losses.losses import check_same_shape, full_precision

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# (convolutions, channels) of each block; there is a pooling layer between two blocks.
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
LAYERS = tuple(f"relu{b}_{i + 1}" for b, (n, _) in enumerate(_BLOCKS, 1) for i in range(n))
# Wang et al. 2018 (pix2pixHD), from the first to the deepest layer.
PERCEPTUAL_WEIGHTS = {
    "relu1_1": 1 / 32,
    "relu2_1": 1 / 16,
    "relu3_1": 1 / 8,
    "relu4_1": 1 / 4,
    "relu5_1": 1.0,
}
# At least one pixel must be left after the four pooling layers before relu5_1.
_SMALLEST = 16


class VGG19Features(Frozen):
    """The convolutions of VGG19 up to the deepest requested layer, with frozen weights.

    The weights are torchvision's official state dict, with its parameter names
    (``features.0.weight`` and so on). Its classifier and deeper layers are ignored.

    Args:
        layers: Names of layers; "relu3_1" is the first ReLU of the third block.
        weights: File with the state dict. If None, the file in the cache of torch.hub is used; if
            there is none, it is downloaded and its hash is checked.

    Raises:
        LossError: If there are no layers, or a layer is unknown.
        CheckpointError: If the weights cannot be downloaded, read or used.
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
            check_choice(LossError, type(self).__name__, "layers", layer, LAYERS)
        deepest = max(LAYERS.index(layer) for layer in layers)
        # On the device "meta" no weights are initialized; the state dict provides them.
        with torch.device("meta"):
            self.features = _convolutions(deepest + 1)
        relus = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]
        self._taps = {relus[LAYERS.index(layer)]: layer for layer in layers}

        source = str(weights or VGG19_URL)
        state = _read(Path(weights)) if weights else _download()
        self.load(state, source)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Computes the features of images.

        Args:
            x: ``(N, 3, H, W)``, RGB, normalized with ImageNet's mean and standard deviation.

        Returns:
            The requested layers by name, from the first to the deepest. A layer after k pooling
            layers is ``(N, C, H / 2^k, W / 2^k)``, rounded down.
        """
        taken = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._taps:
                taken[self._taps[index]] = x
        return taken


class VGGPerceptualLoss(nn.Module):
    """Weighted sum of the L1 distances between VGG19 features of two images in five layers.

    relu1_1 to relu5_1 have the weights 1/32, 1/16, 1/8, 1/4 and 1, as in pix2pixHD (Wang et al.
    2018).

    Args:
        weights: File with torchvision's state dict, or None; see `VGG19Features`.
        channels: Channels of the images: 3, or 1 (repeated to 3); any number with ``selection``.
        selection: Numbers from 0 of the three channels that are compared, as red, green and blue.

    Attributes:
        autocast: A function that returns the context manager in which the network runs, such as
            autocast; by default one that does nothing.

    Raises:
        LossError: If the number of channels is neither 1 nor 3, or a selected channel does not
            exist.
        CheckpointError: If the weights cannot be downloaded, read or used.
    """

    selection: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: str | Path | None = None,
        channels: int = 3,
        selection: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if selection is None and channels not in (1, 3):
            raise LossError(
                f"The VGG loss cannot compare images with {channels} channels; it takes 1 or 3. "
                "Choose three of them with train.vgg_channels."
            )
        if selection is not None and (
            len(selection) != 3 or not all(0 <= each < channels for each in selection)
        ):
            numbers = ", ".join(str(each + 1) for each in selection)
            raise LossError(
                f"The VGG loss cannot compare the channels {numbers} of images with {channels}; it "
                f"takes three numbers from 1 to {channels}."
            )
        chosen = None if selection is None else torch.tensor(selection)
        self.register_buffer("selection", chosen, persistent=False)
        self.channels = channels
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        self.network = VGG19Features(weights=weights)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes the loss between generated images ``x`` and targets ``y``.

        ``y`` gets no gradient.

        Args:
            x: ``(N, channels, H, W)`` in [-1, 1]; both sides are at least 16 pixels.
            y: The same shape and range.

        Returns:
            A scalar, float32.

        Raises:
            LossError: If the shapes differ, the number of channels is wrong, or the images are too
                small.
        """
        check_same_shape(type(self).__name__, x, y)
        if x.shape[1] != self.channels:
            raise LossError(
                f"The VGG loss was built for images with {self.channels} channels, not "
                f"{x.shape[1]}."
            )
        self.check_size(x.shape[2], x.shape[3])
        with self.autocast():
            with torch.no_grad():
                wanted = self.network(self._normalised(y))
            generated = self.network(self._normalised(x))
        terms = [
            weight * F.l1_loss(full_precision(generated[layer]), full_precision(wanted[layer]))
            for layer, weight in PERCEPTUAL_WEIGHTS.items()
        ]
        return torch.stack(terms).sum()

    def check_size(self, height: int, width: int) -> None:
        """Raises `LossError` if images of this size, in pixels, are too small for the network."""
        if min(height, width) < _SMALLEST:
            raise LossError(
                f"The VGG loss cannot compare images of {height} x {width} (height x width); "
                f"each side must be at least {_SMALLEST}."
            )

    def _normalised(self, images: Tensor) -> Tensor:
        """Converts images from [-1, 1] to ImageNet's normalization; broadcasts 1 channel to 3."""
        if self.selection is not None:
            images = images.index_select(1, self.selection)
        return ((images + 1) / 2 - self.mean) / self.std


def _convolutions(count: int) -> nn.Sequential:
    """The first ``count`` convolutions, each followed by a ReLU, numbered as in torchvision."""
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
    except TORCH_LOAD_ERRORS as error:
        raise CheckpointError(
            f"The VGG19 weights '{path}' cannot be read ({_brief(error)}); "
            f"train.vgg_weights must point to the file of {VGG19_URL}."
        ) from error


def _download() -> object:
    try:
        return torch.hub.load_state_dict_from_url(
            VGG19_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (*TORCH_LOAD_ERRORS, HTTPException) as error:
        raise CheckpointError(
            f"The VGG19 weights cannot be downloaded through torch.hub ({_brief(error)}); download "
            f"{VGG19_URL} on another machine and set train.vgg_weights to the path of the file."
        ) from error


def _brief(error: BaseException) -> str:
    """The first sentence of an error; torch's messages about unpickling are a page long."""
    first = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
