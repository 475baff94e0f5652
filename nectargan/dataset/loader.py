"""`PairLoader` provides batches on the device without host-device synchronization.

The random numbers of an epoch are drawn on the CPU. Cached images are cropped and flipped on the
device, whole batches at a time; images that are not cached, by the workers that read them. Batches
are normalized on the device. A seed gives the same batches for every kind of cache and every number
of workers.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nectargan.dataset.cache import FlatImages, Place, fill, fill_flat
from nectargan.dataset.crops import Crops, bits, crop_flat, crop_images
from nectargan.dataset.paired_dataset import PairedDataset, normalize
from nectargan.dataset.workers import Workers, init_worker
from nectargan.distributed import ALONE, World
from nectargan.errors import DataError

TensorPair = tuple[Tensor, Tensor]
Batch = tuple[Tensor, ...]  # input, target and, if the data set has one, mask
Encode = Callable[[Tensor], Tensor]
_Read = tuple[Tensor, dict[int, str]]
_Key = tuple[int, int]  # index and epoch

log = logging.getLogger("nectargan")


class PairLoader:
    """Loads the batches of a `PairedDataset`, epoch by epoch.

    Args:
        dataset: The pairs.
        batch_size: Pairs per batch.
        device: Device of the batches.
        shuffle: Whether each epoch has a different order. The order only depends on the seed of the
            data set and the epoch.
        drop_last: Whether to drop the last batch of an epoch if it is smaller than the others.
        cache: Where decoded images are cached: "ram", "disk", "device", or "off" to read them in
            each epoch.
        num_workers: Number of processes that read images that are not cached; 0 to read them in
            this process.
        augment: A function from (input, target) to (input, target) that is applied to each batch,
            with the mask as a third tensor if there is one.
        skip_bad: Whether to skip pairs that have become unreadable, up to 1 % of all pairs.
        world: The processes that share each batch. Each loads its part of it, which may be empty if
            the last batch of an epoch is smaller.
        encode: Functions that map the values of input and of target to [-1, 1], from a tensor
            ``(N, C, H, W)`` of the data set's dtype to float32; by default `normalize`, for uint8.

    Attributes:
        bad: Messages of the pairs that are skipped, by index.
        images_per_epoch: Number of pairs per epoch.
    """

    def __init__(
        self,
        dataset: PairedDataset,
        batch_size: int,
        device: torch.device,
        shuffle: bool = False,
        drop_last: bool = False,
        cache: Place = "off",
        num_workers: int = 0,
        augment: Callable[..., Batch] | None = None,
        skip_bad: bool = False,
        world: World = ALONE,
        encode: tuple[Encode, Encode] | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.cache = cache
        left_over = len(dataset) % batch_size if drop_last else 0
        self.images_per_epoch = len(dataset) - left_over
        self._device = device
        self._shuffle = shuffle
        self._num_workers = num_workers
        self._augment = augment
        self._skip_bad = skip_bad
        self._world = world
        self.bad: dict[int, str] = {}
        self._encode = encode
        self._images: Tensor | None = None
        self._flat: FlatImages | None = None
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return -(-self.images_per_epoch // self.batch_size)

    def prepare(self) -> None:
        """Fills the cache. Without this call, the first batch does it.

        Raises:
            DataError: If an image cannot be read; with ``skip_bad``, if too many cannot.
        """
        if self.cache == "off" or self._images is not None:
            return
        on_disk, flat = self.cache == "disk", None
        if self.dataset.is_flat:
            flat, problems = fill_flat(self.dataset, on_disk)
            images = flat.pixels
        else:
            images, problems = fill(self.dataset, on_disk)
        self.meet(problems)
        self._images = images.to(self._device) if self.cache == "device" else images
        self._flat = flat and flat._replace(pixels=self._images)

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[Batch]:
        """Iterates over the batches of an epoch.

        Args:
            epoch: Number of the epoch, not negative.
            skip: Number of batches to skip at the start.

        Yields:
            Input ``(N, input_nc, H, W)`` and target ``(N, output_nc, H, W)``, float32 in [-1, 1],
            on the device. If pairs are skipped, N is smaller and may be 0. If the data set is
            masked, the mask ``(N, 1, H, W)`` comes third, a bool tensor that is false where a pixel
            is invalid; both images are 0 there.

        Raises:
            DataError: If an image cannot be read; with ``skip_bad``, if too many cannot.
        """
        left = torch.split(self._order(epoch)[skip * self.batch_size :], self.batch_size)
        mine = [batch[self._world.slice_of(len(batch))] for batch in left]
        order, sizes = torch.cat([torch.empty(0, dtype=torch.long), *mine]), [len(b) for b in mine]
        if self.cache == "off":
            taken = self._read(epoch, order, sizes)
        else:
            self.prepare()
            taken = (self._crops if self.dataset.is_flat else self._fixed)(epoch, order, sizes)
        for images in taken:
            batch = self._encoded(images)
            yield self._augment(*batch) if self._augment else batch

    def _fixed(self, epoch: int, order: Tensor, sizes: list[int]) -> Iterator[Tensor]:
        """Yields batches of cached images of one size, cropped on the device."""
        drawn = self.dataset.crops(epoch)
        crops = None if drawn is None else self._to_device(torch.from_numpy(drawn)[order])
        batches = torch.split(order, sizes)
        of_batches = [None] * len(batches) if crops is None else torch.split(crops, sizes)
        for indices, mine, images in zip(
            batches, of_batches, self._cached(order, sizes), strict=True
        ):
            kept = _others(len(indices), self._bad_places(indices))
            if kept is not None:
                kept = self._to_device(kept)
                images = bits(images)[kept].view(images.dtype)
                mine = None if mine is None else mine[kept]
            yield images if mine is None else crop_images(images, mine, self.dataset.crop_size)

    def _crops(self, epoch: int, order: Tensor, sizes: list[int]) -> Iterator[Tensor]:
        """Yields batches of crops that are taken one by one, see `PairedDataset.is_flat`."""
        flat = cast(FlatImages, self._flat)
        found = cast(Crops, self.dataset.crops(epoch, flat.contents))
        found[:, 0] += flat.starts
        crops = torch.from_numpy(found)[order]
        on_loader_device = self.cache == "device" or self._device.type == "cpu"
        if on_loader_device:
            crops = self._to_device(crops)
        for indices, mine in zip(torch.split(order, sizes), torch.split(crops, sizes), strict=True):
            kept = _others(len(indices), self._bad_places(indices))
            mine = mine if kept is None else mine[kept.to(mine.device)]
            images = crop_flat(flat.pixels, mine, self.dataset.crop_size)
            # Pinned memory, so that the copy does not block; torch caches such memory.
            pins = self._pins and not on_loader_device
            yield self._to_device(images.pin_memory() if pins else images)

    def _encoded(self, images: Tensor) -> Batch:
        if self._encode is None:
            return torch.split(normalize(images), self.dataset.parts, dim=1)
        parts = torch.split(images, self.dataset.parts, dim=1)
        batch = tuple(encode(part) for encode, part in zip(self._encode, parts, strict=False))
        if not self.dataset.masked:
            return batch
        mask = bits(parts[-1]) != 0
        return (*(torch.where(mask, each, 0.0) for each in batch), mask)

    def _order(self, epoch: int) -> Tensor:
        count = len(self.dataset)
        if not self._shuffle:
            return torch.arange(count)[: self.images_per_epoch]
        rng = np.random.default_rng((self.dataset.seed, epoch, 0))
        return torch.from_numpy(rng.permutation(count))[: self.images_per_epoch]

    def _read(self, epoch: int, order: Tensor, sizes: list[int]) -> Iterator[Tensor]:
        """Yields batches that are read from the files, cropped and without unreadable pairs."""
        if self._reader is None:
            self._reader = _Reader(self.dataset, self._num_workers, self._device)
        batches = torch.split(order, sizes)
        for indices, (images, problems) in zip(
            batches, self._reader.read(batches, epoch), strict=True
        ):
            self.meet({int(indices[place]): text for place, text in problems.items()})
            yield self._to_device(images)

    def _bad_places(self, indices: Tensor) -> list[int]:
        """The positions in a batch of pairs that cannot be read."""
        return [i for i, n in enumerate(indices.tolist()) if n in self.bad] if self.bad else []

    def _cached(self, order: Tensor, sizes: list[int]) -> Iterator[Tensor]:
        """Yields cached batches ``(N, C, H, W)`` on the device, without cropping."""
        kept = cast(Tensor, self._images)
        # Devices cannot be compared, because "cuda" and "cuda:0" are the same but not equal.
        on_loader_device = self.cache == "device" or self._device.type == "cpu"
        order = self._to_device(order) if on_loader_device else order
        for indices in torch.split(order, sizes):
            if on_loader_device:
                yield bits(kept).index_select(0, indices).view(kept.dtype)
            else:
                # Pinned memory, so that the copy does not block; torch caches such memory.
                shape = (len(indices), *kept.shape[1:])
                batch = torch.empty(shape, dtype=bits(kept).dtype, pin_memory=self._pins)
                torch.index_select(bits(kept), 0, indices, out=batch)
                yield self._to_device(batch).view(kept.dtype)

    def meet(self, problems: Mapping[int, str]) -> None:
        """Raises `DataError` for unreadable pairs, or warns once about each that is skipped."""
        new = {index: text for index, text in problems.items() if index not in self.bad}
        if new and not self._skip_bad:
            raise DataError(next(iter(new.values())))
        self.bad |= new
        for text in new.values():
            log.warning("%s It is skipped.", text)
        if len(self.bad) > len(self.dataset) / 100:
            raise DataError(
                f"{len(self.bad)} of {len(self.dataset)} pairs cannot be read, more than 1 %. The "
                f"last one: {list(self.bad.values())[-1]}"
            )

    @property
    def _pins(self) -> bool:
        return self._device.type == "cuda"

    def _to_device(self, tensor: Tensor) -> Tensor:
        # Only CUDA copies pageable memory to a staging buffer before it returns. On other devices
        # the source could be freed during a non-blocking copy.
        return tensor.to(self._device, non_blocking=self._pins)


class _Reader:
    """Reads batches from the files, with workers ahead of time."""

    def __init__(self, dataset: PairedDataset, num_workers: int, device: torch.device) -> None:
        self._batches: list[list[_Key]] = []
        self._workers = Workers()
        self._is_new = True
        self._loader = DataLoader(
            _Cropped(dataset),
            batch_sampler=self._batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=_Collate(dataset),
            worker_init_fn=init_worker,
            # A loader draws a seed for each epoch. It has its own generator, so that this does not
            # change the random numbers of dropout.
            generator=torch.Generator().manual_seed(dataset.seed),
        )

    def read(self, batches: tuple[Tensor, ...], epoch: int) -> Iterator[_Read]:
        self._batches[:] = [[(index, epoch) for index in batch.tolist()] for batch in batches]
        iterator = self._workers.start(lambda: iter(self._loader))
        if self._loader.num_workers and self._is_new:
            # If the iterator is part of a reference cycle, as after an error, the garbage collector
            # may close its queues first, and it could no longer end the workers.
            weakref.finalize(self, iterator._shutdown_workers)  # type: ignore[attr-defined]
            self._is_new = False
        with self._workers.explained():
            yield from iterator


class _Cropped(Dataset[Tensor | str]):
    """Pairs with the crop of an epoch, or error messages.

    An exception would be printed with its traceback.
    """

    def __init__(self, dataset: PairedDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: _Key) -> Tensor | str:
        try:
            return self._dataset.cropped(*key)
        except DataError as error:
            return str(error)


class _Collate:
    """Stacks the readable pairs; the messages of the others come by position in the batch."""

    def __init__(self, dataset: PairedDataset) -> None:
        shape = (0, sum(dataset.parts), *dataset.crop_size)
        self._empty = torch.from_numpy(np.empty(shape, dataset.dtype))

    def __call__(self, items: list[Tensor | str]) -> _Read:
        images = [item for item in items if isinstance(item, Tensor)]
        problems = {place: item for place, item in enumerate(items) if isinstance(item, str)}
        if not images:
            return self._empty, problems
        return torch.stack(images), problems


def _others(count: int, places: Collection[int]) -> Tensor | None:
    """The positions of a batch of ``count`` that are not in ``places``; ``None`` for all."""
    if not places:
        return None
    return torch.tensor([place for place in range(count) if place not in places], dtype=torch.long)
