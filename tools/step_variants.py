"""The variants of the training step that `bench_train` compares."""

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
from torch import nn
from torch.nn import functional as F

import nectargan
from nectargan.build import height_and_width
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.interrupts import uninterrupted
from nectargan.losses.lm_data import GradientEvent, LMLoss, LossEvent, MetricEvent
from nectargan.losses.loss_manager import LossManager
from nectargan.trainers.devices import autocast
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer


def is_installed(name: str) -> bool:
    """Whether a package with this name is installed."""
    return find_spec(name) is not None


def without_sinks() -> str | None:
    """Why variants with all sinks cannot be measured; ``None`` if they can."""
    missing = [name for name in ("mlflow", "tensorboard") if not is_installed(name)]
    return f"without {' and '.join(missing)}" if missing else None


class Variant(NamedTuple):
    """One variant of the training step.

    Attributes:
        record: "none", "csv", "gradients" (CSV with the gradients of every step), "sinks" (CSV,
            TensorBoard and MLflow with their default strides), "all" (every loss of every step to
            all sinks), or "plain" for `plain_steps`.
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
            "gradients": "with CSV and gradients",
            "sinks": "with all sinks",
            "all": "all sinks, every loss of every step",
        }
        return f"batch {self.batch}, {self.precision}, {self.mode}: {names[self.record]}"

    @property
    def loop(self) -> tuple[str, str, bool]:
        """Variants with equal values share a `Loop`. A step with gradients is another graph."""
        return self.mode, self.precision, self.mode != "eager" and self.record == "gradients"


@dataclass
class Setting:
    """Options that all variants share."""

    data: Path
    runs: Path
    size: int
    device: torch.device
    small: bool

    def config(self, variant: Variant, further: Sequence[tuple[str, Any]] = ()) -> Config:
        """The config of a variant, with ``further`` options."""
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
    """One trainer and its loop, shared by all variants that differ only in the record. The speed of
    two equal trainers can differ by some percent, for example because of memory alignment."""

    def __init__(self, config: Config) -> None:
        self.trainer = Pix2pixTrainer(config)
        self.wait = Stopwatch(self.trainer.device.type == "cuda")
        self.steps = our_steps(self.trainer, self.wait)


class Gate:
    """A stand-in for a manager that passes losses to a tracker only within ``with`` blocks."""

    def __init__(self, manager: LossManager) -> None:
        self._manager = manager
        self._registrations: list[Callable[[], Any]] = []
        self._handles: list[Any] = []

    def register_hook(self, fn: Callable[[LossEvent], object]) -> Gate:
        """Stores a hook of the tracker."""
        return self._keep(functools.partial(self._manager.register_hook, fn))

    def register_metric_hook(self, fn: Callable[[MetricEvent], object]) -> Gate:
        """Stores a hook of the tracker."""
        return self._keep(functools.partial(self._manager.register_metric_hook, fn))

    def register_gradient_hook(
        self, fn: Callable[[GradientEvent], object], every_n_steps: int = 1
    ) -> Gate:
        """Stores a hook of the tracker."""
        register = self._manager.register_gradient_hook
        return self._keep(functools.partial(register, fn, every_n_steps))

    def _keep(self, register: Callable[[], Any]) -> Gate:
        self._registrations.append(register)
        return self

    def get_registered_losses(self, query: Iterable[str] | None = None) -> dict[str, LMLoss]:
        """See `LossManager.get_registered_losses`."""
        return self._manager.get_registered_losses(query)

    def remove(self) -> None:
        """Does nothing: the hooks are removed at the end of each ``with`` block."""

    def __enter__(self) -> None:
        self._handles = [register() for register in self._registrations]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


class Stepper:
    """Runs steps of a variant on request.

    Args:
        setting: See `Setting`.
        variant: The variant.
        loop: The loop for its mode and precision.

    Attributes:
        waited: Seconds spent waiting for data.
    """

    def __init__(self, setting: Setting, variant: Variant, loop: Loop) -> None:
        self.waited = 0.0
        self._loop = loop
        self._steps = plain_steps(loop.trainer) if variant.record == "plain" else loop.steps
        self._gate: AbstractContextManager[None] = nullcontext()
        self._open = ExitStack()
        if variant.record not in ("plain", "none"):
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
                    mlflow=variant.record in ("sinks", "all"),
                    tensorboard=variant.record in ("sinks", "all"),
                    gradients_every_n_steps=1 if variant.record == "gradients" else None,
                )
            )

    def step(self) -> None:
        """Runs one step."""
        with self._gate:
            next(self._steps)

    def run(self, count: int) -> None:
        """Runs ``count`` steps and waits for the device."""
        with self._gate:
            for _ in range(count):
                next(self._steps)
        if self._loop.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        self.waited += self._loop.wait.take()

    def close(self) -> float:
        """Closes the record; returns the seconds until every sink had received everything."""
        began = time.perf_counter()
        self._open.close()
        return time.perf_counter() - began


class Stopwatch:
    """Measures the time in ``with`` blocks. On a GPU, only work queued in the block counts."""

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
        """The seconds since the last call. The device must be idle."""
        seconds, self._seconds = self._seconds, 0.0
        if self._cuda:
            pairs, self._events = self._events, []
            seconds = sum(float(begin.elapsed_time(end)) for begin, end in pairs) / 1000
        return seconds


def our_steps(trainer: Pix2pixTrainer, wait: Stopwatch) -> Iterator[None]:
    """The body of the loop of `Trainer.train`, one step at a time."""
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


def plain_steps(
    trainer: Pix2pixTrainer, wrap: Callable[[nn.Module], nn.Module] = lambda network: network
) -> Iterator[None]:
    """A plain pix2pix loop with the same networks and fused Adam.

    D is frozen while G is updated, as in our step. The batches are on the device from the start.

    Args:
        trainer: The trainer of the networks.
        wrap: Makes what is called of each network, such as `DistributedDataParallel`.
    """
    device, config, frozen = trainer.device, trainer.config, trainer.discriminator
    g, d = wrap(trainer.generator), wrap(frozen)
    options: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}
    opt_g = torch.optim.Adam(g.parameters(), **options)
    opt_d = torch.optim.Adam(d.parameters(), **options)
    precision, bce = config.common.precision, F.binary_cross_entropy_with_logits
    shape = (
        2,
        config.dataloader.batch_size // trainer.world.size,
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
                logits = frozen(x, fake).float()
            loss = bce(logits, torch.ones_like(logits)) + 100 * F.l1_loss(fake.float(), y)
            opt_g.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            opt_g.step()
            yield
