"""What two processes do in the tests of training on several processes; see `run_in_two`."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from nectargan.cli.test import _test
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.dataset import data_check
from nectargan.dataset.data_check import check_data
from nectargan.distributed import World, joined
from nectargan.errors import DataError, NectarGANError, PeerError
from nectargan.inference.model import load_model
from nectargan.inference.rulers import Ruler
from nectargan.inference.testing import Protocol, measure
from nectargan.losses.lm_data import LossEvent
from nectargan.metrics import METRICS
from nectargan.record.run_directory import RunDirectory
from nectargan.runs import describe
from nectargan.runs import open as open_module
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import TINY
from tests.graph_stand_in import CpuGraphs

Found = dict[str, Any]

# Batches of 7 training pairs and 5 validation pairs, the last ones smaller than the others.
PLAIN: Found = {"dataloader.batch_size": 4, "train.generator.dropout": 0.0}
OPTIONS: dict[str, Found] = {
    "plain": {**PLAIN, "train.objective": "extended"},
    # A last batch of one pair: the other process has none.
    "shares": {**PLAIN, "dataloader.batch_size": 2, "train.loss.G_GAN": {"share": 0.4}},
    "accumulated": {
        **PLAIN,
        "train.accumulate": 2,
        "train.loss.D_R1": 1.0,
        "train.r1_every_n_steps": 2,
        "train.loss.G_FM": {"function": "nectargan.losses.losses.FeatureMatchingLoss"},
        "train.generator.optimizer.clip_norm": 0.5,
    },
    # Images of floats, of which each has another number of invalid pixels.
    "masked": {
        **PLAIN,
        "dataloader.dataroot": "masked_pairs",
        "dataloader.load.invalid": "mask",
        "dataloader.load.input_nc": 1,
        "dataloader.load.output_nc": 1,
        "train.objective": "extended",
    },
    "own_network": {
        "dataloader.batch_size": 4,
        "train.generator": {
            "function": "tests.distributed.scenarios.Forgetful",
            "learning_rate": {"epochs": 1, "epochs_decay": 1},
        },
    },
}


class Forgetful(nn.Module):
    """A generator with a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, source: Tensor) -> Tensor:
        return self.used(source).tanh()


