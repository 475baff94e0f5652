"""The only place where a config becomes objects."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nectargan.config.augmentation_options import OwnAugmentation
from nectargan.config.loss_options import LossTerm, ScheduleConfig, weight_of
from nectargan.config.metric_options import OwnMetric, as_own
from nectargan.config.network_options import Discriminator, Generator, OwnNetwork
from nectargan.config.objectives import ADVERSARIAL, OPTIONAL
from nectargan.config.schedules import usable
from nectargan.config.schema import Config
from nectargan.dataset.augmentation import Augmentation
from nectargan.dataset.augmentations import Chosen, PairAugmentation
from nectargan.dataset.cache import choose_place
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import Pair, SplitSummary, check_data, unread_splits
from nectargan.errors import ConfigError
from nectargan.imports import call_imported, import_path
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.losses import FeatureMatchingLoss
from nectargan.losses.pix2pix_objective import pix2pix
from nectargan.losses.vgg import VGGPerceptualLoss
from nectargan.metrics import METRICS, Metric
from nectargan.models.registry import DISCRIMINATORS, GENERATORS
from nectargan.scheduling.data import Schedule
from nectargan.tryout import try_discriminator, try_features, try_generator, try_loss
from nectargan.wording import counted, in_short

log = logging.getLogger("nectargan")

# More only wait for each other, and each takes a few hundred MB.
_WORKERS_PER_CORE = 4


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A size of the config as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# --- networks ----------------------------------------------------------------------------------


def build_generator(config: Config) -> nn.Module:
    """The generator, checked against the sizes in ``dataloader``.

    Raises:
        ModelError: it cannot take images of that size.
        ConfigError: it is one's own and cannot be imported, built or used.
    """
    options, load = config.train.generator, config.dataloader.load
    channels = {"input_nc": load.input_nc, "output_nc": load.output_nc}
    if isinstance(options, OwnNetwork):
        own = _own_network("train.generator", options, channels)
        try_generator(_place("generator", options), own, _shape(config), load.output_nc)
        return own
    return _checked(GENERATORS[options.name](**channels, **options.options()), config)


def build_discriminator(config: Config) -> nn.Module:
    """The discriminator, checked against the sizes in ``dataloader``; raises what
    `build_generator` does."""
    options, load = config.train.discriminator, config.dataloader.load
    channels = {"in_channels": load.input_nc + load.output_nc}
    if isinstance(options, OwnNetwork):
        own = _own_network("train.discriminator", options, channels)
        try_discriminator(_place("discriminator", options), own, _shape(config), load.output_nc)
        return own
    return _checked(DISCRIMINATORS[options.name](**channels, **options.options()), config)


def check_features(config: Config, discriminator: nn.Module) -> None:
    """Raises `ConfigError` unless the discriminator, on the CPU, makes features to be matched."""
    options = config.train.discriminator
    if isinstance(options, OwnNetwork):
        channels = config.dataloader.load.output_nc
        try_features(_place("discriminator", options), discriminator, _shape(config), channels)


def _checked(network: nn.Module, config: Config) -> nn.Module:
    height, width = height_and_width(config.dataloader.load.crop_size)
    network.check_size(height, width)  # type: ignore[operator]
    return network


def _own_network(place: str, options: OwnNetwork, channels: dict[str, int]) -> nn.Module:
    found = import_module_class(f"{place}.function", options.function)
    taken = inspect.signature(found).parameters
    extra = {name: count for name, count in channels.items() if name in taken}
    network: nn.Module = call_imported(
        f"{place}.arguments", options.function, found, options.arguments, extra
    )
    return network


def _place(network: str, options: OwnNetwork) -> str:
    return f"train.{network}.function '{options.function}'"


def _shape(config: Config) -> tuple[int, int, int, int]:
    """Of a batch to try a network on: of two images where the run has more than one, since a batch
    norm may need them."""
    load = config.dataloader.load
    batch = min(config.dataloader.batch_size, 2)
    return batch, load.input_nc, *height_and_width(load.crop_size)


def build_optimizer(
    network: nn.Module, options: Generator | Discriminator, lr: float, capturable: bool = False
) -> torch.optim.Adam:
    """Adam, fused: one kernel for all parameters instead of several for each.

    Args:
        network: The network, on its device.
        options: Its section of the config.
        lr: Learning rate to begin with.
        capturable: Keep the learning rate on the device as well, for a step that is captured.
    """
    # What a network of one's own has frozen stays so.
    parameters = [each for each in network.parameters() if each.requires_grad]
    return torch.optim.Adam(
        parameters,
        lr=torch.tensor(lr, device=parameters[0].device) if capturable else lr,
        betas=(options.optimizer.beta1, options.optimizer.beta2),
        fused=True,
        capturable=capturable,
    )


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that an optimiser updates, in the order of its state."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# --- losses ------------------------------------------------------------------------------------


def build_losses(config: Config) -> dict[str, LMLoss]:
    """The spec of a run's losses, for `LossManager.init_from_spec`.

    Raises:
        ConfigError: a term in ``train.loss`` cannot be used.
        CheckpointError: the VGG19 weights cannot be had.
    """
    train = config.train
    options = train.loss
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
        [name for name in OPTIONAL if name in options and name not in functions],
    )
    for name, option in options.items():
        if name not in losses:
            losses[name] = LMLoss(name, functions[name], tags=["G"])
        if isinstance(option, LossTerm) and option.tags is not None:
            losses[name] = replace(losses[name], tags=option.tags)
        weight = weight_of(option)
        if isinstance(weight, ScheduleConfig):
            schedule = usable(weight.build(), f"train.loss.{name}", train.epochs)
            losses[name] = replace(losses[name], schedule=schedule)
        else:
            losses[name] = replace(losses[name], loss_weight=weight, schedule=Schedule())
        function = losses[name].function
        if isinstance(function, VGGPerceptualLoss):
            function.check_size(*height_and_width(config.dataloader.load.crop_size))
    return losses


def _build_function(name: str, term: LossTerm, config: Config) -> nn.Module:
    function = _import_module(name, term, config.train.vgg_weights)
    load = config.dataloader.load
    shape = (1, load.output_nc, *height_and_width(load.crop_size))
    inputs: list[Any] = [torch.rand(shape, requires_grad=True), torch.rand(shape)]
    if isinstance(function, FeatureMatchingLoss):
        inputs = [[[images, images]] for images in inputs]  # one scale of one layer, and logits
    elif name in ADVERSARIAL:
        inputs = [torch.rand(1, 1, 4, 4, requires_grad=True)]
    try_loss(f"train.loss.{name}.function '{term.function}'", function, inputs)
    return function


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
    of_input, of_target = [load.resize] * 2 if isinstance(load.resize, str) else load.resize
    nearest = (of_input == "nearest", of_target == "nearest")
    return PairAugmentation(both, input, load.input_nc, own, nearest)


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
