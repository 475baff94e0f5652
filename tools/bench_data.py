"""Measures how fast images are read that are not cached, by two worker processes.

    python tools/bench_data.py
    python tools/bench_data.py --json figures.json --pairs 400

Compared are a plain loop of PyTorch's DataLoader with Pillow, the loader on files, and the loader
on shards. All read the same PNG pairs side by side, resize, crop and flip them, and make batches of
floats. An action is an epoch; the actions run in turn, with worker processes that stay. The process
has the CPU settings of a run (`nectargan.cpu`): with those of torch, idle threads of the process
that normalizes the batches take the cores away from the workers.
"""

from __future__ import annotations

from nectargan.cpu import prepare

prepare()  # before torch is imported

# ruff: noqa: E402
import random
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from benchmarking import Row, count_option, interleaved, pair_options, report
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import find_pairs
from nectargan.dataset.synthetic import draw_pair

PLAIN, FILES, SHARDS = "a plain DataLoader with Pillow", "files", "shards"


def write_pairs(root: Path, pairs: int, size: int, shards: int) -> None:
    """Writes pairs with some noise, which photographs have and drawn pictures do not: as PNG files
    in ``root/files/train``, and the same files in ``root/shards``."""
    folder = root / "files" / "train"
    folder.mkdir(parents=True)
    for index in range(pairs):
        rng = np.random.default_rng(index)
        whole = np.concatenate(draw_pair(size, rng), axis=1).astype(np.int16)
        noisy = (whole + rng.integers(-6, 7, whole.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:06d}.png")
    (root / "shards").mkdir()
    files = sorted(folder.iterdir())
    for shard in range(shards):
        with tarfile.open(root / "shards" / f"train-{shard:06d}.tar", "w") as tar:
            for path in files[shard::shards]:
                tar.add(path, path.name)


class PlainPairs(Dataset[tuple[Tensor, Tensor]]):
    """What a person writes for a first data set."""

    def __init__(self, folder: Path, load_size: int, crop_size: int) -> None:
        self.files = sorted(folder.iterdir())
        self.load_size, self.crop_size = load_size, crop_size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        whole = Image.open(self.files[index]).convert("RGB")
        middle = whole.width // 2
        boxes = ((0, 0, middle, whole.height), (middle, 0, whole.width, whole.height))
        left, top = (random.randint(0, self.load_size - self.crop_size) for _ in "xy")  # noqa: S311
        flips = random.random() < 0.5  # noqa: S311
        images = []
        for box in boxes:
            image = whole.crop(box).resize((self.load_size,) * 2, Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + self.crop_size, top + self.crop_size))
            if flips:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
            images.append(pixels.float().div(127.5).sub(1))
        return images[0], images[1]


def plain_epochs(folder: Path, size: int, batch: int) -> Callable[[], object]:
    """An action that reads an epoch with a plain DataLoader."""
    loader = DataLoader(
        PlainPairs(folder, size * 286 // 256, size),
        batch,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )
    return lambda: sum(len(source) for source, _ in loader)


def our_epochs(root: Path, size: int, batch: int) -> Callable[[], object]:
    """An action that reads an epoch with the loader of a run."""
    dataset = PairedDataset(
        find_pairs(root, "train"), load_size=size * 286 // 256, crop_size=size, seed=0
    )
    loader = PairLoader(dataset, batch, torch.device("cpu"), shuffle=True, num_workers=2)
    epochs = iter(range(1, 10**6))
    return lambda: sum(len(images[0]) for images in loader.epoch(next(epochs)))


@click.command()
@pair_options(rounds=9, pairs=200, batch=4)
@count_option("--shards", 4, "Number of shards.")
def main(
    json_path: Path | None, rounds: int, pairs: int, size: int, batch: int, shards: int
) -> None:
    """Measures how fast images are read."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pairs(root, pairs, size, shards)
        actions = {
            PLAIN: plain_epochs(root / "files" / "train", size, batch),
            FILES: our_epochs(root / "files", size, batch),
            SHARDS: our_epochs(root / "shards", size, batch),
        }
        for action in actions.values():
            action()
        seconds = interleaved(actions, rounds)
        times = {name: [1000 * each / pairs for each in seconds[name]] for name in actions}
        rows = []
        for name, base in ((PLAIN, PLAIN), (FILES, PLAIN), (SHARDS, FILES)):
            limit = None if name == base else 1.0
            row = Row.compared(name, "ms a pair", times, base, limit)
            row.details = {"pairs_per_second": 1000 / row.median}
            rows.append(row)
    report(rows, [], json_path)


if __name__ == "__main__":
    main()
