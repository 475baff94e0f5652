"""The only place where a config becomes objects."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nectargan.config.augmentation_options import OwnAugmentation
from nectargan.config.loss_options import LossTerm, ScheduleConfig
from nectargan.config.metric_options import OwnMetric, as_own
from nectargan.config.schema import Config, PatchGAN, Unet
from nectargan.dataset.augmentation import Augmentation
from nectargan.dataset.augmentations import Chosen, PairAugmentation
from nectargan.dataset.cache import choose_place
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import Pair, SplitSummary, check_data, unread_splits
from nectargan.errors import ConfigError, ScheduleError, did_you_mean
from nectargan.imports import call_imported, import_path
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.pix2pix_objective import ADVERSARIAL, objective_weights, pix2pix
from nectargan.losses.vgg import VGGPerceptualLoss
from nectargan.metrics import METRICS, Metric
from nectargan.models.patchgan import PatchGANDiscriminator
from nectargan.models.unet import UnetGenerator
from nectargan.scheduling.data import Schedule
from nectargan.wording import counted, in_short

log = logging.getLogger("nectargan")

# More only wait for each other, and each takes a few hundred MB.
_WORKERS_PER_CORE = 4


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A size of the config as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# --- networks ----------------------------------------------------------------------------------


def build_generator(config: Config) -> UnetGenerator:
    """The generator, checked against ``dataloader.load.crop_size``."""
    options, load = config.train.generator, config.dataloader.load
    generator = UnetGenerator(
        input_nc=load.input_nc,
        output_nc=load.output_nc,
        features=options.features,
        n_downs=options.n_downs,
        block_type=options.block_type,
        upsample_type=options.upsample_type,
        norm=options.norm,
        dropout=options.dropout,
    )
    generator.check_size(*height_and_width(load.crop_size))
    return generator


def build_discriminator(config: Config) -> PatchGANDiscriminator:
    """The discriminator, checked against ``dataloader.load.crop_size``."""
    options, load = config.train.discriminator, config.dataloader.load
    discriminator = PatchGANDiscriminator(
        in_channels=load.input_nc + load.output_nc,
        base_channels=options.base_channels,
        n_layers=options.n_layers,
        max_channels=options.max_channels,
        norm=options.norm,
    )
    discriminator.check_size(*height_and_width(load.crop_size))
    return discriminator


def build_optimizer(
    network: nn.Module, options: Unet | PatchGAN, lr: float, capturable: bool = False
) -> torch.optim.Adam:
    """Adam, fused: one kernel for all parameters instead of several for each.

    Args:
        network: The network, on its device.
        options: Its section of the config.
        lr: Learning rate to begin with.
        capturable: Keep the learning rate on the device as well, for a step that is captured.
    """
    parameters = list(network.parameters())
    return torch.optim.Adam(
        parameters,
        lr=torch.tensor(lr, device=parameters[0].device) if capturable else lr,
        betas=(options.optimizer.beta1, options.optimizer.beta2),
        fused=True,
        capturable=capturable,
    )


def lr_schedules(config: Config) -> dict[str, Schedule]:
    """The learning rate of each network over the epochs.

    Raises:
        ConfigError: a schedule of one's own cannot be imported, or fails in an epoch of the run.
    """
    return {
        name: _usable(rate, f"train.{name}.learning_rate", config.train.epochs, least=0.0)
        for name, rate in _rates(config).items()
    }


def _rates(config: Config) -> dict[str, Schedule]:
    """The learning rates as the config has them: nothing is imported."""
    train = config.train
    shared = train.generator if not train.separate_lr_schedules else train.discriminator
    return {
        "generator": train.generator.learning_rate.build(),
        "discriminator": shared.learning_rate.build(),
    }


def all_schedules(config: Config, imports: bool = True) -> dict[str, Schedule]:
    """Weights and learning rates over the epochs, under the names of their series.

    Args:
        config: The config.
        imports: Whether functions that it names are imported; else their schedules have no values.
    """
    weights, rates = (
        (loss_weights(config), lr_schedules(config))
        if imports
        else (_weights(config), _rates(config))
    )
    return {
        **{f"weight/{name}": weight for name, weight in weights.items()},
        **{f"lr/{name}": rate for name, rate in rates.items()},
    }


def _usable(schedule: Schedule, place: str, epochs: int, least: float = -math.inf) -> Schedule:
    """A schedule that has values; a function of one's own is imported and tried out."""
    if schedule.is_imported:
        return schedule
    schedule = schedule.imported(f"The schedule of {place}")
    times = range(1, epochs + 1)
    try:
        values = {epoch: schedule.value_at(epoch) for epoch in times}
        again = {epoch: schedule.value_at(epoch) for epoch in reversed(times)}
    except ScheduleError as error:
        raise ConfigError(f"{place}: {error}") from error
    for epoch, value in values.items():
        if value < least:
            raise ConfigError(
                f"{place}: schedule '{schedule.name}' returned {value:g} for epoch {epoch}; "
                f"at least {least:g} is allowed."
            )
        if value != again[epoch]:
            raise ConfigError(
                f"{place}: schedule '{schedule.name}' returned {value:g} and then "
                f"{again[epoch]:g} for epoch {epoch}; its value must depend on the epoch alone."
            )
    return schedule


