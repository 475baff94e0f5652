"""The trainings that `gpu_checks` runs and compares, each in a new process."""

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
    """This machine cannot run the trial; the text says why."""


class BrokenError(Exception):
    """A check has failed."""


@dataclass
class Place:
    """The place and device of the trials.

    Attributes:
        device: The device.
        folder: A folder for data and runs.
        small: Tiny networks and images, to try the tool itself.
    """

    device: torch.device
    folder: Path
    small: bool

    def config(self, **options: Any) -> Config:
        """A config of the default networks at 256 x 256 for two epochs; "__" in a name is a dot."""
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
        """The value of ``train.cuda_graph`` for a trial with a graph."""
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
    "torch.compile and the graph": trial_of_compiling,
}


def graph_against_eager(place: Place, **options: Any) -> tuple[str, RunDirectory]:
    """Trains with and without the graph; returns a comparison and the directory of the first
    run."""
    captured = Pix2pixTrainer(place.config(train__cuda_graph=place.graph, **options))
    directory = captured.train(None)
    must(
        place.graph != "on" or captured.graph_obstacle is None,
        f"the step was not captured: {captured.graph_obstacle}",
    )
    plain = Pix2pixTrainer(place.config(train__cuda_graph="off", **options)).train(None)
    return f"{captured.precision}: {agreement(losses_of(directory), losses_of(plain))}", directory


def agreement(found: Losses, expected: Losses) -> str:
    """Describes the difference between the losses of two runs; raises BrokenError if it is large.

    Algorithms are the fastest ones, which may add in any order, and every update carries on what
    the one before has rounded.
    """
    apart = greatest_difference(found, expected)
    must(apart < 0.1, f"losses differ by {100 * apart:.1f} %")
    return f"losses differ by at most {100 * apart:.2g} %"


def greatest_difference(found: Losses, expected: Losses) -> float:
    """The largest relative difference between losses of two runs, relative to at least 0.1."""
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
    """Reads a CSV file without pandas."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def must(holds: bool, otherwise: str) -> None:
    """Raises BrokenError with a reason if a condition is false."""
    if not holds:
        raise BrokenError(otherwise)


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


class Interrupt:
    """A display that raises KeyboardInterrupt after some steps."""

    def __init__(self, at: int) -> None:
        self._at = at

    def start(self, directory: RunDirectory, epochs: int, steps_per_epoch: int) -> None:
        """Does nothing."""

    def step(self, epoch: int, step: int, losses: Mapping[str, Any]) -> None:
        """Raises KeyboardInterrupt at the given step."""
        if step == self._at:
            raise KeyboardInterrupt

    def epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""


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