class NaNInOne(nn.Module):
    """L1, which is NaN at the third step in the second process."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        self.calls += self.training and generated.requires_grad
        factor = float("nan") if self.calls == 4 and os.environ.get("RANK") == "1" else 1.0
        return (generated - target).abs().mean() * factor


def config_of(folder: Path, name: str, options: Found) -> Config:
    overrides = {
        **options,
        "dataloader.dataroot": str(folder / options.get("dataloader.dataroot", "pairs")),
        "common.output_directory": str(folder / "runs"),
        "common.experiment_name": name,
    }
    return ConfigManager(TINY, list(overrides.items())).data


def tensors_of(trainer: Pix2pixTrainer) -> Found:
    parameters = {
        f"{name}.{key}": parameter
        for name, network in trainer.networks.items()
        for key, parameter in network.named_parameters()
    }
    return {
        "weights": {key: each.detach().clone() for key, each in parameters.items()},
        "gradients": {key: each.grad for key, each in parameters.items()},
        "buffers": {
            f"{name}.{key}": buffer.clone()
            for name, network in trainer.networks.items()
            for key, buffer in network.named_buffers()
        },
    }


def trained(folder: Path, name: str, options: Found, world: World) -> Found:
    trainer = Pix2pixTrainer(config_of(folder, name, options), world=world)
    directory = trainer.train(display=None)
    return {"directory": str(directory), **tensors_of(trainer)}


def plain(folder: Path, world: World) -> Found:
    return trained(folder, "plain", OPTIONS["plain"], world)


def shares(folder: Path, world: World) -> Found:
    return trained(folder, "shares", OPTIONS["shares"], world)


def accumulated(folder: Path, world: World) -> Found:
    return trained(folder, "accumulated", OPTIONS["accumulated"], world)


def masked(folder: Path, world: World) -> Found:
    return trained(folder, "masked", OPTIONS["masked"], world)


def own_network(folder: Path, world: World) -> Found:
    return trained(folder, "own_network", OPTIONS["own_network"], world)


def normalized(folder: Path, world: World) -> Found:
    """With spectral normalization, whose estimates each forward pass improves. Of the last batch,
    one process has two parts and the other one has one."""
    return trained(folder, "normalized", NORMALIZED, world)


NORMALIZED: Found = {
    **PLAIN,
    "train.accumulate": 2,
    "train.discriminator.spectral_norm": True,
}


def flat(folder: Path, world: World) -> Found:
    """Eager steps with flat gradients, as a captured run takes for a smaller batch."""
    return {name: with_flat_gradients(folder, name, False, world) for name in OPTIONS}


def captured(folder: Path, world: World) -> Found:
    """Steps that the stand-in for CUDA graphs captures, sums over the processes included."""
    names = ("plain", "shares", "accumulated")
    return {name: with_flat_gradients(folder, name, True, world) for name in names}


def with_flat_gradients(folder: Path, name: str, captured: bool, world: World) -> Found:
    graphs = CpuGraphs()
    config = config_of(folder, f"{'captured' if captured else 'flat'}_{name}", OPTIONS[name])
    trainer = Pix2pixTrainer(config, graphs=graphs, world=world)
    if not captured:
        trainer.graph_obstacle = "for comparison"
    directory = trainer.train(display=None)
    return {"directory": str(directory), "captures": graphs.captures, **tensors_of(trainer)}


def capture_fails_in_one(folder: Path, world: World) -> Found:
    """Only the second process cannot capture the step."""

    class Refusing(CpuGraphs):
        def capture(self, work: Callable[[], object]) -> Callable[[], object]:
            replay = super().capture(work)
            if world.rank == 1:
                raise RuntimeError("no memory for a graph")
            return replay

    config = config_of(folder, "capture_fails", OPTIONS["plain"])
    trainer = Pix2pixTrainer(config, graphs=Refusing(), world=world)
    with contextlib.ExitStack() as held:
        if not world.is_main:  # it must not change the file of the tags
            held.enter_context(mock.patch.object(open_module, "change_tag", None))
        trainer.train(display=None)
    return {"obstacle": trainer.graph_obstacle, **tensors_of(trainer)}


def tested(folder: Path, world: World) -> Found:
    """The network of `plain` is measured."""
    return measured(folder, folder / "runs" / "plain_v1", world)


def measured(folder: Path, run: Path, world: World) -> Found:
    model = load_model(run, device="cpu")
    split = check_data(folder / "pairs", ("val",))["val"]
    ruler = Ruler([METRICS[name] for name in ("l1", "ssim")], {}, [])
    found = measure(model, split, ruler, Protocol(), ("pairs", "digest"), world=world)
    return {
        "values": {name: torch.from_numpy(each) for name, each in found.values.items()},
        "low": found.record.metrics["ssim"].low,
        "images": sorted(found.extremes.images),
        "generated": torch.stack([found.extremes.images[row][1] for row in range(5)]),
    }


def undisturbed(folder: Path, world: World) -> Found:
    """With dropout and an augmentation of random numbers."""
    return trained(folder, "undisturbed", DRAWN, world)


DRAWN: Found = {
    "dataloader.batch_size": 2,
    "dataloader.augmentations.input.colorjitter_chance": 0.5,
    "save.every_minutes": 0,
}


def interrupted(folder: Path, world: World) -> Found:
    """Ctrl-C reaches one process only, in the middle of a step."""

    def press(event: LossEvent) -> None:
        if event.step == 5 and event.name == "D_real" and world.rank == 1:
            signal.raise_signal(signal.SIGINT)

    trainer = Pix2pixTrainer(config_of(folder, "interrupted", DRAWN), world=world)
    trainer.losses.register_hook(press)
    return {"error": error_of(trainer), "step": trainer.step}


def resumed(folder: Path, world: World) -> Found:
    directory = RunDirectory(folder / "runs" / "interrupted_v1")
    copy = folder / "one" / "interrupted_v1"  # for one process
    world.from_main(lambda: shutil.copytree(directory.path, copy))
    config = config_of(folder, "interrupted", DRAWN)
    resumption = world.from_main(lambda: resumption_of(directory, load_last(directory), config))
    trainer = Pix2pixTrainer(config, resumption, world=world)
    trainer.train(display=None)
    return tensors_of(trainer)


def nan(folder: Path, world: World) -> Found:
    loss = {"function": "tests.distributed.scenarios.NaNInOne", "weight": 1.0}
    options = {**PLAIN, "train.loss.G_own": loss, "logging.window_steps": 2}
    trainer = Pix2pixTrainer(config_of(folder, "nan", options), world=world)
    return {"error": error_of(trainer), "step": trainer.step}


def bad_image(folder: Path, world: World) -> Found:
    return {"error": _with_a_bad_image(folder, world, "bad_image", "stop")[0]}


def skipped_image(folder: Path, world: World) -> Found:
    error, trainer = _with_a_bad_image(folder, world, "skipped_image", "skip")
    return {"error": error, "bad": sorted(trainer.data.train.bad), **tensors_of(trainer)}


def unsteady_image(folder: Path, world: World) -> Found:
    """An image that only one of both can read, when they fill their caches."""
    root = {"dataloader.dataroot": "skipped_image_pairs", "dataloader.cache": "ram"}
    options = {**PLAIN, **root, "dataloader.on_bad_image": "skip"}
    options["train.generator.learning_rate.epochs_decay"] = 0
    trainer = Pix2pixTrainer(config_of(folder, "unsteady_image", options), world=world)
    dataset = trainer.data.train.dataset
    decode = dataset.decode

    def fail(index: int) -> Tensor:
        if world.rank == 1 and index == 5:
            raise DataError("5.png cannot be read at the moment.")
        return decode(index)

    dataset.decode = fail  # type: ignore[method-assign]
    return {"error": error_of(trainer), "bad": sorted(trainer.data.train.bad)}


def forked(folder: Path, world: World) -> Found:
    """The parent is only at hand in the main process."""
    longer = {"train.generator.learning_rate.epochs": 2}
    options = {**OPTIONS["plain"], **longer, "train.fork_from": "runs/plain_v1"}
    with contextlib.chdir(folder if world.is_main else folder.parent):
        return trained(folder, "forked", options, world)


def tested_by_command(folder: Path, world: World) -> Found:
    """Only the main process reads the whole split, to check it."""
    options = {"data": str(folder / "pairs"), "split": "val", "metrics": "l1", "device": "cpu"}
    options |= dict.fromkeys(("weights", "protocol", "size", "seed", "checkpoint"))
    options |= {"dropout": False, "trust": False, "format": "json", "form": "json"}
    with contextlib.ExitStack() as held:
        if not world.is_main:
            held.enter_context(mock.patch.object(data_check, "check_data", None))
            held.enter_context(mock.patch.object(describe, "digest_of_pairs", None))
        _test((str(folder / "runs" / "plain_v1"),), options, world)
    return {}


def _with_a_bad_image(
    folder: Path, world: World, name: str, on_bad_image: str
) -> tuple[str, Pix2pixTrainer]:
    """An image that only one process reads turns out to be damaged."""
    root = {"dataloader.dataroot": f"{name}_pairs", "dataloader.cache": "off"}
    options = {**PLAIN, "dataloader.on_bad_image": on_bad_image, **root}
    options["train.generator.learning_rate.epochs_decay"] = 0
    trainer = Pix2pixTrainer(config_of(folder, name, options), world=world)
    world.from_main(lambda: (folder / f"{name}_pairs" / "train" / "3.png").write_bytes(b"no"))
    return error_of(trainer), trainer


def refused(folder: Path, world: World) -> Found:
    """Configs that several processes cannot train."""
    odd = {**PLAIN, "dataloader.batch_size": 3}
    batch_norm = {**PLAIN, "train.generator.norm": "batch"}
    told = []
    for options in (odd, batch_norm):
        try:
            Pix2pixTrainer(config_of(folder, "refused", options), world=world)
        except NectarGANError as error:
            told.append(str(error))
    return {"told": told}


def slow_main(folder: Path, world: World) -> Found:
    """The main process takes longer than the others wait for each other."""
    return {"made": world.from_main(lambda: time.sleep(1.3 * PATIENCE["slow_main"]) or "made")}


def nccl(folder: Path, world: World) -> Found:
    """One process ends with an error of NCCL, which no other process has caused."""
    try:
        with world.together():
            if world.rank == 1:
                raise RuntimeError("NCCL error: invalid usage, of rank 1")
            world.gather(None)
    except (RuntimeError, PeerError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def crash(folder: Path, world: World) -> Found:
    """One process ends with an error of its own."""

    def fail(event: LossEvent) -> None:
        if event.step == 3 and world.rank == 1:
            raise ZeroDivisionError("of rank 1")

    trainer = Pix2pixTrainer(config_of(folder, "crash", PLAIN), world=world)
    trainer.losses.register_hook(fail)
    return {"error": error_of(trainer)}


def second_signal(folder: Path, world: World) -> Found:
    """A second signal ends one process at once, within a step."""

    def stop(event: LossEvent) -> None:
        if event.step == 3 and world.rank == 1:
            raise SystemExit(128 + signal.SIGTERM)

    trainer = Pix2pixTrainer(config_of(folder, "second_signal", PLAIN), world=world)
    trainer.losses.register_hook(stop)
    return {"error": error_of(trainer)}


def full_disk(folder: Path, world: World) -> Found:
    if world.is_main:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    options = {**PLAIN, "save.save_model": False, "save.save_examples": False}
    options["logging.window_steps"] = 1
    options["train.generator.learning_rate.epochs"] = 1000
    trainer = Pix2pixTrainer(config_of(folder, "full_disk", options), world=world)
    return {"error": error_of(trainer)}


def error_of(trainer: Pix2pixTrainer) -> str:
    try:
        trainer.train(display=None)
    except (NectarGANError, KeyboardInterrupt, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return ""


# Seconds for which a process waits for another one.
PATIENCE = {"slow_main": 10.0}


def main(folder: Path, ports: list[str], names: list[str]) -> None:
    torch.set_num_threads(1)
    for port, name in zip(ports, names, strict=True):
        os.environ["MASTER_PORT"] = port
        scenario: Callable[[Path, World], Found] = globals()[name]
        with joined(timedelta(seconds=PATIENCE.get(name, 120.0))) as world:
            found = scenario(folder, world)
            torch.save(found, folder / f"{name}.{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
