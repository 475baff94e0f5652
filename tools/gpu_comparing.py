"""What the trials of `gpu_checks` share: configs of small runs, and how their losses compare."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.dataset.synthetic import synthesize
from nectargan.record.run_directory import RunDirectory
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
