"""Loading image pairs, so that what an item holds depends on seed, epoch and index alone.

Workers deliver uint8, a quarter of the bytes of float32; `normalize` makes floats on the device.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from nectargan.dataset.pairs import UNREADABLE, UNUSABLE_MODES, Pair
from nectargan.errors import DataError

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
DIRECTIONS = ("AtoB", "BtoA")

Key = int | tuple[int, int]


class PairedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of images as uint8 tensors: input `(input_nc, H, W)`, target `(output_nc, H, W)`.

    With `augment`, both are resized to `load_size` (bicubic), cropped at the same random place
    to `crop_size`, flipped and turned alike. Without, both are resized to `crop_size`.

    An item is asked for by `index` (epoch 0) or by `(index, epoch)`, as `EpochSampler` does. Its
    random draws are a pure function of `(seed, epoch, index)`: neither the number of workers nor
    the order of reading changes an item, and a change of one chance leaves the crops as they were.

    Args:
        pairs: What `find_pairs` or `check_data` found.
        direction: "AtoB" (A is the input) or "BtoA".
        input_nc: Channels of the input, 1 to 4: grey, grey and alpha, RGB, RGBA.
        output_nc: Channels of the target, 1 to 4.
        load_size: Pixels, one number for a square or (height, width).
        crop_size: Pixels, at most `load_size` when `augment` is set.
        h_flip_chance: Chance in [0, 1] to mirror left and right.
        v_flip_chance: Chance in [0, 1] to mirror top and bottom.
        rot90_chance: Chance in [0, 1] to turn by one, two or three quarters; needs a square crop.
        seed: Not negative.
        augment: False for validation.

    Raises:
        DataError: An argument is out of range; or, on reading an item, its file is unusable.
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
    ) -> None:
        if not pairs:
            raise DataError("A data set needs at least one pair of images, got none.")
        if direction not in DIRECTIONS:
            raise DataError(f"direction is '{direction}'; allowed: {', '.join(DIRECTIONS)}.")
        for name, channels in (("input_nc", input_nc), ("output_nc", output_nc)):
            if channels not in MODES:
                raise DataError(f"{name} is {channels}; an image has 1, 2, 3 or 4 channels.")
        self._chances = (h_flip_chance, v_flip_chance, rot90_chance)
        names = ("h_flip_chance", "v_flip_chance", "rot90_chance")
        for name, chance in zip(names, self._chances, strict=True):
            if not 0.0 <= chance <= 1.0:
                raise DataError(f"{name} is {chance}; a chance lies between 0 and 1.")
        if seed < 0:
            raise DataError(f"seed is {seed}; it must not be negative.")
        self._load = _size(load_size, "load_size")
        self._crop = _size(crop_size, "crop_size")
        if augment and (self._crop[0] > self._load[0] or self._crop[1] > self._load[1]):
            raise DataError(
                f"crop_size {_text(self._crop)} is larger than load_size {_text(self._load)}; "
                "a crop is cut from the loaded image."
            )
        if augment and rot90_chance > 0 and self._crop[0] != self._crop[1]:
            raise DataError(
                f"rot90_chance is {rot90_chance} with a crop_size of {_text(self._crop)}; "
                "quarter turns need a square crop."
            )
        self.pairs = tuple(pairs)
        self._modes = (MODES[input_nc], MODES[output_nc])
        self._swap = direction == "BtoA"
        self._seed = seed
        self._augment = augment

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        index, epoch = (key, 0) if isinstance(key, int) else key
        if not 0 <= index < len(self.pairs):
            raise IndexError(f"pair {index} of {len(self.pairs)}")
        images = _read(self.pairs[index])
        if self._swap:
            images = images[::-1]
        size = self._load if self._augment else self._crop
        arrays = [
            _resized(image, mode, size) for image, mode in zip(images, self._modes, strict=True)
        ]
        if self._augment:
            arrays = self._cut_and_turn(arrays, np.random.default_rng((self._seed, epoch, index)))
        source, target = (torch.from_numpy(array.transpose(2, 0, 1).copy()) for array in arrays)
        return source, target

    def _cut_and_turn(
        self, arrays: list[npt.NDArray[np.uint8]], rng: np.random.Generator
    ) -> list[npt.NDArray[np.uint8]]:
        (height, width), (load_height, load_width) = self._crop, self._load
        # All is drawn, needed or not, so that one setting does not move the draws of another.
        top = int(rng.integers(load_height - height + 1))
        left = int(rng.integers(load_width - width + 1))
        h_flip, v_flip, turn = rng.random(3) < self._chances
        quarters = int(rng.integers(1, 4))
        arrays = [array[top : top + height, left : left + width] for array in arrays]
        if h_flip:
            arrays = [array[:, ::-1] for array in arrays]
        if v_flip:
            arrays = [array[::-1] for array in arrays]
        if turn:
            arrays = [np.rot90(array, quarters) for array in arrays]
        return arrays


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields the keys `(index, epoch)`, in an order that depends on seed and epoch alone.

    Args:
        length: Number of items.
        seed: Not negative.
        shuffle: False yields the items in order.

    Raises:
        DataError: A negative length, seed or epoch.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True) -> None:
        if length < 0 or seed < 0:
            raise DataError(f"length is {length} and seed {seed}; neither may be negative.")
        self._length = length
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the keys; call it before the loader is iterated."""
        if epoch < 0:
            raise DataError(f"epoch is {epoch}; it must not be negative.")
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = range(self._length)
        if self._shuffle:
            # NumPy pads a seed with zeros: without the 1, this would be the stream of item 0.
            rng = np.random.default_rng((self._seed, self._epoch, 0, 1))
            order = rng.permutation(self._length).tolist()
        return ((index, self._epoch) for index in order)


def init_worker(worker_id: int) -> None:
    """A `worker_init_fn`: signals are the main process's business, which then ends its workers.

    Needs no seeding: the items draw nothing from a global generator.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    sys.excepthook = _report_unless_abandoned


def _report_unless_abandoned(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Leaves out what a worker's threads say when the main process ends in the middle of a batch;
    errors of the data itself are raised in the main process by torch."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, traceback)


def normalize(images: Tensor) -> Tensor:
    """uint8 images of any shape to float32 in [-1, 1], on their device."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def denormalize(images: Tensor) -> Tensor:
    """Floats in [-1, 1] to the nearest uint8; clamps what lies outside. Undoes `normalize`."""
    return images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def _size(value: int | Sequence[int], name: str) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or min(sides) < 1:
        raise DataError(f"{name} is {value}; allowed: a number of pixels, or (height, width).")
    return sides[0], sides[1]


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"


def _read(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """A and B as they are displayed, in their own mode and size."""
    if pair.b is not None:
        return _open(pair.a), _open(pair.b)
    whole = _open(pair.a)
    width, height = whole.size
    if width % 2:
        raise DataError(f"{pair.a}: the width {width} is odd, two equal halves were expected.")
    half = width // 2
    return whole.crop((0, 0, half, height)), whole.crop((half, 0, width, height))


def _open(path: object) -> Image.Image:
    try:
        with Image.open(str(path)) as image:
            if image.mode in UNUSABLE_MODES:
                raise DataError(f"{path}: pixels of mode {image.mode} are not supported.")
            image.load()
            return ImageOps.exif_transpose(image)
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: the image cannot be read ({error}).") from error


def _resized(image: Image.Image, mode: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, C) in uint8."""
    height, width = size
    image = _to_mode(image, mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, -1)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits at 255. 65535 / 255 = 257.
        wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # the one conversion that reads every kind of transparency
    return image if image.mode == mode else image.convert(mode)
