"""Measuring trained models on a split of a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nectargan.build import height_and_width
from nectargan.build_pairs import encoding_of, open_pairs
from nectargan.dataset.data_check import SplitSummary
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.distributed import ALONE, World
from nectargan.errors import DataError
from nectargan.inference.bootstrap import (
    RESAMPLES,
    Difference,
    Floats,
    counts_of,
    difference,
    draw_samples,
    interval,
    means_of,
)
from nectargan.inference.extremes import Extremes
from nectargan.inference.model import Model
from nectargan.inference.rulers import Ruler
from nectargan.record.test_record import Measured, TestRecord
from nectargan.trainers.devices import seed_of
from nectargan.wording import counted

# Below so many images FID says more of their number than of the model.
_FEW_FOR_FID = 2000
PIX2PIX_SIDE = 256


@dataclass(frozen=True)
class Protocol:
    """How images are generated and compared.

    Attributes:
        size: (height, width) to which images are resized; ``None`` for the size of training.
        dropout: Whether dropout is on; the model must have been loaded so.
        name: "pix2pix", or ``None``.
        seed: Of dropout.
    """

    size: tuple[int, int] | None = None
    dropout: bool = False
    name: str | None = None
    seed: int = 0


@dataclass
class Tested:
    """What was measured of a model.

    Attributes:
        model: The model.
        record: Values and how they were measured.
        names: Names of the pairs.
        values: Of each metric of single images, a value for each, ``(N,)``.
        samples: Of each metric with an interval, its value in each sample of the bootstrap.
        extremes: The images on which it is best and worst.
    """

    model: Model
    record: TestRecord
    names: list[str]
    values: dict[str, Floats] = field(default_factory=dict)
    samples: dict[str, Floats] = field(default_factory=dict)
    extremes: Extremes = field(default_factory=Extremes)


def size_of(model: Model, protocol: Protocol) -> tuple[int, int]:
    """(height, width) of the images that a model is tested on."""
    return protocol.size or height_and_width(model.config.dataloader.load.crop_size)


@torch.no_grad()
def measure(
    model: Model,
    split: SplitSummary,
    ruler: Ruler,
    protocol: Protocol,
    dataset: tuple[str, str],
    batch_size: int = 0,
    advance: Callable[[int], object] = lambda count: None,
    world: World = ALONE,
) -> Tested:
    """Measures a model on a split.

    Args:
        model: The model.
        split: The pairs.
        ruler: The metrics.
        protocol: How images are generated.
        dataset: Name and digest of the data set.
        batch_size: Images at once; 0: as in training. With dropout on, always one.
        advance: Called with the number of images after each batch.
        world: The processes that share the images. What is measured is the same in each, and, with
            dropout off, that of a single process.

    Raises:
        DataError: an image cannot be read, or there are fewer images than processes.
    """
    size = size_of(model, protocol)
    if len(split.pairs) < world.size:
        raise DataError(
            f"{world.size} processes cannot share {counted(len(split.pairs), 'image')}; start "
            "fewer processes."
        )
    part = world.slice_of(len(split.pairs))
    own = replace(split, pairs=split.pairs[part], sizes=split.sizes[part])
    pairs = open_pairs(model.config, own, [split], size=protocol.size)
    # As the paper: one by one, so that what is drawn for an image depends on no other.
    batch = 1 if protocol.dropout else batch_size or model.config.dataloader.batch_size
    values: dict[str, list[Tensor]] = {m.name: [] for m in ruler.metrics if not m.of_set}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {
        m.network: [] for m in ruler.metrics if m.of_set
    }
    extremes = Extremes()
    devices = None if model.device.type == "mps" else [model.device][model.device.type == "cpu" :]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed_of(protocol.seed, world.rank))
        encode = encoding_of(pairs, model.values)
        for source, target, *masks in PairLoader(pairs, batch, model.device, encode=encode).epoch():
            made = model.generate(source).add(1).div(2).clamp(0, 1)
            wanted = target.to(made.device).add(1).div(2)
            for mask in masks:
                made = torch.where(mask, made, wanted)
                _check_valid(mask, pairs, len(extremes))
            # TF32 has three digits; metrics are to be the same on all devices.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                looks = {
                    name: (network.see(made), network.see(wanted))
                    for name, network in ruler.networks.items()
                }
            new = {
                metric.name: metric.measure(*looks.get(metric.network, (made, wanted)), *masks)
                .double()
                .cpu()
                .expand(len(made))
                for metric in ruler.metrics
                if not metric.of_set
            }
            for name, each in new.items():
                values[name].append(each)
            extremes.look(source, made, target, new)
            for name, kept in seen.items():
                kept.append((looks[name][0].cpu(), looks[name][1].cpu()))
            advance(len(made))
    arrays = {name: torch.cat(parts).numpy() for name, parts in values.items()}
    sets = {
        name: (torch.cat([a for a, _ in kept]), torch.cat([b for _, b in kept]))
        for name, kept in seen.items()
    }
    if world.size > 1:
        shared = world.gather((arrays, sets, extremes))
        arrays = {name: np.concatenate([each[0][name] for each in shared]) for name in arrays}
        sets = {
            name: (
                torch.cat([each[1][name][0] for each in shared]),
                torch.cat([each[1][name][1] for each in shared]),
            )
            for name in sets
        }
        extremes = Extremes.joined([each[2] for each in shared])
    tested = _summarized(model, split, ruler, protocol, dataset, size, arrays, sets)
    return replace(tested, extremes=extremes)


def _check_valid(mask: Tensor, pairs: PairedDataset, begin: int) -> None:
    """Raises `DataError` for an image of a batch without a valid pixel, which has no metrics."""
    for place, has_valid in enumerate(mask.flatten(1).any(1).tolist()):
        if not has_valid:
            raise DataError(
                f"{pairs.pairs[begin + place].a}: all pixels are nodata, NaN or infinite."
            )


def _summarized(
    model: Model,
    split: SplitSummary,
    ruler: Ruler,
    protocol: Protocol,
    dataset: tuple[str, str],
    size: tuple[int, int],
    arrays: dict[str, Floats],
    sets: dict[str, tuple[Tensor, Tensor]],
) -> Tested:
    """What was measured, with the intervals of the bootstrap."""
    count = len(split.pairs)
    samples = draw_samples(count)
    measured: dict[str, Measured] = {}
    resampled: dict[str, Floats] = {}
    for metric in ruler.metrics:
        if not metric.of_set:
            value = float(arrays[metric.name].mean())
            resampled[metric.name] = means_of(arrays[metric.name], samples)
        else:
            features = sets[metric.network]
            value = float(metric.function(*features))
            if metric.name == "kid":
                counts = torch.from_numpy(counts_of(samples))
                function: Callable[..., Tensor] = metric.function
                resampled[metric.name] = function(*features, counts).numpy()
        low, high = None, None
        if metric.name in resampled:
            low, high = interval(resampled[metric.name])
        measured[metric.name] = Measured(value, low, high, metric.higher_is_better)
    used = {metric.network for metric in ruler.metrics}
    load = model.config.dataloader.load
    record = TestRecord(
        split=split.split,
        n=count,
        dataset=dataset[0],
        digest=dataset[1],
        checkpoint=model.checkpoint.name if model.checkpoint else None,
        epoch=model.epoch,
        size=size,
        resizer=_resizer(load.resize, "inception" in used),
        format="float32 in [0, 1]" + ("; uint8 for FID and KID" if "inception" in used else ""),
        dropout=protocol.dropout,
        protocol=protocol.name,
        seed=protocol.seed,
        resamples=RESAMPLES,
        weights={n.file: n.digest for name, n in ruler.networks.items() if name in used},
        metrics=measured,
        warnings=_warnings(measured, count),
        time=time.time_ns() // 1_000_000,
    )
    return Tested(model, record, [pair.name for pair in split.pairs], arrays, resampled)


def _resizer(resize: Any, has_inception: bool) -> str:
    names = [resize] if isinstance(resize, str) else list(resize)
    text = f"{' and '.join(dict.fromkeys(names))} (Pillow)"
    return text + ("; bilinear with antialiasing to 299 x 299 for FID and KID" * has_inception)


def _warnings(measured: dict[str, Measured], count: int) -> list[str]:
    if "fid" not in measured or count >= _FEW_FOR_FID:
        return []
    return [
        f"FID of {count} images is biased: compare it only with that of as many images; KID and "
        "LPIPS with their intervals tell more."
    ]


def check_comparable(models: Sequence[Model], protocol: Protocol) -> None:
    """Raises `DataError` unless all models make images of the same kind from the same pairs."""
    first = models[0]

    def kind(model: Model) -> tuple[object, ...]:
        return size_of(model, protocol), model.config.dataloader.direction, model.out_channels

    for model in models[1:]:
        if kind(model) != kind(first):
            told = [
                f"'{each.name}' has size {size_of(each, protocol)}, direction "
                f"{each.config.dataloader.direction} and {each.out_channels} channels"
                for each in (first, model)
            ]
            raise DataError(
                f"The models cannot be compared: {told[0]}; {told[1]} (sizes: give --size)."
            )


def against_best(tested: Sequence[Tested], metric: str) -> list[tuple[Tested, Difference | None]]:
    """The models from the best to the worst, each with its difference to the best one.

    Args:
        tested: The models, on the same images.
        metric: Name of a metric that all of them have.

    Returns:
        The models; ``None`` for the best one, and for metrics without samples.
    """
    is_higher = tested[0].record.metrics[metric].higher_is_better
    order = sorted(tested, key=lambda t: t.record.metrics[metric].value, reverse=is_higher)

    def both(each: Tested) -> tuple[float, Floats]:
        return each.record.metrics[metric].value, each.samples[metric]

    found: list[tuple[Tested, Difference | None]] = [(order[0], None)]
    for each in order[1:]:
        has = metric in each.samples and metric in order[0].samples
        found.append((each, difference(both(each), both(order[0]), is_higher) if has else None))
    return found
