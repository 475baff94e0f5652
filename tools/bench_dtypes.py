"""Measures training on cached images of 16 bits and of float32 against the same ones in 8 bits.

    python tools/bench_dtypes.py
    python tools/bench_dtypes.py --json figures.json
    python tools/bench_dtypes.py --device cuda --batch 4

All kinds have the same pictures. An action is an epoch of batches alone, or of training steps. The
actions run in turn in one process, so that their times can be compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from nectargan import cpu

if __name__ == "__main__":
    cpu.prepare()  # as nectargan-train does, before torch is imported

import click
import numpy as np
import torch
from benchmarking import Row, interleaved, pair_options, report

from nectargan.build_data import build_data
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.dataset.synthetic import draw_pair
from nectargan.images.raw import RawImage
from nectargan.images.writing import write_raw
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

KINDS = ("uint8", "uint16", "float32")
# 0.9 of the images per second of 8 bits.
MOST = 1 / 0.9


def write_pairs(root: Path, size: int, count: int) -> None:
    """Writes the same pairs once for each kind: PNG of 8 and 16 bits, and arrays of float32."""
    for index in range(count):
        images = draw_pair(size, np.random.default_rng(index))
        for side, image in zip("AB", images, strict=True):
            for kind in KINDS:
                factor = 1 / 255 if kind == "float32" else np.iinfo(kind).max // 255
                folder = root / kind / f"train{side}"
                folder.mkdir(parents=True, exist_ok=True)
                values = (image * np.float64(factor)).astype(kind)
                suffix = ".npy" if kind == "float32" else ".png"
                write_raw(folder / f"{index}{suffix}", RawImage(values))


def config_of(root: Path, kind: str, size: int, batch: int, device: str, cache: str) -> Config:
    """The default networks, as deep as the size allows, on cached images of one kind."""
    options = {
        "common.device": device,
        "common.output_directory": str(root / "runs"),
        "dataloader.dataroot": str(root / kind),
        "dataloader.batch_size": batch,
        "dataloader.cache": cache,
        "dataloader.load.load_size": size + size // 8,
        "dataloader.load.crop_size": size,
        "train.generator.n_downs": min(6, size.bit_length() - 3),
        "logging.tensorboard.enable": False,
        "logging.mlflow.enable": False,
        "save.save_examples": False,
    }
    return ConfigManager({}, list(options.items())).data


def batches_of(config: Config) -> Callable[[], object]:
    """An action that loads all batches of an epoch."""
    data = build_data(config, torch.device(config.common.device))
    data.train.prepare()

    def load() -> None:
        *_, (source, _) = data.train.epoch(1)
        float(source.sum())  # waits for the device

    return load


def steps_of(config: Config) -> Callable[[], object]:
    """An action that makes the steps of an epoch."""
    trainer = Pix2pixTrainer(config)
    trainer.data.train.prepare()
    step = trainer.make_step()

    def train() -> None:
        for number, batch in enumerate(trainer.data.train.epoch(1), start=1):
            trainer.losses.start_step(1, number)
            step(*batch)
        float(batch[0].sum())

    return train


@click.command()
@pair_options(rounds=7, pairs=16, batch=1)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--cache", default="ram", show_default=True, help="ram, disk or device.")
def main(
    json_path: Path | None, rounds: int, pairs: int, size: int, batch: int, device: str, cache: str
) -> None:
    """Measures training on cached images of several dtypes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pairs(root, size, pairs)
        for what, make in (("batches", batches_of), ("training", steps_of)):
            actions = {
                kind: make(config_of(root, kind, size, batch, device, cache)) for kind in KINDS
            }
            for action in actions.values():
                action()
            seconds = interleaved(actions, rounds)
            times = {
                f"{what}, {kind}": [1000 * each / pairs for each in seconds[kind]] for kind in KINDS
            }
            for name in times:
                limit = MOST if what == "training" and "uint16" in name else None
                row = Row.compared(name, "ms a pair", times, f"{what}, uint8", limit)
                row.details = {"images_per_second": 1000 / row.median}
                rows.append(row)
    report(rows, [], json_path)


if __name__ == "__main__":
    main()
