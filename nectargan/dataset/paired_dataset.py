"""`PairedDataset` loads image pairs. An item only depends on the seed, the epoch and the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from nectargan.dataset.content import DRAWS, Content, choose_crop, choose_crops, content_of
from nectargan.dataset.crops import Crops, crop_array, draw_crops
from nectargan.dataset.pairs import Pair
from nectargan.dataset.plain_pairs import plain_array, read_plain
from nectargan.dataset.raw_pairs import (
    in_dtype,
    read_sides,
    resized,
    resized_mask,
    storage_dtype,
    valid_pixels,
    with_channels,
)
from nectargan.errors import DataError
from nectargan.images.pillow_files import MODES
from nectargan.images.raw import MOST_CHANNELS

DIRECTIONS = ("AtoB", "BtoA")
RESIZES = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}

Key = int | tuple[int, int]


class PairedDataset(Dataset[tuple[Tensor, ...]]):
    """Pairs of images as uint8 tensors: input `(input_nc, H, W)`, target `(output_nc, H, W)`.

    With `augment`, both images are resized to `load_size`, cropped to `crop_size` at the same
    random position, and flipped and rotated in the same way. Without it, both are resized to
    `crop_size`. If `load_size` is None, nothing is resized: images of any size are cropped to
    `crop_size`, in the middle without `augment`.

    With `dtypes`, files of every kind are read (see `images.reading`), and both images have the one
    dtype that holds the values of all files, instead of uint8. With `masked`, an item has a third
    tensor `(1, H, W)`, which is 0 where a pixel of input or target is invalid (nodata, NaN or
    infinite) and 1 elsewhere; both images are 0 there. Of several random crops of a pair, one with
    enough valid pixels is chosen.

    The key of an item is `index` (for epoch 0) or `(index, epoch)`. The random numbers are a pure
    function of `(seed, epoch, index)`: they do not depend on the order of reading, and changing one
    chance does not change the crops. `PairLoader` crops whole batches on the device instead.

    Args:
        pairs: Pairs from `find_pairs` or `check_data`.
        direction: "AtoB" (A is the input) or "BtoA".
        input_nc: Channels of the input, 1 to 4: gray, gray and alpha, RGB, RGBA; 1 to 64 with
            dtypes.
        output_nc: Channels of the target, in the same way.
        load_size: Size in pixels, one number for a square or (height, width); None to crop without
            resizing.
        crop_size: Size in pixels; with `augment` at most `load_size`.
        h_flip_chance: Probability of a horizontal flip, in [0, 1].
        v_flip_chance: Probability of a vertical flip, in [0, 1].
        rot90_chance: Probability of a rotation by one, two or three quarter turns, in [0, 1]; needs
            a square crop.
        seed: Seed of the random numbers, not negative.
        augment: Whether to crop, flip and rotate randomly; False for validation.
        resize: "bicubic", or "nearest", which adds no new colors; one for both images, or a pair
            for input and target.
        dtypes: The dtype that holds the values of all files of the input, and that of the target;
            None to read files with Pillow in 8 bits. In a side of uint16, the values of 8-bit files
            are multiplied by 257.
        masked: Whether there may be invalid pixels; needs dtypes.
        sizes: (height, width) of the images of each pair; needed if `load_size` is None.
        selections: The channels to read of input and of target, by name or number; None for all.

    Attributes:
        pairs: The pairs.
        channels: Channels of input and target.
        crop_size: (height, width) of the crops.
        dtype: The dtype of the images.
        dtypes: The dtypes of the values of input and target, both of which it holds.
        is_plain: Whether files are read with Pillow in 8 bits.
        masked: Whether an item has a mask.
        seed: Seed of the random numbers.

    Raises:
        DataError: If an argument is out of range, an image is smaller than the crop, or the file of
            an item cannot be read.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        direction: str = "AtoB",
        input_nc: int = 3,
        output_nc: int = 3,
        load_size: int | Sequence[int] | None = 286,
        crop_size: int | Sequence[int] = 256,
        h_flip_chance: float = 0.0,
        v_flip_chance: float = 0.0,
        rot90_chance: float = 0.0,
        seed: int = 0,
        augment: bool = True,
        resize: str | Sequence[str] = "bicubic",
        dtypes: tuple[npt.DTypeLike, npt.DTypeLike] | None = None,
        masked: bool = False,
        sizes: Sequence[tuple[int, int]] | npt.NDArray[np.int32] | None = None,
        selections: Sequence[Sequence[str | int] | None] = (None, None),
    ) -> None:
        if not pairs:
            raise DataError("A data set needs at least one pair of images, got none.")
        if direction not in DIRECTIONS:
            raise DataError(f"direction is '{direction}'; allowed: {', '.join(DIRECTIONS)}.")
        for name, channels in (("input_nc", input_nc), ("output_nc", output_nc)):
            if dtypes is None and channels not in MODES:
                raise DataError(f"{name} is {channels}; an image has 1, 2, 3 or 4 channels.")
            if not 1 <= channels <= MOST_CHANNELS:
                raise DataError(f"{name} is {channels}; it must be from 1 to {MOST_CHANNELS}.")
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
        load = None if load_size is None else _height_and_width(load_size, "load_size")
        self.crop_size = crop = _height_and_width(crop_size, "crop_size")
        if augment and load is not None and (crop[0] > load[0] or crop[1] > load[1]):
            raise DataError(
                f"crop_size {_size_text(crop)} is larger than load_size {_size_text(load)}; "
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
        self.dtypes = [np.dtype(each) for each in dtypes or (np.uint8, np.uint8)]
        self.dtype = storage_dtype(self.dtypes)
        self.masked = masked
        self.is_plain = dtypes is None
        self._selections = selections
        self._swap = direction == "BtoA"
        self._augment = augment
        self._load = load
        self._sizes = self._checked_sizes(sizes)
        self._drawn: tuple[int | None, list[Crops]] = (None, [])

    def _checked_sizes(
        self, sizes: Sequence[tuple[int, int]] | npt.NDArray[np.int32] | None
    ) -> npt.NDArray[np.int64]:
        """The sizes of all pairs as `decode` returns them, ``(N, 2)``."""
        if self._load is not None:
            return np.broadcast_to(np.array(self.decoded_size), (len(self), 2))
        if sizes is None or len(sizes) != len(self):
            raise DataError("load_size is None; the size of each pair is needed then.")
        found = np.array(sizes, np.int64).reshape(-1, 2)
        for index in np.flatnonzero((found < np.array(self.crop_size)).any(1))[:1]:
            raise DataError(
                self._too_small(int(index), (int(found[index, 0]), int(found[index, 1])))
            )
        return found if self._augment else np.broadcast_to(np.array(self.crop_size), found.shape)

    def _too_small(self, index: int, size: tuple[int, int]) -> str:
        return (
            f"{self.pairs[index].a}: the image is {_size_text(size)}, smaller than "
            f"dataloader.load.crop_size {_size_text(self.crop_size)}, and load_size null does not "
            "resize; use a smaller crop_size, or set load_size."
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> tuple[Tensor, ...]:
        index, epoch = (key, 0) if isinstance(key, int) else key
        parts = torch.split(self.cropped(index, epoch), self.parts)
        return tuple(part.contiguous() for part in parts)

    @property
    def parts(self) -> list[int]:
        """The channels of input, target and, if there is one, mask."""
        return [*self.channels, 1] if self.masked else list(self.channels)

    @property
    def decoded_size(self) -> tuple[int, int]:
        """The size (height, width) of the images that `decode` returns, if they have one size."""
        return self._load if self._augment and self._load is not None else self.crop_size

    @property
    def is_flat(self) -> bool:
        """Whether the crops of an epoch are taken from images of different sizes, or depend on
        their masks."""
        return self._augment and (self.masked or self._load is None)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(height, width) of each pair that `decode` returns, ``(N, 2)``."""
        return self._sizes

    def decode(self, index: int) -> Tensor:
        """Reads a pair and resizes it, without cropping.

        Returns:
            Input, target and mask in one tensor ``(C, H, W)`` of the data set's dtype.

        Raises:
            DataError: If a file cannot be read.
        """
        return _channels_first(self._arrays(index), self.dtype)

    def _arrays(self, index: int) -> list[npt.NDArray[Any]]:
        """Input, target and, if there is one, mask ``(H, W, C)``, resized."""
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"pair {index} of {len(self.pairs)}")
        try:
            arrays = self._plain_arrays(index) if self.is_plain else self._raw_arrays(index)
        except DataError as error:
            raise DataError(f"{str(error).removesuffix('.')}.") from None
        if self._load is None:
            arrays = [self._at_size(index, array) for array in arrays]
        return arrays

    def _plain_arrays(self, index: int) -> list[npt.NDArray[Any]]:
        """Input and target ``(H, W, C)`` in 8 bits."""
        images = read_plain(self.pairs[index])
        if self._swap:
            images = images[::-1]
        size = None if self._load is None else self.decoded_size
        return [
            plain_array(image, MODES[channels], size, RESIZES[resize])
            for image, channels, resize in zip(images, self.channels, self._resizes, strict=True)
        ]

    def _raw_arrays(self, index: int) -> list[npt.NDArray[Any]]:
        """Input, target and, if there is one, mask ``(H, W, C)`` in the dtype of the data set."""
        pair = self.pairs[index]
        sides = read_sides(pair, self._swap, self._selections)
        shapes = [side.values.shape[:2] for side in sides]
        if shapes[0] != shapes[1]:
            raise DataError(f"{pair.a}: input and target have different sizes: {shapes}")
        valid = valid_pixels(sides[0]) & valid_pixels(sides[1])
        size = shapes[0] if self._load is None else self.decoded_size
        options = ("input_nc", "output_nc")
        arrays, masks = [], []
        for side, channels, resize, dtype, option in zip(
            sides, self.channels, self._resizes, self.dtypes, options, strict=True
        ):
            values = with_channels(side.values, channels, pair.a, option)
            values = resized(in_dtype(values, dtype), size, RESIZES[resize], valid)
            arrays.append(values.astype(self.dtype))
            masks.append(resized_mask(valid, size, RESIZES[resize]))
        if not self.masked:
            if not valid.all():
                raise DataError(f"{pair.a}: it has pixels that are nodata, NaN or infinite")
            return arrays
        mask = (masks[0] & masks[1])[..., None]
        return [np.where(mask, array, 0).astype(self.dtype) for array in arrays] + [
            mask.astype(self.dtype)
        ]

    def _at_size(self, index: int, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An image that is not resized, in the size that was promised."""
        height, width = (int(side) for side in self._sizes[index])
        if not self._augment:
            tall, wide = array.shape[:2]
            if tall < height or wide < width:
                raise DataError(self._too_small(index, (tall, wide)))
            top, left = (tall - height) // 2, (wide - width) // 2
            array = array[top : top + height, left : left + width]
        if array.shape[:2] != (height, width):
            raise DataError(f"{self.pairs[index].a}: its size has changed since it was checked.")
        return array

    def content(self, images: Tensor) -> Content | None:
        """The content of what `decode` returned; ``None`` if all pixels are valid."""
        return content_of(images[-1].numpy() != 0) if self.masked else None

    def cropped(self, index: int, epoch: int) -> Tensor:
        """A pair with the crop of an epoch; without augmentation, what `decode` returns."""
        if not self._augment:
            return self.decode(index)
        arrays = self._arrays(index)
        content = content_of(arrays[-1][..., 0] != 0) if self.masked else None
        draws = [each[index] for each in self._draws(epoch)]
        crop = choose_crop(content, draws, int(self._sizes[index, 1]), self.crop_size)
        return _channels_first(
            [crop_array(each, crop, self.crop_size) for each in arrays], self.dtype
        )

    def crops(self, epoch: int, contents: Sequence[Content | None] = ()) -> Crops | None:
        """The crops of all pairs in an epoch (see `draw_crops`); ``None`` without augmentation.

        Args:
            epoch: The epoch.
            contents: What `content` returned for each pair; may be empty without a mask.
        """
        if not self._augment:
            return None
        return choose_crops(contents, self._draws(epoch), self._sizes[:, 1], self.crop_size)

    def _draws(self, epoch: int) -> list[Crops]:
        """All crops that were drawn for an epoch; several only with masks."""
        if self._drawn[0] != epoch:
            # The third number of the seed is 0 for the order of an epoch, 1 for its crops, and 2
            # for further draws of them.
            seeds: list[tuple[int, ...]] = [(self.seed, epoch, 1)]
            seeds += [(self.seed, epoch, 2, i) for i in range(1, DRAWS)] if self.masked else []
            size = self._sizes.T if self._load is None else self.decoded_size
            draws = [
                draw_crops(len(self), size, self.crop_size, self._chances, seed) for seed in seeds
            ]
            self._drawn = (epoch, draws)
        return self._drawn[1]


def normalize(images: Tensor) -> Tensor:
    """Converts uint8 images of any shape to float32 in [-1, 1], on their device."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def denormalize(images: Tensor) -> Tensor:
    """Converts floats in [-1, 1] to the nearest uint8, clamped; the inverse of `normalize`."""
    return images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def _channels_first(arrays: Sequence[npt.NDArray[Any]], dtype: np.dtype[Any]) -> Tensor:
    """Arrays ``(H, W, C)`` in one tensor ``(all channels, H, W)``, copied once."""
    ends = np.cumsum([array.shape[2] for array in arrays])
    images = np.empty((ends[-1], *arrays[0].shape[:2]), dtype)
    for part, array in zip(np.split(images, ends[:-1]), arrays, strict=True):
        part[...] = array.transpose(2, 0, 1)
    return torch.from_numpy(images)


def _height_and_width(value: int | Sequence[int], name: str) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or min(sides) < 1:
        raise DataError(f"{name} is {value}; allowed: a number of pixels, or (height, width).")
    return sides[0], sides[1]


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
