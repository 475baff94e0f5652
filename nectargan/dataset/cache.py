"""Caches decoded images in memory if they fit."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from nectargan.dataset.content import Content
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.errors import DataError

Place = Literal["ram", "disk", "device", "off"]

# The largest parts of the free memory that "auto" uses. The rest of the device is for networks,
# gradients and activations, and the rest of the RAM for the file cache of the system.
_PART_OF_DEVICE = 0.25
_PART_OF_RAM = 0.5
_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")  # inside a container, the control group of the container


def choose_place(
    wanted: Literal["auto", "ram", "disk", "device", "off"],
    datasets: Sequence[PairedDataset],
    device: torch.device,
    processes: int = 1,
) -> Place:
    """Decides where the decoded images of a run are cached.

    Args:
        wanted: The option ``dataloader.cache``. "auto" chooses the device if it is a CUDA device
            and the images need at most a quarter of its free memory, else RAM if they need at most
            half of the free RAM, else "off". The images of one data set at a time are held in RAM
            before they are copied to the device. "disk" is a file in the folder for temporary
            files.
        datasets: The data sets to cache.
        device: The device of the run. If it is the CPU, "device" means "ram".
        processes: Number of processes on this machine, each with a cache of its own; on CUDA, also
            with a device of its own.

    Raises:
        DataError: If ``wanted`` is "ram", "disk" or "device" and the images do not fit.
    """
    size = sum(cached_bytes(dataset) for dataset in datasets)
    passing = processes * max((cached_bytes(dataset) for dataset in datasets), default=0)
    if wanted == "auto":
        fits_in_ram = passing <= _PART_OF_RAM * free_ram()
        if device.type == "cuda" and fits_in_ram and size <= _PART_OF_DEVICE * _free(device):
            return "device"
        return "ram" if processes * size <= _PART_OF_RAM * free_ram() else "off"
    place: Place = "ram" if wanted == "device" and device.type == "cpu" else wanted
    if place != "device":
        size *= processes
    if place == "off":
        return place
    if place == "disk":
        free, where = shutil.disk_usage(tempfile.gettempdir()).free, f"in {tempfile.gettempdir()}"
    else:
        free, where = _free(device) if place == "device" else free_ram(), "there"
    if size > free:
        raise DataError(
            f"dataloader.cache is '{wanted}', but the images need {size / _GIB:.1f} GiB and only "
            f"{free / _GIB:.1f} GiB are free {where}; use 'auto' or 'off'."
        )
    if place == "device" and passing > free_ram():
        raise DataError(
            f"dataloader.cache is '{wanted}', but the images of a split are first decoded in RAM, "
            f"which needs {passing / _GIB:.1f} GiB, and only {free_ram() / _GIB:.1f} GiB are free; "
            "use 'auto' or 'off'."
        )
    return place


def cached_bytes(dataset: PairedDataset) -> int:
    """The size of all decoded pairs in bytes."""
    pixels = int(dataset.sizes.prod(1).sum())
    return pixels * sum(dataset.parts) * dataset.dtype.itemsize


class FlatImages(NamedTuple):
    """The decoded pairs of a data set that `is_flat`.

    Attributes:
        pixels: ``(C, pixels)``: the pixels of all pairs, one pair after the other.
        starts: The number of the first pixel of each pair, ``(N,)``.
        contents: What `PairedDataset.content` says of each pair.
    """

    pixels: Tensor
    starts: npt.NDArray[np.int64]
    contents: list[Content | None]


def fill(dataset: PairedDataset, on_disk: bool = False) -> tuple[Tensor, dict[int, str]]:
    """Decodes all pairs in several threads into one tensor ``(N, C, H, W)`` of their dtype.

    Args:
        dataset: The pairs.
        on_disk: Whether the tensor is a memory-mapped file instead of RAM.

    Returns:
        The tensor, and a message for each pair that cannot be read, by index.

    Raises:
        DataError: If the file cannot be written.
    """
    shape = (len(dataset), sum(dataset.parts), *dataset.decoded_size)
    images = _empty(shape, dataset.dtype, on_disk)
    return images, _decode_all(dataset, images.__setitem__)


def fill_flat(dataset: PairedDataset, on_disk: bool = False) -> tuple[FlatImages, dict[int, str]]:
    """Decodes all pairs of a data set that `is_flat`; see `fill`."""
    counts = dataset.sizes.prod(1)
    starts = counts.cumsum() - counts
    contents: list[Content | None] = [None] * len(dataset)
    pixels = _empty((sum(dataset.parts), int(counts.sum())), dataset.dtype, on_disk)

    def put(index: int, image: Tensor) -> None:
        contents[index] = dataset.content(image)
        pixels[:, starts[index] : starts[index] + counts[index]] = image.flatten(1)

    problems = _decode_all(dataset, put)
    return FlatImages(pixels, starts, contents), problems


def _decode_all(dataset: PairedDataset, put: Callable[[int, Tensor], object]) -> dict[int, str]:
    """Calls ``put`` with each pair, in several threads; returns what cannot be read, by index."""
    problems: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            put(index, dataset.decode(index))
        except DataError as error:
            problems[index] = str(error)

    # Pillow releases the GIL while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(decode, range(len(dataset))):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return dict(sorted(problems.items()))


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], on_disk: bool) -> Tensor:
    return _mapped(shape, dtype) if on_disk else torch.from_numpy(np.empty(shape, dtype))


def _mapped(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """A tensor in a temporary file, which disappears with the process, however it ends.

    Raises:
        DataError: If the disk is full.
    """
    size = prod(shape) * dtype.itemsize
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                # Writing to a mapping when the disk is full would end the process without a word.
                os.posix_fallocate(file.fileno(), 0, size)
            # The mapping keeps the file, which has no name, until the tensor is freed.
            return torch.from_numpy(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        raise DataError(
            f"dataloader.cache is 'disk', but {size / _GIB:.1f} GiB cannot be written in "
            f"{tempfile.gettempdir()} ({error.strerror})."
        ) from None


def free_ram() -> int:
    """The free RAM of the machine, or of the container of this process, in bytes."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        # memory.current is not used, because it includes the file cache.
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(free, max(0, limit - int(stat["anon"])))
    except (OSError, ValueError, KeyError):
        # The system is not Linux, or the group has no limit ("max").
        return free


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_ram()