# --- losses ------------------------------------------------------------------------------------


def resolve_losses(config: Config) -> Config:
    """A copy of ``config`` whose ``train.loss`` names every loss of the run with its weight.

    Raises:
        ConfigError: a name in ``train.loss`` is neither the objective's nor a whole term.
    """
    own = objective_weights(config.train.objective)
    everything = objective_weights()
    options: dict[str, Any] = dict(own)
    for name, option in config.train.loss.items():
        is_new_term = isinstance(option, LossTerm) and option.function is not None
        if name not in own and not is_new_term:
            if option == 0 and name in everything:
                continue
            raise ConfigError(_not_a_loss(name, config.train.objective, own, everything))
        if isinstance(option, LossTerm) and option.weight is None:
            option = option.model_copy(update={"weight": own.get(name, 1.0)})
        options[name] = option
    config = config.model_copy(deep=True)
    config.train.loss = options
    return config


def _not_a_loss(
    name: str, objective: str, own: dict[str, float], everything: dict[str, float]
) -> str:
    if name in everything:
        return (
            f"train.loss.{name} has a weight, but objective '{objective}' does not have that loss; "
            "choose another train.objective, or give it a 'function'."
        )
    return (
        f"train.loss.{name} is not a loss of objective '{objective}', and no whole term with a "
        f"'function'.{did_you_mean(name, own)}"
    )


def loss_weights(config: Config) -> dict[str, Schedule]:
    """The weight of every loss of the run over the epochs; builds no loss.

    Raises:
        ConfigError: a schedule of one's own cannot be imported, or fails in an epoch of the run.
    """
    return {
        name: _usable(weight, f"train.loss.{name}", config.train.epochs)
        for name, weight in _weights(config).items()
    }


def _weights(config: Config) -> dict[str, Schedule]:
    """The weights as the config has them: nothing is imported."""
    return {
        name: _schedule(_weight_of(option))
        for name, option in resolve_losses(config).train.loss.items()
    }


def build_losses(config: Config) -> dict[str, LMLoss]:
    """The spec of a run's losses, for `LossManager.init_from_spec`.

    Raises:
        ConfigError: a name or a term in ``train.loss`` cannot be used.
        CheckpointError: the VGG19 weights cannot be had.
    """
    train = config.train
    options = resolve_losses(config).train.loss
    functions = {
        name: _build_function(name, option, config)
        for name, option in options.items()
        if isinstance(option, LossTerm) and option.function is not None
    }
    losses = pix2pix(
        train.objective,
        train.gan_mode,
        train.vgg_weights,
        config.dataloader.load.output_nc,
        functions,
    )
    for name, option in options.items():
        if name not in losses:
            losses[name] = LMLoss(name, functions[name], tags=["G"])
        if isinstance(option, LossTerm) and option.tags is not None:
            losses[name] = replace(losses[name], tags=option.tags)
        weight = _weight_of(option)
        if isinstance(weight, ScheduleConfig):
            schedule = _usable(weight.build(), f"train.loss.{name}", train.epochs)
            losses[name] = replace(losses[name], schedule=schedule)
        else:
            losses[name] = replace(losses[name], loss_weight=weight, schedule=Schedule())
        function = losses[name].function
        if isinstance(function, VGGPerceptualLoss):
            function.check_size(*height_and_width(config.dataloader.load.crop_size))
    return losses


def _weight_of(option: float | ScheduleConfig | LossTerm) -> float | ScheduleConfig:
    if not isinstance(option, LossTerm):
        return option
    return 1.0 if option.weight is None else option.weight


def _build_function(name: str, term: LossTerm, config: Config) -> nn.Module:
    function = _import_module(name, term, config.train.vgg_weights)
    _try_out(name, term, function, config)
    return function


def _try_out(name: str, term: LossTerm, function: nn.Module, config: Config) -> None:
    """Computes a foreign loss once, so that one that cannot be used is found before the run."""
    load = config.dataloader.load
    shape = (1, load.output_nc, *height_and_width(load.crop_size))
    inputs = [torch.rand(shape, requires_grad=True), torch.rand(shape)]
    if name in ADVERSARIAL:
        inputs = [torch.rand(1, 1, 4, 4, requires_grad=True)]
    try:
        value = function(*inputs)
    except Exception as error:
        # Foreign code may raise anything.
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"train.loss.{name}.function '{term.function}' fails on {len(inputs)} tensors of shape "
            f"{tuple(inputs[0].shape)}: {reason}."
        ) from None
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise ConfigError(
            f"train.loss.{name}.function '{term.function}' must return a tensor with a gradient."
        )


