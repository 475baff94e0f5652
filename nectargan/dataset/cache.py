"""Keeping decoded images in memory, where they fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor

from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.errors import DataError

Place = Literal["ram", "device", "off"]

# What "auto" takes at most of the memory that is free. Networks, gradients and activations want
# the rest of the device; the system's own file cache wants the rest of the RAM.
_PART_OF_DEVICE = 0.25
_PART_OF_RAM = 0.5
_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")  # a container sees its own group there


def choose_place(
    wanted: Literal["auto", "ram", "device", "off"],
    datasets: Sequence[PairedDataset],
    device: torch.device,
) -> Place:
    """Where to keep the decoded images of a run.

    Args:
        wanted: "auto" is the device if it is a CUDA one and the images take a quarter of its free
            memory at most, else the RAM if they take half of what is free, else "off". On their way
            to the device, the images of one data set at a time are in RAM.
        datasets: All that would be kept.
        device: The device of the run; where it is the CPU, "device" means "ram".

    Raises:
        DataError: a place was named, and the images do not fit there.
    """
    size = sum(cached_bytes(dataset) for dataset in datasets)
    passing = max((cached_bytes(dataset) for dataset in datasets), default=0)
    if wanted == "auto":
        fits_in_ram = passing <= _PART_OF_RAM * free_ram()
        if device.type == "cuda" and fits_in_ram and size <= _PART_OF_DEVICE * _free(device):
            return "device"
        return "ram" if size <= _PART_OF_RAM * free_ram() else "off"
    place: Place = "ram" if wanted == "device" and device.type == "cpu" else wanted
    if place == "off":
        return place
    free = _free(device) if place == "device" else free_ram()
    if size > free:
        raise DataError(
            f"dataloader.cache is '{wanted}', but the images take {size / _GIB:.1f} GiB and "
            f"{free / _GIB:.1f} GiB are free there; use 'auto' or 'off'."
        )
    if place == "device" and passing > free_ram():
        raise DataError(
            f"dataloader.cache is '{wanted}', but the images of a split are decoded in RAM before "
            f"they are brought there, {passing / _GIB:.1f} GiB, and {free_ram() / _GIB:.1f} GiB "
            "are free; use 'auto' or 'off'."
        )
    return place


def cached_bytes(dataset: PairedDataset) -> int:
    """Bytes that all decoded pairs take."""
    return len(dataset) * sum(dataset.channels) * prod(dataset.decoded_size)


def fill(dataset: PairedDataset) -> tuple[Tensor, dict[int, str]]:
    """Decodes all pairs, several at a time, into one uint8 tensor ``(N, C, H, W)`` in RAM.

    Returns:
        The tensor, and what is wrong with pairs that cannot be read, by index.
    """
    problems: dict[int, str] = {}
    shape = (len(dataset), sum(dataset.channels), *dataset.decoded_size)
    images = torch.empty(shape, dtype=torch.uint8)

    def decode(index: int) -> None:
        try:
            images[index] = dataset.decode(index)
        except DataError as error:
            problems[index] = str(error)

    # Pillow decodes and resizes without holding the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(decode, range(len(dataset))):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images, dict(sorted(problems.items()))


def free_ram() -> int:
    """Bytes of RAM that this process may still take: of the machine, or of its container."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        # Not memory.current, which counts the file cache as well.
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(free, max(0, limit - int(stat["anon"])))
    except (OSError, ValueError, KeyError):
        # Not Linux, or a group without a limit ("max").
        return free


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_ram()
