"""Builds the data loaders, the augmentations and the validation metrics of a run."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nectargan.build import height_and_width
from nectargan.build_pairs import encoding_of, example_of, open_pairs
from nectargan.build_values import ValueMappings, build_mappings
from nectargan.config.augmentation_options import OwnAugmentation
from nectargan.config.metric_options import OwnMetric, as_own
from nectargan.config.schema import Config
from nectargan.dataset.augmentation import Augmentation
from nectargan.dataset.augmentations import Chosen, PairAugmentation
from nectargan.dataset.cache import choose_place
from nectargan.dataset.data_check import SplitSummary, check_data
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import unread_splits
from nectargan.distributed import ALONE, World
from nectargan.errors import ConfigError
from nectargan.imports import call_imported, import_path
from nectargan.metrics import METRICS, Metric
from nectargan.metrics.networks import MOST_COLORS, load_network
from nectargan.tryout import try_augmentation, try_metric
from nectargan.wording import counted

log = logging.getLogger("nectargan")

# More workers only wait for each other, and each takes a few hundred MB of memory.
_WORKERS_PER_CORE = 4


def build_metrics(config: Config, device: torch.device | None = None) -> list[Metric]:
    """Builds the metrics of validation, in the order of ``validation.metrics``.

    Args:
        config: The config.
        device: Device for metrics that are an `nn.Module`; the CPU by default.

    Raises:
        ConfigError: If a custom metric cannot be imported, rejects its arguments, or does not
            return a tensor ``(N,)`` or a scalar for N images.
        CheckpointError: If the weights of a metric's network cannot be found or downloaded.
    """
    options = [(option, as_own(option)) for option in config.validation.metrics]
    channels = config.dataloader.load.output_nc
    for option, own in options:
        if own is None and METRICS[str(option)].network and channels > MOST_COLORS:
            raise ConfigError(
                f"validation.metrics has {option}, which looks at colors, and "
                f"dataloader.load.output_nc is {channels}; it takes 1 to {MOST_COLORS} channels."
            )
    # A metric may draw random numbers; the training must not depend on that.
    with torch.random.fork_rng(devices=[]):
        return [
            _built_in_metric(str(option), device)
            if own is None
            else _own_metric(own, config, device)
            for option, own in options
        ]


def _built_in_metric(name: str, device: torch.device | None) -> Metric:
    metric = METRICS[name]
    if not metric.network:
        return metric
    see = load_network(metric.network, None, device or torch.device("cpu")).see
    return metric._replace(function=lambda x, y: metric.function(see(x), see(y)))


def _own_metric(own: OwnMetric, config: Config, device: torch.device | None) -> Metric:
    place, load = f"The metric '{own.series_name}' of validation.metrics", config.dataloader.load
    shape = (2, load.output_nc, *height_and_width(load.crop_size))
    metric = build_own_metric(own, place, shape, device)
    if metric.higher_is_better != own.higher_is_better:
        says = metric.higher_is_better
        raise ConfigError(
            f"{place} has higher_is_better {own.higher_is_better} in the config, but "
            f"'{own.function}' says {says}; name it as {{function: {own.function}, "
            f"higher_is_better: {str(says).lower()}}}."
        )
    return metric


def build_own_metric(
    own: OwnMetric, place: str, shape: tuple[int, ...], device: torch.device | None = None
) -> Metric:
    """Builds a custom metric and tries it.

    Args:
        own: The metric.
        place: Where it is named, to begin an error message with: "The metric ...".
        shape: Of the images to try it on, ``(N, C, H, W)``.
        device: See `build_metrics`.

    Returns:
        The metric; its direction is that of the function's attribute ``higher_is_better``, if it
        has one.

    Raises:
        ConfigError: See `build_metrics`.
    """
    path = own.function
    found = import_path(place, path)
    if isinstance(found, type):
        function = call_imported(f"The arguments of {place[4:]}", path, found, own.arguments)
    else:
        function = functools.partial(found, **own.arguments) if callable(found) else None
    if not callable(function):
        raise ConfigError(
            f"{place} is '{path}', which is neither a function nor a class with callable instances."
        )
    if isinstance(function, nn.Module):
        function = function.to(device or "cpu").eval()
    try_metric(place, function, torch.rand(shape, device=device))
    says = getattr(found, "higher_is_better", own.higher_is_better)
    return Metric(own.series_name, function, higher_is_better=says)


def build_augmentation(config: Config) -> PairAugmentation:
    """Builds the augmentations that run on whole batches.

    Raises:
        ConfigError: If a custom augmentation cannot be imported, rejects its arguments, or changes
            the shape of the images.
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
            f"{place}.function is '{path}', which is not a subclass of "
            "nectargan.dataset.augmentation.Augmentation."
        )
    augmentation = call_imported(f"{place}.arguments", path, found, own.arguments)
    channels = [shape[1] for shape in shapes if shape[1] != 3]
    if augmentation.needs_rgb and channels:
        raise ConfigError(
            f"{place}.function '{path}' needs images with 3 channels, but an image has "
            f"{channels[0]}."
        )
    try_augmentation(f"{place}.function '{path}'", augmentation, shapes)
    return Chosen(own.chance, augmentation)


