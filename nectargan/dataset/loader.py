"""`PairLoader`: batches that are ready to train on, and that nobody waits for.

What is drawn is drawn on the host, for a whole epoch; cropping, flipping and normalising are done
on the device, for a whole batch. So a seed gives the same batches wherever the images are kept and
however many workers read them.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nectargan.dataset.cache import Place, fill
from nectargan.dataset.crops import cut
from nectargan.dataset.paired_dataset import PairedDataset, normalize

Pair = tuple[Tensor, Tensor]


class PairLoader:
    """Serves a `PairedDataset`, epoch by epoch.

    Args:
        dataset: The pairs.
        batch_size: Pairs in a batch.
        device: Where the batches are wanted.
        shuffle: Whether each epoch has an order of its own, which depends on the data set's seed
            and the epoch alone.
        drop_last: Leave out the last batch of an epoch if it is smaller than the others.
        cache: Where the decoded images are kept from the first epoch on: "ram", "device", or "off"
            to read them again each time.
        num_workers: Processes that read images if they are not cached; 0 reads in this one.
        augment: Applied to each batch at the end: (input, target) to the same.

    Attributes:
        images_per_epoch: Pairs in an epoch.
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
        augment: Callable[[Tensor, Tensor], Pair] | None = None,
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
        self._images: Tensor | None = None
        self._workers: _Workers | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.images_per_epoch // self.batch_size)

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[Pair]:
        """The batches of an epoch.

        Args:
            epoch: Not negative.
            skip: Batches to leave out at the start.

        Yields:
            Input ``(N, input_nc, H, W)`` and target ``(N, output_nc, H, W)``, float32 in [-1, 1],
            on the device.

        Raises:
            DataError: an image cannot be read any more.
        """
        order, channels = self._order(epoch), list(self.dataset.channels)
        order = order[skip * self.batch_size :]
        crops = self.dataset.crops(epoch)
        of_batches = None
        if crops is not None:
            of_batches = self._batches(self._to_device(torch.from_numpy(crops)[order]))
        for i, images in enumerate(self._decoded(order)):
            if of_batches is not None:
                images = cut(images, of_batches[i], self.dataset.crop_size)
            source, target = torch.split(normalize(images), channels, dim=1)
            yield self._augment(source, target) if self._augment else (source, target)

    def _order(self, epoch: int) -> Tensor:
        count = len(self.dataset)
        if not self._shuffle:
            return torch.arange(count)[: self.images_per_epoch]
        rng = np.random.default_rng((self.dataset.seed, epoch, 0))
        return torch.from_numpy(rng.permutation(count))[: self.images_per_epoch]

    def _decoded(self, order: Tensor) -> Iterator[Tensor]:
        """uint8 batches ``(N, input_nc + output_nc, H, W)`` on the device."""
        if self.cache == "off":
            if self._workers is None:
                self._workers = _Workers(self.dataset, self._num_workers, self._device)
            for images in self._workers.read(self._batches(order)):
                yield self._to_device(images)
            return
        if self._images is None:
            images = fill(self.dataset)
            self._images = images.to(self._device) if self.cache == "device" else images
        is_there = self._images.device == self._device
        for indices in self._batches(self._to_device(order) if is_there else order):
            if is_there:
                yield self._images.index_select(0, indices)
            else:
                # Pinned, so that the copy needs no waiting; torch keeps and reuses such memory.
                shape = (len(indices), *self._images.shape[1:])
                batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pins)
                yield self._to_device(torch.index_select(self._images, 0, indices, out=batch))

    def _batches(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, self.batch_size)

    @property
    def _pins(self) -> bool:
        return self._device.type == "cuda"

    def _to_device(self, tensor: Tensor) -> Tensor:
        # Only CUDA stages a pageable copy before it returns; elsewhere the source could be freed.
        return tensor.to(self._device, non_blocking=self._pins)


class _Workers:
    """Reads batches from the files, ahead of time in worker processes if there are any."""

    def __init__(self, dataset: PairedDataset, num_workers: int, device: torch.device) -> None:
        self._batches: list[list[int]] = []
        self._loader = DataLoader(
            _Decoded(dataset),
            batch_sampler=self._batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=init_worker,
            # A loader draws a seed for each pass. From its own generator: dropout's draws must not
            # depend on the loaders.
            generator=torch.Generator().manual_seed(dataset.seed),
        )

    def read(self, batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
        self._batches[:] = [indices.tolist() for indices in batches]
        return iter(self._loader)


class _Decoded(Dataset[Tensor]):
    def __init__(self, dataset: PairedDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Tensor:
        return self._dataset.decode(index)


def init_worker(worker_id: int) -> None:
    """A `worker_init_fn`: signals are the main process's business, which then ends its workers.

    Needs no seeding: the workers draw nothing.
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
