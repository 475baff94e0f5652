"""Trainings that `gpu_checks` makes and compares, each in a process of its own."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.dataset.synthetic import synthesize
from nectargan.errors import RunError
from nectargan.losses.vgg import LAYERS
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

# 9 pairs in batches of 4: the last batch of an epoch is a smaller one.
PAIRS, BATCH = 9, 4
STEPS = 3

Losses = dict[tuple[int, str], tuple[float, float]]


class LeftOutError(Exception):
    """This machine cannot make the trial; the text says why."""


class BrokenError(Exception):
    """Something that must hold does not."""


@dataclass
class Place:
    """Where trials are made.

    Attributes:
        device: The device.
        folder: A folder for data and runs.
        small: Tiny networks and images, to try the tool itself.
    """

    device: torch.device
    folder: Path
    small: bool

    def config(self, **options: Any) -> Config:
        """The default networks at 256 x 256 for two epochs; "__" stands for a dot."""
        size = 64 if self.small else 256
        data = self.folder / "data"
        if not data.exists():
            synthesize(data, train=PAIRS, val=2, size=size, seed=0)
        rate = {"epochs": 1, "epochs_decay": 1}
        given: dict[str, Any] = {
            "common__device": str(self.device),
            "common__output_directory": str(self.folder / "runs"),
            "dataloader__dataroot": str(data),
            "dataloader__batch_size": BATCH,
            "dataloader__load": {"load_size": size * 286 // 256, "crop_size": size},
            "train__generator__learning_rate": rate,
            "save__save_model": False,  # 650 MB each
            "save__model_save_rate": 1,
            "logging__mlflow__enable": False,
            "logging__tensorboard__enable": False,
        }
        if self.small:
            tiny = {"features": 4, "n_downs": 2, "learning_rate": rate}
            given["train__generator"] = tiny
            given["train__discriminator"] = {"base_channels": 4, "n_layers": 1}
        overrides = [(key.replace("__", "."), value) for key, value in (given | options).items()]
        return ConfigManager(None, overrides).data

    @property
    def graph(self) -> str:
        """What ``train.cuda_graph`` is to be where a graph is wanted."""
        return "on" if self.device.type == "cuda" else "auto"


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
    """A run that is interrupted within its second epoch and resumed is one that was not."""
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
    """It is found when warming up, and the run is the eager one."""
    return fall_back(place, WaitingLoss)


def trial_of_a_loss_that_breaks(place: Place) -> str:
    """It passes the warm-up and breaks the capture: the run goes on eagerly, or says what to do."""
    try:
        return fall_back(place, BreakingLoss)
    except RunError as error:
        must("train.cuda_graph=off" in str(error), f"the run ended with: {error}")
        return f"the run ended with: {error}"


def fall_back(place: Place, loss: type[nn.Module]) -> str:
    """Trains with a loss that cannot be captured, under "auto" and eagerly."""
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
    """Two deterministic runs with the graph are equal to the bit."""
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
    """Gradients are scaled within the graph."""
    return graph_against_eager(place, common__precision="fp16")[0]


def trial_of_vgg(place: Place) -> str:
    """The perceptual loss, with drawn weights."""
    path = place.folder / "vgg19.pth"
    torch.save(drawn_vgg(), path)
    options = {"train__objective": "basic+vgg", "train__vgg_weights": str(path)}
    return graph_against_eager(place, **options)[0]


def trial_of_compiling(place: Place) -> str:
    """Compiled networks within the graph against an eager step."""
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
    "torch.compile and the graph": trial_of_compiling,
}


def graph_against_eager(place: Place, **options: Any) -> tuple[str, RunDirectory]:
    """Trains both ways; returns how far they agree, and the directory of the first run."""
    captured = Pix2pixTrainer(place.config(train__cuda_graph=place.graph, **options))
    directory = captured.train(None)
    must(
        place.graph != "on" or captured.graph_obstacle is None,
        f"the step was not captured: {captured.graph_obstacle}",
    )
    plain = Pix2pixTrainer(place.config(train__cuda_graph="off", **options)).train(None)
    return f"{captured.precision}: {agreement(losses_of(directory), losses_of(plain))}", directory


def agreement(found: Losses, expected: Losses) -> str:
    """Says how far the losses of two runs are apart; raises BrokenError if that is too far.

    Algorithms are the fastest ones, which may add in any order, and every update carries on what
    the one before has rounded.
    """
    apart = greatest_difference(found, expected)
    must(apart < 0.1, f"losses differ by {100 * apart:.1f} %")
    return f"losses differ by at most {100 * apart:.2g} %"


def greatest_difference(found: Losses, expected: Losses) -> float:
    """The greatest relative difference of two runs' losses; 0.1 counts as the least size of one."""
    must(found.keys() == expected.keys(), "the runs recorded other losses or steps")
    differences = [0.0]
    for key, (value, weight) in found.items():
        other, other_weight = expected[key]
        must(math.isclose(weight, other_weight, rel_tol=1e-6), f"weights differ at {key}")
        must(math.isfinite(value), f"{key} is {value}")
        differences.append(abs(value - other) / max(abs(other), 0.1))
    return max(differences)


def losses_of(directory: RunDirectory) -> Losses:
    """Raw value and weight of each loss in each step of a run."""
    return {
        (int(row["step"]), row["loss"]): (float(row["raw"]), float(row["weight"]))
        for row in rows_of(directory.losses)
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV file, read without pandas."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def must(holds: bool, otherwise: str) -> None:
    """Raises BrokenError with a reason unless something holds."""
    if not holds:
        raise BrokenError(otherwise)


def drawn_vgg() -> dict[str, Tensor]:
    """A state dict of VGG19's convolutions with random weights that keep the signal's size."""
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


class Interrupt:
    """A display that is interrupted, as by Ctrl-C, after some steps."""

    def __init__(self, at: int) -> None:
        self._at = at

    def start(self, directory: RunDirectory, epochs: int, steps_per_epoch: int) -> None:
        """See `Display`; so are the others."""

    def step(self, epoch: int, step: int, losses: Mapping[str, Any]) -> None:
        """Interrupts."""
        if step == self._at:
            raise KeyboardInterrupt

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class WaitingLoss(nn.Module):
    """L1 that reads a value from the device."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two images."""
        loss: Tensor = (x - y).abs().mean()
        return loss if loss.item() >= 0 else -loss


class BreakingLoss(nn.Module):
    """L1 that waits for the device in a way which torch does not notice."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two images."""
        if x.is_cuda:
            torch.cuda.synchronize()
        loss: Tensor = (x - y).abs().mean()
        return loss
