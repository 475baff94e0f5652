"""`Pix2pixTrainer`: one update of discriminator and generator (Isola et al. 2017)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from nectargan.build import (
    build_balancer,
    build_discriminator,
    build_generator,
    build_losses,
    build_optimizer,
    check_features,
    optimized_parameters,
)
from nectargan.build_data import build_metrics
from nectargan.config.network_options import Discriminator, Generator, OwnNetwork
from nectargan.config.objectives import ADVERSARIAL, PENALTY
from nectargan.config.run_schedules import lr_schedules
from nectargan.config.schema import Config
from nectargan.dataset.loader import Batch, PairLoader
from nectargan.distributed import ALONE, World
from nectargan.losses.losses import FeatureMatchingLoss
from nectargan.losses.masking import (
    WeightedPixels,
    pixel_weights,
    weigh_pixels,
    without_invalid,
)
from nectargan.losses.vgg import VGGPerceptualLoss
from nectargan.runs.resume import Resumption
from nectargan.runs.warm_start import warm_start
from nectargan.scheduling.scheduler_torch import TorchScheduler
from nectargan.trainers.buffers import synchronize_buffers
from nectargan.trainers.captured_step import CapturedStep
from nectargan.trainers.cuda_graphs import CudaGraphs, GraphBackend
from nectargan.trainers.devices import autocast, compiled, memory_format, place
from nectargan.trainers.epoch_files import save_epoch_files
from nectargan.trainers.flat_gradients import FlatGradients
from nectargan.trainers.memory import Need, needed_memory
from nectargan.trainers.trainer import Trainer
from nectargan.trainers.turns import interrupt
from nectargan.trainers.validation import evaluating, validate

Forward = Callable[..., Any]
Part = tuple[Tensor, ...]  # input, target and, if there is a mask, the weights of the pixels
Features = Sequence[Sequence[Tensor]]  # by scale and layer; see `PatchGANDiscriminator.features`


class _Forwards(NamedTuple):
    """The forward passes of a step.

    Attributes:
        generator: Of G.
        discriminator: Of D, for its own update.
        frozen: Of D without a gradient of its weights, for the update of G.
        features: Of the layers of D, likewise.
    """

    generator: Forward
    discriminator: Forward
    frozen: Forward
    features: Forward


class Pix2pixTrainer(Trainer):
    """Trains a generator against a discriminator on pairs of images::

        config = ConfigManager("configs/facades.json").data
        trainer = Pix2pixTrainer(config)
        run_directory = trainer.train()

    Args:
        config: The run; see `Trainer`.
        resumption: A run to go on with.
        graphs: What captures the step.
        world: The processes that train this run together.

    Attributes:
        generator: From ``(N, C, H, W)`` in [-1, 1] to images of the same size.
        discriminator: From two images to logits, or to a list of logits, one for each scale.
        lr_schedulers: Learning rate of each network, by name.
    """

    def __init__(
        self,
        config: Config,
        resumption: Resumption | None = None,
        graphs: GraphBackend | None = None,
        world: World = ALONE,
    ) -> None:
        super().__init__(config, resumption, graphs, world)
        config, train = self.config, self.config.train
        self._autocast = functools.partial(autocast, self.device, self.precision)
        with self.explaining_shortages():
            normed = world.with_synchronized_norms
            self.generator = normed(build_generator(config), "train.generator")
            self.discriminator = normed(build_discriminator(config), "train.discriminator")
            self._build_losses()
            order = memory_format(self.device, self.precision, config.dataloader.batch_size)
            for network in (self.generator, self.discriminator):
                place(network, self.device, order)
            self.metrics = build_metrics(config, self.device)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        if resumption is None and train.fork_from is None:
            warm_start(config, self.networks)
        self._flat: dict[str, FlatGradients] = {}
        self._eager = self._connected_forwards()
        self._compiled: _Forwards | None = None
        if train.compile == "default":
            once = {id(each): compiled(each) for each in self._eager}
            self._compiled = _Forwards(*(once[id(each)] for each in self._eager))

        schedules = lr_schedules(config)
        options: dict[str, Generator | Discriminator] = {
            "generator": train.generator,
            "discriminator": train.discriminator,
        }
        self.optimizers = {
            name: build_optimizer(
                network,
                options[name],
                schedules[name].initial_value,
                capturable=self.graph_obstacle is None,
            )
            for name, network in self.networks.items()
        }
        self._clip_norms = {name: each.optimizer.clip_norm for name, each in options.items()}
        self.lr_schedulers = {
            name: TorchScheduler(self.optimizers[name], schedules[name]) for name in self.networks
        }
        self._part_size = config.dataloader.batch_size // train.accumulate // world.size
        self._penalizes = PENALTY in train.loss
        every = train.r1_every_n_steps
        if self._penalizes and every > 1:
            self.eager_steps = f" (one in {every} eager, for {PENALTY})"

    def _build_losses(self) -> None:
        """Registers the losses, on the device, and the rule that sets their weights. The networks
        are still on the CPU."""
        config = self.config
        self.losses.init_from_spec(build_losses, config)
        balancer = build_balancer(config, self.losses.get_registered_losses())
        self.losses.balancer = None if balancer is None else balancer.to(self.device)
        if self.data.masked:
            weigh_pixels(self.losses.get_registered_losses())
        if self._matches_features():
            check_features(config, self.discriminator)
        for module in self._loss_modules():
            module.to(self.device)
            if isinstance(module, VGGPerceptualLoss):
                # Its network is larger than both that are trained.
                module.autocast = self._autocast

    def _connected_forwards(self) -> _Forwards:
        """The forward passes of a step, in which the processes sum their gradients: wrapped
        networks do so in their backward pass, and a captured step with `FlatGradients`."""
        called, world = self.networks, self.world
        if world is not ALONE and self.graph_obstacle is None:
            self._flat = {name: FlatGradients(each, world) for name, each in called.items()}
        else:
            train = self.config.train
            called = {
                name: world.wrapped(each, isinstance(getattr(train, name), OwnNetwork))
                for name, each in called.items()
            }
        # One's own discriminator may have no features, which are then never asked for.
        features = getattr(self.discriminator, "features", self.discriminator)
        return _Forwards(called["generator"], called["discriminator"], self.discriminator, features)

    def needed_memory(self) -> Need:
        """What both networks take."""
        return needed_memory(self.config, self.precision, self.world.size)

    def on_epoch_start(self, epoch: int) -> Mapping[str, float]:
        """Sets the learning rates of the epoch; returns them. Pictures and histograms of the
        untrained networks come first: step 0 is where trackers open, and bad data shows at once."""
        if epoch == 1:
            with evaluating(self.generator):
                save_epoch_files(self, 0)
        with warnings.catch_warnings():
            # Of a run that is resumed between its last batch and the end of the epoch.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for scheduler in self.lr_schedulers.values():
                # Made, or restored, with the rate of its first epoch.
                if scheduler.last_epoch < epoch - 1:
                    scheduler.step()
        return {
            f"lr/{name}": lr.scheduler.schedule.current_value
            for name, lr in self.lr_schedulers.items()
        }

    def make_step(self) -> Callable[[Tensor, Tensor], object]:
        """`train_step`, captured if it can be."""
        if self.graph_obstacle is not None:
            return self.train_step
        balancers = [] if self.losses.balancer is None else [self.losses.balancer]
        return CapturedStep(
            self.train_step,
            self.losses,
            [*self.networks.values(), *self._loss_modules(), *balancers],
            self.optimizers.values(),
            self.scaler,
            self.config.dataloader.batch_size // self.world.size,
            self.graphs or CudaGraphs(self.device),
            required=self.config.train.cuda_graph == "on",
            on_give_up=self.note_eager_step,
            is_special=self._is_penalty_due if self.eager_steps else lambda: False,
            world=self.world,
        )

    def train_step(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """One update of D, then one of G; every loss goes through the manager."""
        weights = () if mask is None else (pixel_weights(mask, self.world),)
        parts = self._parts_of(source, target, *weights)
        generated = self._update_discriminator(parts)
        self._update_generator(parts, generated)
        self.scaler.update()
        for network in self.networks.values():
            synchronize_buffers(network, self.world)

    def _parts_of(self, *batch: Tensor) -> list[Part]:
        """A batch in equal parts, none of which is larger than those of a whole batch."""
        pairs, most = len(batch[0]), self._part_size
        size = next(size for size in range(min(pairs, most), 0, -1) if pairs % size == 0)
        return list(zip(*(torch.split(each, size) for each in batch), strict=True))

    def _update_discriminator(self, parts: list[Part]) -> Tensor | None:
        """Updates D with real pairs against generated ones, which are cut off from G. Returns what
        was generated, with its gradient; ``None`` if there are several parts, here or in another
        process: all must call their networks in the same order."""
        most = len(parts[0][0]) * len(parts) if self.world.size == 1 else max(self.world.counts)
        is_whole = most <= self._part_size
        compute = self.losses.compute_loss
        self._freeze_discriminator(False)
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        for number, (source, target, *weights) in enumerate(parts, start=1):
            forwards = self._forwards(source)
            with torch.set_grad_enabled(is_whole), self._autocast():
                generated: Tensor = forwards.generator(source)
            with self.world.summing(self._eager.discriminator, sums=number == len(parts)):
                with self._autocast():
                    on_real = forwards.discriminator(source, target)
                    on_fake = forwards.discriminator(
                        source, without_invalid(generated.detach(), *weights)
                    )
                loss = compute("D_real", *_logits(on_real)).mean()
                loss = loss + compute("D_fake", *_logits(on_fake)).mean()
                if self._penalizes and self._is_penalty_due():
                    loss = loss + self._penalty(source, target)
                self._log_balance(_logits(on_real), _logits(on_fake))
                loss = loss if is_whole else loss / len(parts)
                loss = loss if self.world.size == 1 else loss * self.world.part
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        self._update("discriminator")
        return generated if is_whole else None

    def _update_generator(self, parts: list[Part], generated: Tensor | None) -> None:
        """Updates G against the D just updated, frozen so that no gradient is spent on its
        weights."""
        self._freeze_discriminator(True)
        self.optimizers["generator"].zero_grad(set_to_none=True)
        factor = self.world.part / len(parts)
        for number, (source, target, *weights) in enumerate(parts, start=1):
            with self.world.summing(self._eager.generator, sums=number == len(parts)):
                if generated is None:
                    with self._autocast():
                        images = self._forwards(source).generator(source).float()
                else:
                    images = generated.float()
                with self.losses.gradients_at(images, scaler=self.scaler, factor=factor) as fake:
                    self._compute_generator_losses(source, fake, target, *weights)
        self._update("generator")

    def _update(self, name: str) -> None:
        """Updates a network from its gradient, which is clipped before if that is wanted."""
        if name in self._flat:
            self._flat[name].sum()
        optimizer, most = self.optimizers[name], self._clip_norms[name]
        if most is not None:
            self.scaler.unscale_(optimizer)
            norm = clip_grad_norm_(optimized_parameters(optimizer), most)
            self.losses.log_metric(f"gradient_norm/{name}", norm)
        self.scaler.step(optimizer)

    def _is_penalty_due(self) -> bool:
        return self.step % self.config.train.r1_every_n_steps == 0

    def _penalty(self, source: Tensor, target: Tensor) -> Tensor:
        """The weighted loss D_R1. In float32, because its gradient is a second derivative, and not
        compiled, because torch.compile has no second derivatives."""
        pair = [images.detach().float().requires_grad_() for images in (source, target)]
        logits = _logits(self.discriminator(*pair))
        return self.losses.compute_loss(PENALTY, logits, pair).mean()

    def _compute_generator_losses(
        self, source: Tensor, fake: Tensor, target: Tensor, *weights: Tensor
    ) -> None:
        fake = without_invalid(fake, *weights)
        forwards = self._forwards(source)
        of_real: Features = []
        of_fake: Features = []
        with self._autocast():
            if self._matches_features():
                with torch.no_grad():
                    of_real = forwards.features(source, target)
                of_fake = forwards.features(source, fake)
                on_fake = [maps[-1] for maps in of_fake]
            else:
                on_fake = forwards.frozen(source, fake)
        self.losses.compute_loss("G_GAN", *_logits(on_fake))
        for name, entry in self.losses.get_registered_losses().items():
            if name in ADVERSARIAL:
                continue
            matches = isinstance(entry.function, FeatureMatchingLoss)
            inputs = (of_fake, of_real) if matches else (fake, target)
            extra = weights if isinstance(entry.function, WeightedPixels) else ()
            self.losses.compute_loss(name, *inputs, *extra)

    def _freeze_discriminator(self, frozen: bool) -> None:
        for parameter in optimized_parameters(self.optimizers["discriminator"]):
            parameter.requires_grad_(not frozen)

    @torch.no_grad()
    def _log_balance(self, on_real: list[Tensor], on_fake: list[Tensor]) -> None:
        """Logs the mean outputs of D and its accuracy: the fraction of its outputs on the right
        side of the middle between the labels."""
        train = self.config.train
        middle = (1.0 - train.label_smoothing) / 2 if train.gan_mode == "lsgan" else 0.0
        real, fake = (
            on[0] if len(on) == 1 else torch.cat([each.flatten() for each in on])
            for on in (on_real, on_fake)
        )
        self.losses.log_metric("discriminator/real", real)
        self.losses.log_metric("discriminator/fake", fake)
        right = torch.stack([real > middle, fake <= middle])
        self.losses.log_metric("discriminator/accuracy", right.float())

    def _forwards(self, source: Tensor) -> _Forwards:
        """Compiled unless the batch is a smaller one than usual, for which they would have to be
        compiled anew."""
        if self._compiled and len(source) == self._part_size:
            return self._compiled
        return self._eager

    def _matches_features(self) -> bool:
        return any(isinstance(function, FeatureMatchingLoss) for function in self._loss_modules())

    def _loss_modules(self) -> list[nn.Module]:
        functions = [loss.function for loss in self.losses.get_registered_losses().values()]
        return [function for function in functions if isinstance(function, nn.Module)]

    def generate(self, source: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [-1, 1] for inputs alike, in the run's precision."""
        with self._autocast():
            generated: Tensor = self.generator(source)
        return generated

    def on_epoch_end(self, epoch: int) -> Mapping[str, float]:
        """Validates, and makes the pictures and histograms that are due; returns the metrics."""
        metrics: dict[str, float] = {}
        with evaluating(self.generator):
            if self.data.val is not None:
                batches = self._validation_batches(self.data.val)
                metrics = validate(self.generate, batches, self.device, self.metrics, self.world)
                self._note_bests(metrics)  # whether this epoch is the last one depends on it
            save_epoch_files(self, epoch)
        return metrics

    def _validation_batches(self, loader: PairLoader) -> Iterator[Batch]:
        """The part of this process of each validation batch; it may be empty."""
        for turn in self.turns(loader, epoch=0):
            interrupt(self.world, turn.stop)
            own = self.world.counts[self.world.rank] if self.world.size > 1 else turn.pairs
            yield tuple(images[:own] for images in turn.images)

    def on_resume(self) -> None:
        """Sets the learning rates, which follow from the epoch and the config."""
        # The scheduler's first value is that of the epoch at hand, or of the next one.
        begun = self.epoch if self.batch is not None else self.epoch + 1
        for name, scheduler in self.lr_schedulers.items():
            self.lr_schedulers[name] = TorchScheduler(
                self.optimizers[name], scheduler.scheduler.schedule, last_epoch=begun - 2
            )


def _logits(output: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """What a discriminator returned, one tensor for each scale, in full precision."""
    return [each.float() for each in ([output] if isinstance(output, Tensor) else output)]
