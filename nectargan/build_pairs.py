"""Opens the pairs of a split as a config and the files of the data set ask for it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from nectargan.build_values import ValueMappings
from nectargan.config.schema import Config
from nectargan.dataset.data_check import SplitSummary, dtypes_of
from nectargan.dataset.loader import Encode
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.raw_pairs import check_channels
from nectargan.errors import DataError
from nectargan.images.mapping import ValueMapping


def encoding_of(
    dataset: PairedDataset, values: ValueMappings | None
) -> tuple[Encode, Encode] | None:
    """The functions that map the values of input and of target to [-1, 1], see `PairLoader`.

    Args:
        dataset: The pairs.
        values: The value mappings; ``None`` for those of plain 8-bit images. In place of these, the
            whole range of the dtype is used for other images.
    """
    plain = ValueMapping.of_dtype(np.uint8)
    mappings = values or (plain, plain)
    if dataset.is_plain and all(each.is_of_8_bits for each in mappings):
        return None
    of_input, of_target = (
        ValueMapping.of_dtype(dtype) if each.is_of_8_bits else each
        for each, dtype in zip(mappings, dataset.dtypes, strict=True)
    )
    return of_input.encode, of_target.encode


def open_pairs(
    config: Config,
    split: SplitSummary,
    splits: Iterable[SplitSummary],
    augment: bool = False,
    size: tuple[int, int] | None = None,
) -> PairedDataset:
    """The pairs of a split, as a run reads them.

    Args:
        config: The config.
        split: The split.
        splits: All splits that are read, whose files determine the dtype of the images.
        augment: Whether to crop, flip and rotate randomly.
        size: (height, width) to which images are resized without cropping; by default as the config
            says.

    Raises:
        DataError: If the options do not fit the images, or there are invalid pixels, which
            ``dataloader.load.invalid`` does not allow.
    """
    splits = list(splits)
    _check_channels(config, splits)
    masked = _is_masked(config, splits)
    options, load, both = (
        config.dataloader,
        config.dataloader.load,
        config.dataloader.augmentations.both,
    )
    selections = (load.input_channels, load.target_channels)
    many = max(load.input_nc, load.output_nc) > 4
    dtypes = None
    if many or masked or selections != (None, None) or not all(each.is_plain for each in splits):
        a, b = dtypes_of(*zip(*(each.dtypes for each in splits), strict=True))
        dtypes = (a, b) if options.direction == "AtoB" else (b, a)
    return PairedDataset(
        split.pairs,
        direction=options.direction,
        input_nc=load.input_nc,
        output_nc=load.output_nc,
        load_size=size or load.load_size,
        resize=load.resize,
        crop_size=size or load.crop_size,
        h_flip_chance=both.h_flip_chance,
        v_flip_chance=both.v_flip_chance,
        rot90_chance=both.rot90_chance,
        seed=config.common.seed,
        augment=augment,
        dtypes=dtypes,
        masked=masked,
        sizes=split.sizes,
        selections=selections,
    )


def _check_channels(config: Config, splits: Iterable[SplitSummary]) -> None:
    """Raises `DataError` for the first file whose channels cannot be converted."""
    load = config.dataloader.load
    options = [("input_nc", load.input_nc), ("output_nc", load.output_nc)]
    if config.dataloader.direction == "BtoA":
        options.reverse()
    for split in splits:
        for (option, wanted), files in zip(options, split.channels, strict=True):
            for count, path in files.items():
                check_channels(count, wanted, path, option)


def _is_masked(config: Config, splits: Iterable[SplitSummary]) -> bool:
    """Whether there are invalid pixels; raises `DataError` if they are not allowed."""
    found = next((split.invalid for split in splits if split.invalid), "")
    if found and config.dataloader.load.invalid == "refuse":
        raise DataError(
            f"{found}: it has pixels that are nodata, NaN or infinite; set dataloader.load.invalid "
            "to 'mask' to leave them out of losses and metrics."
        )
    return bool(found)


def example_of(
    images: tuple[Tensor, ...], encode: tuple[Encode, Encode] | None
) -> tuple[Tensor, Tensor]:
    """Input and target for a picture, uint8 or float32 in [-1, 1].

    Args:
        images: An item of a `PairedDataset`.
        encode: The functions of `encoding_of`.
    """
    if encode is None:
        return images[0], images[1]
    source, target = (each(image[None])[0] for each, image in zip(encode, images, strict=False))
    for mask in images[2:]:
        source, target = (torch.where(mask != 0, each, 0.0) for each in (source, target))
    return source, target