def _schedule(weight: float | ScheduleConfig) -> Schedule:
    if isinstance(weight, ScheduleConfig):
        return weight.build()
    return Schedule("constant", initial_value=weight, target_value=weight)


def _import_module(name: str, term: LossTerm, vgg_weights: str | None) -> nn.Module:
    place, path = f"train.loss.{name}", term.function or ""
    found = import_module_class(f"{place}.function", path)
    extra = {"weights": vgg_weights} if getattr(found, "reads_vgg_weights", False) else {}
    module: nn.Module = call_imported(f"{place}.arguments", path, found, term.arguments, extra)
    return module


def import_module_class(place: str, path: str) -> type[nn.Module]:
    """The `nn.Module` class that an import path names; raises `ConfigError`."""
    found = import_path(place, path)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"{place} is '{path}', which is not a torch.nn.Module class.")
    return found


# --- metrics -----------------------------------------------------------------------------------


def build_metrics(config: Config, device: torch.device | None = None) -> list[Metric]:
    """The metrics of validation.

    Args:
        config: The config.
        device: Where modules among them go; the CPU by default.

    Raises:
        ConfigError: one of one's own cannot be imported, refuses its arguments, or does not return
            a tensor ``(N,)`` or a scalar for N images.
    """
    options = [(option, as_own(option)) for option in config.validation.metrics]
    with torch.random.fork_rng(devices=[]):  # what they draw must not change the training
        return [
            METRICS[str(option)] if own is None else _own_metric(own, config, device)
            for option, own in options
        ]


def _own_metric(own: OwnMetric, config: Config, device: torch.device | None) -> Metric:
    place, path = f"The metric '{own.series_name}' of validation.metrics", own.function
    found = import_path(place, path)
    if isinstance(found, type):
        function = call_imported(f"The arguments of {place[4:]}", path, found, own.arguments)
    else:
        function = functools.partial(found, **own.arguments) if callable(found) else None
    if not callable(function):
        raise ConfigError(f"{place} is '{path}', which is no function, nor a class of functions.")
    says = getattr(found, "higher_is_better", own.higher_is_better)
    if says != own.higher_is_better:
        raise ConfigError(
            f"{place} has higher_is_better {own.higher_is_better} in the config, but '{path}' says "
            f"{says}; name it as {{function: {path}, higher_is_better: {str(says).lower()}}}."
        )
    if isinstance(function, nn.Module):
        function = function.to(device or "cpu").eval()
    load = config.dataloader.load
    images = torch.rand((2, load.output_nc, *height_and_width(load.crop_size)), device=device)
    try:
        with torch.no_grad():
            value = function(images, images.flip(0))
    except Exception as error:
        # Foreign code may raise anything.
        raise ConfigError(
            f"{place} fails on two tensors of shape {tuple(images.shape)}: {in_short(error)[:200]}."
        ) from None
    if not isinstance(value, Tensor) or value.shape not in ((2,), ()):
        told = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"{place} returns {told} for 2 images; it must return a tensor (2,).")
    return Metric(own.series_name, function, higher_is_better=own.higher_is_better)


# --- augmentations -----------------------------------------------------------------------------


def build_augmentation(config: Config) -> PairAugmentation:
    """The augmentations of whole batches.

    Raises:
        ConfigError: one of one's own cannot be imported, refuses its arguments, or does not make
            images of the size that it is given.
    """
    sides = config.dataloader.augmentations
    load = config.dataloader.load
    channels = {
        "both": (load.input_nc, load.output_nc),
        "input": (load.input_nc,),
        "target": (load.output_nc,),
    }
    with torch.random.fork_rng(devices=[]):
        own = {
            side: [
                _own_augmentation(f"dataloader.augmentations.{side}.own.{name}", option, shapes)
                for name, option in getattr(sides, side).own.items()
            ]
            for side, counts in channels.items()
            for shapes in ([(2, count, *height_and_width(load.crop_size)) for count in counts],)
        }
    both, input = (side.model_dump(exclude={"own"}) for side in (sides.both, sides.input))
    return PairAugmentation(both, input, load.input_nc, own)


