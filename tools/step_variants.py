"""The ways to make a training step that `bench_train` compares."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

import nectargan
from nectargan.build import height_and_width
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.interrupts import uninterrupted
from nectargan.losses.lm_data import LMLoss, LossEvent
from nectargan.losses.loss_manager import LossManager
from nectargan.trainers.devices import autocast
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer


def is_installed(name: str) -> bool:
    """Whether there is a package of this name."""
    return find_spec(name) is not None


class Variant(NamedTuple):
    """One way to make a step.

    Attributes:
        record: "none", "csv", "sinks" (TensorBoard and MLflow at their default strides) or "all"
            (every loss of every step to all sinks); "plain" for the loop of this file.
        mode: "eager", "graph" or "compile + graph".
        precision: "fp32" or "bf16".
        batch: Batch size.
    """

    record: str
    mode: str
    precision: str
    batch: int

    def __str__(self) -> str:
        names = {
            "plain": "plain reference loop",
            "none": "our step, no hooks",
            "csv": "with hooks and CSV",
            "sinks": "with all sinks",
            "all": "all sinks, every loss of every step",
        }
        return f"batch {self.batch}, {self.precision}, {self.mode}: {names[self.record]}"


@dataclass
class Setting:
    """What all variants have in common."""

    data: Path
    runs: Path
    size: int
    device: torch.device
    small: bool

    def config(self, variant: Variant, further: Sequence[tuple[str, Any]] = ()) -> Config:
        """The config of a variant: that of facades, on drawn pairs, with ``further`` options."""
        load = {"load_size": self.size * 286 // 256, "crop_size": self.size}
        overrides: list[tuple[str, Any]] = [
            ("common.device", str(self.device)),
            ("common.precision", variant.precision),
            ("dataloader.dataroot", str(self.data)),
            ("dataloader.batch_size", variant.batch),
            ("dataloader.drop_last", True),
            ("dataloader.load", load),
            ("dataloader.augmentations.both.h_flip_chance", 0.5),
            ("train.cuda_graph", "off" if variant.mode == "eager" else "on"),
            ("logging.mlflow.enable", is_installed("mlflow")),
            ("logging.tensorboard.enable", is_installed("tensorboard")),
            ("train.compile", "default" if "compile" in variant.mode else "off"),
        ]
        if self.small:
            overrides.append(("train.generator", {"features": 4, "n_downs": 2}))
            overrides.append(("train.discriminator", {"base_channels": 4, "n_layers": 1}))
        return ConfigManager(None, [*overrides, *further]).data


class Loop:
    """One trainer and its loop, shared by all variants that differ in the record alone: two equal
    trainers may differ by some percent, if only by where their memory lies."""

    def __init__(self, config: Config) -> None:
        self.trainer = Pix2pixTrainer(config)
        self.wait = Stopwatch(self.trainer.device.type == "cuda")
        self.steps = our_steps(self.trainer, self.wait)


class Gate:
    """Stands between a tracker and a manager: lets the tracker see losses in ``with`` blocks."""

    def __init__(self, manager: LossManager) -> None:
        self._manager = manager

    def register_hook(self, fn: Callable[[LossEvent], object]) -> Gate:
        """What a tracker calls."""
        self._fn = fn
        return self

    def get_registered_losses(self, query: Iterable[str] | None = None) -> dict[str, LMLoss]:
        """The manager's."""
        return self._manager.get_registered_losses(query)

    def remove(self) -> None:
        """What a tracker calls in the end; the gate is closed then."""

    def __enter__(self) -> None:
        self._handle = self._manager.register_hook(self._fn)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