def _workers(wanted: int) -> int:
    """The number of worker processes: ``wanted``, or the most that this machine can use.

    The batches do not depend on it.
    """
    most = _WORKERS_PER_CORE * (os.cpu_count() or 1)
    if wanted > most:
        log.warning("dataloader.num_workers is %d; this machine uses %d.", wanted, most)
    return min(wanted, most)


class Data(NamedTuple):
    """The images of a run.

    Attributes:
        splits: A summary of the images in each split, by the name of the split.
        train: Loader of the training pairs, with augmentation.
        val: Loader of the validation pairs; ``None`` if there are none.
        examples: Pairs (input, target) for the example grids, each ``(C, H, W)``: uint8, or float32
            in [-1, 1] if the files are not plain 8-bit images.
        masked: Whether each batch has a mask.
        values: How the values of the files become those of the networks; ``None`` for plain 8-bit
            images, all of whose values count.
    """

    splits: dict[str, SplitSummary]
    train: PairLoader
    val: PairLoader | None
    examples: list[tuple[Tensor, Tensor]]
    masked: bool = False
    values: ValueMappings | None = None


def build_data(
    config: Config,
    device: torch.device,
    world: World = ALONE,
    known: ValueMappings | None = None,
) -> Data:
    """Checks every image of the data set and builds the loaders.

    Args:
        config: The config.
        device: Device of the batches.
        world: The processes that share each batch. The main one checks the images.
        known: The value mappings of the run that is continued, which are not measured again.

    Raises:
        ConfigError: If no data set is named, or the options do not fit the data set.
        DataError: If images cannot be used; the message lists every problem.
    """
    options, load = config.dataloader, config.dataloader.load
    if not options.dataroot:
        raise ConfigError("No data set is named; give --data DIR or set dataloader.dataroot.")
    augment = build_augmentation(config)
    channels = options.channels_of_sides
    ranged = (load.input_range != "dtype", load.target_range != "dtype")
    counts = (load.input_nc, load.output_nc)
    if options.direction == "BtoA":
        ranged, counts = ranged[::-1], counts[::-1]
    splits = world.from_main(
        lambda: check_data(options.dataroot, selections=channels, have_ranges=ranged, counts=counts)
    )
    for warning in [
        *unread_splits(options.dataroot),
        *(w for s in splits.values() for w in s.warnings),
    ]:
        log.warning("%s", warning)
    if config.best_by is not None and "val" not in splits:
        by = "save.keep_best" if config.save.keep_best else "logging.mlflow.register_model"
        raise ConfigError(
            f"{by} needs validation images to find the best epoch by {config.best_by}, but "
            f"'{options.dataroot}' has none."
        )
    if config.train.stop is not None and "val" not in splits:
        raise ConfigError(
            f"train.stop needs validation images to measure {config.train.stop.metric}, but "
            f"'{options.dataroot}' has none."
        )
    for series in config.validation.series if "val" in splits else ():
        metric = METRICS.get(series.removeprefix("val/"))
        if metric is not None and min(height_and_width(load.crop_size)) < metric.least_side:
            raise ConfigError(
                f"dataloader.load.crop_size is {load.crop_size}; for validation with "
                f"{metric.name.upper()} each side must be at least {metric.least_side}."
            )

    train = open_pairs(config, splits["train"], splits.values(), augment=True)
    fixed_split = splits["val" if "val" in splits else "train"]
    fixed = open_pairs(config, fixed_split, splits.values())
    _check_compression(config, train)
    input_dtype, target_dtype = train.dtypes
    values = known or world.from_main(
        lambda: build_mappings(config, train.pairs, (input_dtype, target_dtype))
    )
    encode = encoding_of(train, values)
    if options.drop_last and len(train) < options.batch_size:
        raise ConfigError(
            f"dataloader.drop_last is true, and dataloader.batch_size is {options.batch_size} with "
            f"{counted(len(train), 'training pair')}: no batch would be left."
        )
    read: dict[str, Any] = {
        "batch_size": options.batch_size,
        "device": device,
        "cache": world.from_main(
            lambda: choose_place(options.cache, [train, fixed], device, world.local_size)
        ),
        "num_workers": _workers(options.num_workers),
        "skip_bad": options.on_bad_image == "skip",
        "world": world,
        "encode": encode,
    }
    shown = range(min(config.save.num_examples, len(fixed)))
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
        examples=[example_of(fixed[i], encode) for i in shown],
        masked=train.masked,
        values=None if encode is None else values,
    )


def _check_compression(config: Config, dataset: PairedDataset) -> None:
    # The fields are made from the registry of augmentations, which mypy does not read.
    chance = config.dataloader.augmentations.input.compression_chance  # type: ignore[attr-defined]
    if chance > 0 and dataset.dtypes[0] != np.uint8:
        raise ConfigError(
            f"dataloader.augmentations.input.compression_chance is {chance:g}, but the values of "
            f"the input are {dataset.dtypes[0]}; JPEG compression is for images of 8 bits."
        )
