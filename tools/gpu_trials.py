"""The trainings that `gpu_checks` runs and compares, each in a new process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_comparing import (
    BATCH,
    PAIRS,
    STEPS,
    BrokenError,
    Interrupt,
    LeftOutError,
    Place,
    agreement,
    graph_against_eager,
    greatest_difference,
    losses_of,
    must,
    rows_of,
)
from PIL import Image
from torch import Tensor, nn

from nectargan.config.config_manager import ConfigManager
from nectargan.distributed import World
from nectargan.distributed.processes import Processes
from nectargan.errors import RunError
from nectargan.losses.vgg import LAYERS
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer


def trial_of_default(place: Place) -> str:
    """Default networks, extended objective, an uneven last batch, validation and saving."""
    ramp = {"schedule": "linear", "start_epoch": 1, "end_epoch": 2, "interval": "step"}
    weight = {**ramp, "initial_value": 100.0, "target_value": 50.0}
    options = {
        "save__save_model": True,
        "train__objective": "extended",
        "train__loss": {"G_L1": weight},
    }
    shown, directory = graph_against_eager(place, **options)
    checkpoints = directory.list_checkpoints()
    must(len(checkpoints) == 2, f"{len(checkpoints)} checkpoints instead of 2")
    pictures = list(directory.examples.glob("*.png"))
    # One before training, and one of each epoch.
    must(len(pictures) == 3, f"{len(pictures)} pictures of examples instead of 3")
    found = {row["metric"]: float(row["value"]) for row in rows_of(directory.metrics)}
    must(-1 <= found["val/ssim"] <= 1, f"val/ssim is {found['val/ssim']}")
    return f"{shown}; val/ssim {found['val/ssim']:.3f}"


def trial_of_resuming(place: Place) -> str:
    """A run that is interrupted in its second epoch and resumed equals an uninterrupted run."""
    options = {
        "common__deterministic": True,
        "save__save_model": True,
        "train__cuda_graph": place.graph,
    }
    whole = Pix2pixTrainer(place.config(**options))
    undisturbed = whole.train(None)
    cut = Pix2pixTrainer(place.config(**options))
    try:
        cut.train(Interrupt(at=STEPS + 2))
    except KeyboardInterrupt:
        pass
    else:
        raise BrokenError("the interrupted run went on")
    checkpoint = load_last(cut.directory)
    config = ConfigManager(checkpoint["config"]).data
    resumed = Pix2pixTrainer(config, resumption_of(cut.directory, checkpoint, config))
    resumed.train(None)
    apart = greatest_difference(losses_of(resumed.directory), losses_of(undisturbed))
    must(apart == 0, f"losses differ by {apart:.2g} after resuming")
    for name, value in resumed.generator.state_dict().items():
        must(torch.equal(value, whole.generator.state_dict()[name]), f"{name} differs")
    return "losses and weights equal to the bit"


def trial_of_a_loss_that_waits(place: Place) -> str:
    """The wait is found in the warm-up, and the run continues with eager steps."""
    return fall_back(place, WaitingLoss)


def trial_of_a_loss_that_breaks(place: Place) -> str:
    """The capture fails: the run continues with eager steps, or its error says what to do."""
    try:
        return fall_back(place, BreakingLoss)
    except RunError as error:
        must("train.cuda_graph=off" in str(error), f"the run ended with: {error}")
        return f"the run ended with: {error}"


def fall_back(place: Place, loss: type[nn.Module]) -> str:
    """Trains with a loss that cannot be captured, with "auto" and with eager steps."""
    term = {"function": f"gpu_trials.{loss.__name__}", "weight": 10.0}
    options = {"train__loss": {"G_OWN": term}}
    first = Pix2pixTrainer(place.config(train__cuda_graph="auto", **options))
    found = losses_of(first.train(None))
    must(first.graph_obstacle is not None, "the loss was captured")
    expected = losses_of(
        Pix2pixTrainer(place.config(train__cuda_graph="off", **options)).train(None)
    )
    return f"went on eagerly, {agreement(found, expected)}"


def trial_of_determinism(place: Place) -> str:
    """Two deterministic runs with the graph are equal bit by bit."""
    options = {
        "common__deterministic": True,
        "train__cuda_graph": place.graph,
        "train__objective": "extended",
    }
    one, other = (losses_of(Pix2pixTrainer(place.config(**options)).train(None)) for _ in "ab")
    apart = greatest_difference(one, other)
    must(apart == 0, f"losses of two runs differ by {apart:.2g}")
    return "two runs equal to the bit"


def trial_of_fp16(place: Place) -> str:
    """fp16: gradients are scaled inside the graph."""
    clip = {
        "train__generator__optimizer__clip_norm": 1.0,
        "train__discriminator__optimizer__clip_norm": 1.0,
    }
    return graph_against_eager(place, common__precision="fp16", **clip)[0]


def trial_of_vgg(place: Place) -> str:
    """The perceptual loss, with random weights."""
    path = place.folder / "vgg19.pth"
    torch.save(drawn_vgg(), path)
    options = {"train__objective": "basic+vgg", "train__vgg_weights": str(path)}
    return graph_against_eager(place, **options)[0]


def trial_of_other_networks(place: Place) -> str:
    """The other networks, with feature matching and spectral norm."""
    size = 64 if place.small else 128
    scales = {"name": "multiscale", "n_scales": 2, "base_channels": 16, "n_layers": 2}
    kinds: dict[str, dict[str, Any]] = {
        "resnet, spectral norm": {
            "train__generator": {"name": "resnet", "features": 8, "n_blocks": 2},
            "train__discriminator": {"base_channels": 16, "n_layers": 2, "spectral_norm": True},
        },
        "pix2pixhd, multiscale, G_FM": {
            "train__generator": {"name": "pix2pixhd", "features": 8},
            "train__discriminator": scales,
            "train__loss": {"G_FM": 10.0},
        },
    }
    shown = []
    for name, options in kinds.items():
        options["dataloader__load"] = {"load_size": size * 286 // 256, "crop_size": size}
        options["train__generator"] |= {"learning_rate": {"epochs": 1, "epochs_decay": 1}}
        shown.append(f"{name}: {graph_against_eager(place, **options)[0]}")
    return "; ".join(shown)


def trial_of_gradients(place: Place) -> str:
    """The gradient record and a weight that is a share of the gradient."""
    options = {
        "logging__gradients": "on",
        "train__objective": "extended",
        "train__loss": {"G_GAN": {"share": 0.2, "smoothing": 0.0}},
    }
    runs = [
        Pix2pixTrainer(place.config(train__cuda_graph=graph, **options)).train(None)
        for graph in (place.graph, "off")
    ]
    # A weight follows from gradients, which differ by rounding: only the raw values are compared.
    raw = [{key: (value, 1.0) for key, (value, _) in losses_of(run).items()} for run in runs]
    shown = agreement(*raw)
    shares = [
        {(int(row["step"]), row["loss"]): float(row["share"]) for row in rows_of(run.gradients)}
        for run in runs
    ]
    must(shares[0].keys() == shares[1].keys(), "the runs recorded other gradients")
    apart = max(abs(shares[0][key] - shares[1][key]) for key in shares[0])
    must(apart < 0.05, f"shares differ by {apart:.3f}")
    last = max(step for step, _ in shares[0])
    share = shares[0][last, "G_GAN"]
    must(abs(share - 0.2) < 0.004, f"the share of G_GAN is {share:.3f} instead of 0.2")
    return f"{shown}, shares by at most {apart:.2g}; G_GAN has {share:.4f} of 0.2"


def trial_of_forking(place: Place) -> str:
    """A fork that changes nothing equals the rest of its parent; with the graph, as all others."""
    options = {
        "common__deterministic": True,
        "save__save_model": True,
        "train__cuda_graph": place.graph,
    }
    parent = Pix2pixTrainer(place.config(**options)).train(None)
    first = parent.list_checkpoints()[0]
    forks = []
    for weights in ({}, {"train__loss": {"G_L1": 10.0}}):
        config = place.config(**options, **weights, train__fork_from=str(first))
        forks.append(losses_of(Pix2pixTrainer(config).train(None)))
    same, other = forks
    rest = {key: value for key, value in losses_of(parent).items() if key in same}
    must(min(step for step, _ in same) == STEPS + 1, "the fork does not start in the second epoch")
    apart = greatest_difference(same, rest)
    must(apart == 0, f"losses of the fork differ from its parent's by {apart:.2g}")
    step = (STEPS + 1, "G_L1")
    must(other[step][1] == 10.0 and other[step][0] == rest[step][0], "the changed fork is wrong")
    return "losses equal to the parent's to the bit; with another weight, from the same state"


def trial_of_regularization(place: Place) -> str:
    """R1 in each step and every second one, clipping, and accumulation."""
    kinds: dict[str, dict[str, Any]] = {
        "R1 each step": {"train__loss": {"D_R1": 10.0}, "train__r1_every_n_steps": 1},
        "R1 every second step": {"train__loss": {"D_R1": 10.0}, "train__r1_every_n_steps": 2},
        "accumulated": {"train__accumulate": 2, "dataloader__drop_last": True},
    }
    shown = [f"{name}: {graph_against_eager(place, **each)[0]}" for name, each in kinds.items()]
    return "; ".join(shown)


def trial_of_image_kinds(place: Place) -> str:
    """Images of 16 bits equal those of 8; 13 bands of floats with masks, from all caches."""
    shown = [_of_wide_images(place)]
    side, rng = 64 if place.small else 256, np.random.default_rng(0)
    root = place.folder / "bands"
    for index in range(PAIRS):
        for folder in (root / "trainA", root / "trainB"):
            folder.mkdir(parents=True, exist_ok=True)
            values = rng.random((side * 5 // 4, side, 13)).astype(np.float32)
            values[: side // 4] = np.nan
            np.save(folder / f"{index}.npy", values)
    load = {"input_nc": 13, "output_nc": 13, "load_size": None, "crop_size": side}
    for cache in ("device", "ram", "off"):
        options = {
            "dataloader__dataroot": str(root),
            "dataloader__load": {**load, "invalid": "mask"},
            "dataloader__cache": cache,
        }
        shown.append(f"13 bands, masks, cache {cache}: {graph_against_eager(place, **options)[0]}")
    return "; ".join(shown)


def _of_wide_images(place: Place) -> str:
    """Trains on the same pairs in 8 bits, and in 16 bits times 257."""
    eight = place.config().dataloader.dataroot
    wide = place.folder / "wide"
    for path in sorted(Path(eight).rglob("*.png")):
        target = (wide / path.relative_to(eight)).with_suffix(".npy")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            np.save(target, np.asarray(image).astype(np.uint16) * 257)
    # Without resizing, which rounds to another number of bits.
    side = 64 if place.small else 256
    options = {"dataloader__load": {"load_size": side, "crop_size": side}}
    runs = [
        Pix2pixTrainer(
            place.config(train__cuda_graph=place.graph, dataloader__dataroot=str(root), **options)
        ).train(None)
        for root in (eight, wide)
    ]
    return f"16 bits against 8: {agreement(*map(losses_of, runs))}"


def trial_of_two_processes(place: Place) -> str:
    """Two processes of one run share a GPU, through gloo, and record what one process does."""
    options = {"common__precision": "fp32", "train__generator__dropout": 0.0}
    directory = torchrun(
        place, 2, {"CUDA_VISIBLE_DEVICES": "0"}, train__cuda_graph="off", **options
    )
    alone = Pix2pixTrainer(place.config(**options, train__cuda_graph="off")).train(None)
    return f"two against one: {agreement(losses_of(directory), losses_of(alone))}"


def trial_of_nccl(place: Place) -> str:
    """A step with the wrappers of several processes, their reductions by NCCL."""
    config = place.config(train__cuda_graph="off", common__precision="fp32")
    with one_process() as world:
        wrapped = losses_of(Pix2pixTrainer(config, world=world).train(None))
    plain = losses_of(Pix2pixTrainer(config).train(None))
    backend = "NCCL" if place.device.type == "cuda" else "gloo"
    return f"{backend}: {agreement(wrapped, plain)}"


def trial_of_a_captured_nccl(place: Place) -> str:
    """The step of several processes in a graph, its sums by NCCL: of this process alone, and of one
    for each GPU if there are several."""
    options: dict[str, Any] = {"common__precision": "fp32", "train__generator__dropout": 0.0}
    plain = losses_of(Pix2pixTrainer(place.config(train__cuda_graph="off", **options)).train(None))
    config = place.config(train__cuda_graph=place.graph, **options)
    with one_process() as world:
        alone = Pix2pixTrainer(config, world=world)
        shown = f"one process: {agreement(losses_of(alone.train(None)), plain)}"
        must(
            place.graph != "on" or alone.graph_obstacle is None,
            f"the step was not captured: {alone.graph_obstacle}",
        )
    count = torch.cuda.device_count() if place.device.type == "cuda" else 1
    # The most that share the batch equally.
    count = max(each for each in range(1, count + 1) if BATCH % each == 0)
    if count == 1:
        return f"{shown}; there are not several GPUs"
    options |= {"train__cuda_graph": "on", "common__device": "cuda"}
    directory = torchrun(place, count, {}, **options)
    return f"{shown}; {count} processes: {agreement(losses_of(directory), plain)}"


def torchrun(
    place: Place, count: int, variables: Mapping[str, str], **options: Any
) -> RunDirectory:
    """Trains a run in several processes."""
    folder = place.folder / f"of {count} processes"
    config = place.config(common__output_directory=str(folder), **options)
    path = place.folder / "several.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={count}", "-m", "nectargan.cli.train", "-c", str(path)]
    done = subprocess.run(  # noqa: S603
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    must(
        done.returncode == 0, f"{count} processes ended with: {(done.stdout + done.stderr)[-1500:]}"
    )
    (directory,) = (RunDirectory(each) for each in folder.glob("*_v1"))
    return directory


@contextmanager
def one_process() -> Iterator[World]:
    """A world of this process alone, connected in the same way as several ones."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    world = Processes(timedelta(minutes=1))
    try:
        yield world
    finally:
        world.close()
        for name in ranks:
            del os.environ[name]