class Stepper:
    """A variant that makes steps when it is asked to.

    Args:
        setting: See `Setting`.
        variant: The variant.
        loop: The loop of its mode and precision.

    Attributes:
        waited: Seconds spent waiting for data.
    """

    def __init__(self, setting: Setting, variant: Variant, loop: Loop) -> None:
        self.waited = 0.0
        self._loop = loop
        self._steps = plain_steps(loop.trainer) if variant.record == "plain" else loop.steps
        self._gate: AbstractContextManager[None] = nullcontext()
        self._open = ExitStack()
        if variant.record in ("csv", "sinks", "all"):
            self._gate = gate = Gate(loop.trainer.losses)
            track = nectargan.track
            if variant.record == "all":
                track = functools.partial(
                    track, mlflow_every_n_steps=1, tensorboard_every_n_steps=1
                )
            self._open.enter_context(
                track(
                    gate,
                    setting.runs / str(variant).replace(" ", "_").replace(":", ""),
                    mlflow=variant.record != "csv",
                    tensorboard=variant.record != "csv",
                )
            )

    def step(self) -> None:
        """Makes one step."""
        with self._gate:
            next(self._steps)

    def run(self, count: int) -> None:
        """Makes ``count`` steps and waits for the device."""
        with self._gate:
            for _ in range(count):
                next(self._steps)
        if self._loop.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        self.waited += self._loop.wait.take()

    def close(self) -> float:
        """Ends the record; returns the seconds until every sink had everything."""
        began = time.perf_counter()
        self._open.close()
        return time.perf_counter() - began


class Stopwatch:
    """Time spent in ``with`` blocks, as the device sees it: work queued before does not count."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self._seconds = 0.0
        self._events: list[tuple[Any, ...]] = []

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._cuda:
            self._events.append(
                tuple(torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]
            )
            self._events[-1][0].record()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter() - self._began
        if self._cuda:
            self._events[-1][1].record()

    def take(self) -> float:
        """The sum since the last call; the device must be idle."""
        seconds, self._seconds = self._seconds, 0.0
        if self._cuda:
            pairs, self._events = self._events, []
            seconds = sum(float(begin.elapsed_time(end)) for begin, end in pairs) / 1000
        return seconds


def our_steps(trainer: Pix2pixTrainer, wait: Stopwatch) -> Iterator[None]:
    """The body of `Trainer.train`, a step at a time."""
    step, number, epoch = trainer.make_step(), 0, 0
    while True:
        epoch += 1
        batches = trainer.data.train.epoch(epoch)
        for i in range(1, len(trainer.data.train) + 1):
            with wait:
                source, target = next(batches)
            number += 1
            trainer.losses.start_step(epoch, number, fraction=i / len(trainer.data.train))
            with uninterrupted():
                step(source, target)
            yield


def plain_steps(trainer: Pix2pixTrainer) -> Iterator[None]:
    """Pix2pix as one would write it down: the networks, fused Adam, nothing else.

    D is frozen while G is updated, as in our step; its batches lie on the device from the start.
    """
    g, d, device, config = trainer.generator, trainer.discriminator, trainer.device, trainer.config
    options: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}
    opt_g = torch.optim.Adam(g.parameters(), **options)
    opt_d = torch.optim.Adam(d.parameters(), **options)
    precision, bce = config.common.precision, F.binary_cross_entropy_with_logits
    shape = (
        2,
        config.dataloader.batch_size,
        3,
        *height_and_width(config.dataloader.load.crop_size),
    )
    batches = [torch.rand(shape, device=device) * 2 - 1 for _ in range(4)]
    while True:
        for x, y in batches:
            with autocast(device, precision):
                fake = g(x)
            d.requires_grad_(True)
            with autocast(device, precision):
                real_logits, fake_logits = d(x, y).float(), d(x, fake.detach()).float()
            loss = 0.5 * bce(real_logits, torch.ones_like(real_logits))
            loss = loss + 0.5 * bce(fake_logits, torch.zeros_like(fake_logits))
            opt_d.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            opt_d.step()
            d.requires_grad_(False)
            with autocast(device, precision):
                logits = d(x, fake).float()
            loss = bce(logits, torch.ones_like(logits)) + 100 * F.l1_loss(fake.float(), y)
            opt_g.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            opt_g.step()
            yield


def side_of(config: Config) -> tuple[int, int]:
    return height_and_width(config.dataloader.load.crop_size)