def _own_augmentation(
    place: str, own: OwnAugmentation, shapes: Sequence[tuple[int, ...]]
) -> Chosen:
    path = own.function
    found = import_path(f"{place}.function", path)
    if not (isinstance(found, type) and issubclass(found, Augmentation)):
        raise ConfigError(
            f"{place}.function is '{path}', which is no class derived from "
            "nectargan.dataset.augmentation.Augmentation."
        )
    made = call_imported(f"{place}.arguments", path, found, own.arguments)
    channels = [shape[1] for shape in shapes if shape[1] != 3]
    if made.needs_rgb and channels:
        raise ConfigError(
            f"{place}.function '{path}' works on 3 channels, and an image has {channels[0]}."
        )
    try:
        params = tuple(made.draw(*shapes[0]))
        results = [made.apply(torch.rand(shape), *params) for shape in shapes]
    except Exception as error:
        # Foreign code may raise anything.
        reason = in_short(error)[:200]
        raise ConfigError(
            f"{place}.function '{path}' fails on images {shapes[0]}: {reason}."
        ) from None
    for shape, result in zip(shapes, results, strict=True):
        if not isinstance(result, Tensor) or tuple(result.shape) != shape:
            told = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ConfigError(
                f"{place}.function '{path}' makes {told} of images {shape}; it must make a tensor "
                "of the same shape."
            )
    return Chosen(own.chance, made)


# --- data --------------------------------------------------------------------------------------


def _workers(wanted: int) -> int:
    """``wanted`` worker processes, or as many as this machine can use; batches are the same."""
    most = _WORKERS_PER_CORE * (os.cpu_count() or 1)
    if wanted > most:
        log.warning("dataloader.num_workers is %d; %d are used on this machine.", wanted, most)
    return min(wanted, most)


class Data(NamedTuple):
    """The images of a run.

    Attributes:
        splits: What was found, by split.
        train: The training pairs, augmented.
        val: The validation pairs, if there are any.
        examples: The pairs of the example grids, uint8 ``(C, H, W)`` (input, target).
    """

    splits: dict[str, SplitSummary]
    train: PairLoader
    val: PairLoader | None
    examples: list[tuple[Tensor, Tensor]]


def build_data(config: Config, device: torch.device) -> Data:
    """Checks every image of the data set and opens it.

    Raises:
        ConfigError: no data set is named, or it cannot be validated at this size.
        DataError: what is wrong with the images, all of it.
    """
    options, load = config.dataloader, config.dataloader.load
    if not options.dataroot:
        raise ConfigError("No data set is named; give --data DIR, or dataloader.dataroot.")
    both = options.augmentations.both
    augment = build_augmentation(config)
    splits = check_data(options.dataroot)
    for warning in [
        *unread_splits(options.dataroot),
        *(w for s in splits.values() for w in s.warnings),
    ]:
        log.warning("%s", warning)
    if config.best_by is not None and "val" not in splits:
        by = "save.keep_best" if config.save.keep_best else "logging.mlflow.register_model"
        raise ConfigError(
            f"{by} needs validation images, by which an epoch is the best ({config.best_by}), and "
            f"'{options.dataroot}' has none."
        )
    for series in config.validation.series if "val" in splits else ():
        metric = METRICS.get(series.removeprefix("val/"))
        if metric is not None and min(height_and_width(load.crop_size)) < metric.least_side:
            raise ConfigError(
                f"dataloader.load.crop_size is {load.crop_size}; for validation with "
                f"{metric.name.upper()} each side must be at least {metric.least_side}."
            )

    def dataset(pairs: Sequence[Pair], augmented: bool) -> PairedDataset:
        return PairedDataset(
            pairs,
            direction=options.direction,
            input_nc=load.input_nc,
            output_nc=load.output_nc,
            load_size=load.load_size,
            resize=load.resize,
            crop_size=load.crop_size,
            h_flip_chance=both.h_flip_chance,
            v_flip_chance=both.v_flip_chance,
            rot90_chance=both.rot90_chance,
            seed=config.common.seed,
            augment=augmented,
        )

    train = dataset(splits["train"].pairs, True)
    fixed = dataset(splits["val" if "val" in splits else "train"].pairs, False)
    if options.drop_last and len(train) < options.batch_size:
        raise ConfigError(
            f"dataloader.drop_last is true, and dataloader.batch_size is {options.batch_size} with "
            f"{counted(len(train), 'training pair')}: no batch would be left."
        )
    read: dict[str, Any] = {
        "batch_size": options.batch_size,
        "device": device,
        "cache": choose_place(options.cache, [train, fixed], device),
        "num_workers": _workers(options.num_workers),
        "skip_bad": options.on_bad_image == "skip",
    }
    return Data(
        splits,
        PairLoader(
            train,
            shuffle=True,
            drop_last=options.drop_last,
            augment=augment if augment.enabled else None,
            **read,
        ),
        PairLoader(fixed, **read) if "val" in splits else None,
        examples=[fixed[i] for i in range(min(config.save.num_examples, len(fixed)))],
    )