def trial_of_compiling(place: Place) -> str:
    """Compiled networks inside the graph compared with an eager step."""
    if place.device.type == "cpu" and shutil.which("c++") is None:
        raise LeftOutError("there is no C++ compiler")
    if place.device.type == "cuda" and find_spec("triton") is None:
        raise LeftOutError("triton is not installed")
    compiled = Pix2pixTrainer(place.config(train__compile="default", train__cuda_graph=place.graph))
    found = losses_of(compiled.train(None))
    expected = losses_of(Pix2pixTrainer(place.config(train__cuda_graph="off")).train(None))
    # Dropout is drawn from another stream of random numbers: only D's first look is the same.
    first = {key: value for key, value in found.items() if key == (1, "D_real")}
    return agreement(first, {key: expected[key] for key in first})


TRIALS: Mapping[str, Callable[[Place], str]] = {
    "default network, graph against eager": trial_of_default,
    "interrupted and resumed with the graph": trial_of_resuming,
    "a loss that waits for the device": trial_of_a_loss_that_waits,
    "a loss that breaks the capture": trial_of_a_loss_that_breaks,
    "deterministic": trial_of_determinism,
    "fp16": trial_of_fp16,
    "VGG loss": trial_of_vgg,
    "other networks": trial_of_other_networks,
    "gradients and shares": trial_of_gradients,
    "forks": trial_of_forking,
    "R1 and accumulation": trial_of_regularization,
    "16 bits, many channels, masks": trial_of_image_kinds,
    "two processes on one GPU": trial_of_two_processes,
    "NCCL and DistributedDataParallel": trial_of_nccl,
    "NCCL in the graph": trial_of_a_captured_nccl,
    "torch.compile and the graph": trial_of_compiling,
}


def drawn_vgg() -> dict[str, Tensor]:
    """A state dict of VGG19 with random weights that preserve the scale of the activations."""
    state, index, channels, block = {}, 0, 3, "1"
    for layer in LAYERS:
        if layer[4] != block:  # a pooling between two blocks
            index, block = index + 1, layer[4]
        width = 64 * 2 ** min(int(block) - 1, 3)
        weight = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
        state[f"features.{index}.weight"] = weight
        state[f"features.{index}.bias"] = torch.zeros(width)
        index, channels = index + 2, width
    return state


class WaitingLoss(nn.Module):
    """L1 that reads a value from the device."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two images."""
        loss: Tensor = (x - y).abs().mean()
        return loss if loss.item() >= 0 else -loss


class BreakingLoss(nn.Module):
    """L1 that waits for the device in a way that torch does not detect."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two images."""
        if x.is_cuda:
            torch.cuda.synchronize()
        loss: Tensor = (x - y).abs().mean()
        return loss
