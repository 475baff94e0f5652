"""`PairedDataset` loads image pairs. An item only depends on the seed, the epoch and the index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from nectargan.dataset.crops import Crops, crop_images, draw_crops
from nectargan.dataset.decoding import MODES, in_mode, read_image
from nectargan.dataset.pairs import Pair
from nectargan.errors import DataError

DIRECTIONS = ("AtoB", "BtoA")
RESIZES = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}

Key = int | tuple[int, int]


class PairedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of images as uint8 tensors: input `(input_nc, H, W)`, target `(output_nc, H, W)`.

    With `augment`, both images are resized to `load_size`, cropped to `crop_size` at the same
    random position, and flipped and rotated in the same way. Without it, both are resized to
    `crop_size`.

    The key of an item is `index` (for epoch 0) or `(index, epoch)`. The random numbers are a pure
    function of `(seed, epoch, index)`: they do not depend on the order of reading, and changing one
    chance does not change the crops. `PairLoader` crops whole batches on the device instead.

    Args:
        pairs: Pairs from `find_pairs` or `check_data`.
        direction: "AtoB" (A is the input) or "BtoA".
        input_nc: Channels of the input, 1 to 4: gray, gray and alpha, RGB, RGBA.
        output_nc: Channels of the target, 1 to 4.
        load_size: Size in pixels, one number for a square or (height, width).
        crop_size: Size in pixels; with `augment` at most `load_size`.
        h_flip_chance: Probability of a horizontal flip, in [0, 1].
        v_flip_chance: Probability of a vertical flip, in [0, 1].
        rot90_chance: Probability of a rotation by one, two or three quarter turns, in [0, 1]; needs
            a square crop.
        seed: Seed of the random numbers, not negative.
        augment: Whether to crop, flip and rotate randomly; False for validation.
        resize: "bicubic", or "nearest", which adds no new colors; one for both images, or a pair
            for input and target.

    Raises:
        DataError: If an argument is out of range, or the file of an item cannot be read.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        direction: str = "AtoB",
        input_nc: int = 3,
        output_nc: int = 3,
        load_size: int | Sequence[int] = 286,
        crop_size: int | Sequence[int] = 256,
        h_flip_chance: float = 0.0,
        v_flip_chance: float = 0.0,
        rot90_chance: float = 0.0,
        seed: int = 0,
        augment: bool = True,
        resize: str | Sequence[str] = "bicubic",
    ) -> None:
        if not pairs:
            raise DataError("A data set needs at least one pair of images, got none.")
        if direction not in DIRECTIONS:
            raise DataError(f"direction is '{direction}'; allowed: {', '.join(DIRECTIONS)}.")
        for name, channels in (("input_nc", input_nc), ("output_nc", output_nc)):
            if channels not in MODES:
                raise DataError(f"{name} is {channels}; an image has 1, 2, 3 or 4 channels.")
        self._resizes = (resize, resize) if isinstance(resize, str) else tuple(resize)
        if len(self._resizes) != 2 or not RESIZES.keys() >= set(self._resizes):
            raise DataError(
                f"resize is {resize!r}; allowed: {', '.join(RESIZES)}, or a pair of these for "
                "input and target."
            )
        self._chances = (h_flip_chance, v_flip_chance, rot90_chance)
        names = ("h_flip_chance", "v_flip_chance", "rot90_chance")
        for name, chance in zip(names, self._chances, strict=True):
            if not 0.0 <= chance <= 1.0:
                raise DataError(f"{name} is {chance}; a chance must be between 0 and 1.")
        if seed < 0:
            raise DataError(f"seed is {seed}; it must not be negative.")
        self._load = _height_and_width(load_size, "load_size")
        self.crop_size = crop = _height_and_width(crop_size, "crop_size")
        if augment and (crop[0] > self._load[0] or crop[1] > self._load[1]):
            raise DataError(
                f"crop_size {_size_text(crop)} is larger than load_size {_size_text(self._load)}; "
                "it must be at most load_size."
            )
        if augment and rot90_chance > 0 and crop[0] != crop[1]:
            raise DataError(
                f"rot90_chance is {rot90_chance} with a crop_size of {_size_text(crop)}; "
                "quarter turns need a square crop."
            )
        self.pairs = tuple(pairs)
        self.channels = (input_nc, output_nc)
        self.seed = seed
        self._swap = direction == "BtoA"
        self._augment = augment
        self._drawn: tuple[int | None, Crops | None] = (None, None)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        index, epoch = (key, 0) if isinstance(key, int) else key
        images = self.decode(index)[None]
        crops = self.crops(epoch)
        if crops is not None:
            images = crop_images(images, torch.from_numpy(crops[index : index + 1]), self.crop_size)
        source, target = torch.split(images[0], list(self.channels))
        return source.contiguous(), target.contiguous()

    @property
    def decoded_size(self) -> tuple[int, int]:
        """The size (height, width) of the images that `decode` returns."""
        return self._load if self._augment else self.crop_size

    def decode(self, index: int) -> Tensor:
        """Reads a pair and resizes it, without cropping.

        Returns:
            Input and target in one uint8 tensor ``(input_nc + output_nc, H, W)``.

        Raises:
            DataError: If a file cannot be read.
        """
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"pair {index} of {len(self.pairs)}")
        try:
            images = _read(self.pairs[index])
        except DataError as error:
            raise DataError(f"{error}.") from None
        if self._swap:
            images = images[::-1]
        arrays = [
            _resized(image, MODES[channels], self.decoded_size, RESIZES[resize])
            for image, channels, resize in zip(images, self.channels, self._resizes, strict=True)
        ]
        return torch.from_numpy(np.concatenate(arrays, axis=2).transpose(2, 0, 1).copy())

    def crops(self, epoch: int) -> Crops | None:
        """The crops of all pairs in an epoch (see `draw_crops`); ``None`` without augmentation."""
        if not self._augment:
            return None
        if self._drawn[0] != epoch:
            # The last number of the seed is 1 for the crops and 0 for the order of an epoch.
            crops = draw_crops(
                len(self), self._load, self.crop_size, self._chances, (self.seed, epoch, 1)
            )
            self._drawn = (epoch, crops)
        return self._drawn[1]


def normalize(images: Tensor) -> Tensor:
    """Converts uint8 images of any shape to float32 in [-1, 1], on their device."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def denormalize(images: Tensor) -> Tensor:
    """Converts floats in [-1, 1] to the nearest uint8, clamped; the inverse of `normalize`."""
    return images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def _height_and_width(value: int | Sequence[int], name: str) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or min(sides) < 1:
        raise DataError(f"{name} is {value}; allowed: a number of pixels, or (height, width).")
    return sides[0], sides[1]


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"


def _read(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Reads A and B as they are displayed, in their original mode and size."""
    if pair.b is not None:
        return read_image(pair.a), read_image(pair.b)
    whole = read_image(pair.a)
    width, height = whole.size
    if width % 2:
        raise DataError(f"{pair.a}: the width {width} is odd; it must be two equal halves")
    half = width // 2
    return whole.crop((0, 0, half, height)), whole.crop((half, 0, width, height))


def _resized(
    image: Image.Image, mode: str, size: tuple[int, int], resampling: Image.Resampling
) -> npt.NDArray[np.uint8]:
    """Converts and resizes an image to a uint8 array ``(H, W, C)``."""
    height, width = size
    image = in_mode(image, mode)
    if image.size != (width, height):
        image = image.resize((width, height), resampling)
    return np.asarray(image).reshape(height, width, -1)
