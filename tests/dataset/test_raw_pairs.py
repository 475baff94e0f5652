"""Pairs of any dtype, of different sizes and with invalid pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nectargan.dataset.augmentations import PairAugmentation
from nectargan.dataset.content import choose_crop, content_of
from nectargan.dataset.crops import crop_flat, crop_images, draw_crops
from nectargan.dataset.loader import PairLoader
from nectargan.dataset.paired_dataset import PairedDataset
from nectargan.dataset.pairs import Pair, find_pairs
from nectargan.dataset.raw_pairs import resized, resized_mask, storage_dtype, with_channels
from nectargan.errors import DataError

CPU = torch.device("cpu")
SIZES = [(40, 33), (32, 64), (50, 50), (37, 90), (33, 32)]
WAYS = [("off", 0), ("off", 2), ("ram", 0), ("disk", 0), ("device", 0)]
DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32")


def write(root: Path, dtype: str = "uint16", holes: bool = False) -> list[Pair]:
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        for side, channels in (("A", 5), ("B", 2)):
            folder = root / f"train{side}"
            folder.mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, 120, (height, width, channels)).astype(dtype)
            if holes and side == "A" and index != 3:
                values[: height - 20, :, 1] = np.nan
            np.save(folder / f"{index}.npy", values)
    return find_pairs(root, "train")


def open_pairs(pairs: list[Pair], dtype: str = "uint16", **options: Any) -> PairedDataset:
    given: dict[str, Any] = {
        "input_nc": 5,
        "output_nc": 2,
        "load_size": None,
        "crop_size": (30, 32),
        "h_flip_chance": 0.5,
        "v_flip_chance": 0.5,
        "seed": 3,
        "dtypes": (dtype, dtype),
        "sizes": SIZES,
    }
    return PairedDataset(pairs, **{**given, **options})


def as_they_are(images: Tensor) -> Tensor:
    return images.float()


def loader_of(data: PairedDataset, cache: Any = "off", workers: int = 0) -> PairLoader:
    encode = (as_they_are, as_they_are)
    return PairLoader(data, 2, CPU, True, cache=cache, num_workers=workers, encode=encode)


def batches(loader: PairLoader, epoch: int, skip: int = 0) -> list[Tensor]:
    return [torch.cat([p.float() for p in batch], 1) for batch in loader.epoch(epoch, skip)]


@given(
    sizes=st.lists(st.tuples(st.integers(4, 9), st.integers(4, 9)), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    turns=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 99),
)
def test_a_crop_of_the_flat_buffer_is_that_of_the_image(
    sizes: list[tuple[int, int]], dtype: str, turns: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(rng.integers(0, 99, (3, *size)).astype(dtype)) for size in sizes]
    shape = (4, 4) if turns else (3, 4)
    sides = np.array(sizes).T
    crops = draw_crops(len(sizes), sides, shape, (0.5, 0.5, turns), (seed,))
    singly = [
        crop_images(image[None], torch.from_numpy(crop[None]), shape)[0]
        for image, crop in zip(images, crops, strict=True)
    ]
    counts = sides.prod(0)
    crops[:, 0] += counts.cumsum() - counts
    flat = torch.from_numpy(np.concatenate([image.numpy().reshape(3, -1) for image in images], 1))
    found = crop_flat(flat, torch.from_numpy(crops), shape)
    assert found.dtype == images[0].dtype
    assert np.array_equal(found.numpy(), np.stack([each.numpy() for each in singly]))


@pytest.mark.parametrize(("cache", "workers"), WAYS)
@pytest.mark.parametrize("masked", [False, True])
def test_crops_of_different_sizes_do_not_depend_on_the_cache(
    tmp_path: Path, cache: str, workers: int, masked: bool
) -> None:
    dtype = "float32" if masked else "uint16"
    data = open_pairs(write(tmp_path, dtype, masked), dtype, masked=masked)
    expected = batches(loader_of(data), 1)
    assert [len(batch) for batch in expected] == [2, 2, 1]
    loader = loader_of(data, cache, workers)
    for epoch in (1, 2):
        expected = batches(loader_of(data), epoch)
        found = batches(loader, epoch)
        assert all(map(torch.equal, found, expected))
        assert all(map(torch.equal, batches(loader, epoch, skip=1), expected[1:]))
    assert not torch.equal(batches(loader, 1)[0], expected[0])


def test_crops_are_parts_of_the_files(tmp_path: Path) -> None:
    pairs = write(tmp_path)
    data = open_pairs(pairs, h_flip_chance=0.0, v_flip_chance=0.0)
    for index, pair in enumerate(pairs):
        source, target = (part.numpy() for part in data[index, 7])
        a, b = (np.load(str(path)).transpose(2, 0, 1) for path in (pair.a, pair.b))
        windows = np.lib.stride_tricks.sliding_window_view(a, source.shape)
        ((_, top, left, *_),) = np.argwhere((windows == source).all((3, 4, 5)))
        assert (target == b[:, top : top + 30, left : left + 32]).all()


def test_validation_sees_the_middle(tmp_path: Path) -> None:
    pairs = write(tmp_path)
    source, _ = open_pairs(pairs, augment=False)[3]
    whole = np.load(str(pairs[3].a)).transpose(2, 0, 1)
    assert (source.numpy() == whole[:, 3:33, 29:61]).all()


def test_an_image_below_the_crop_is_named(tmp_path: Path) -> None:
    pairs = write(tmp_path)
    with pytest.raises(DataError, match=r"4\.npy: the image is 33 x 32 .*smaller than .*34 x 30"):
        open_pairs(pairs, crop_size=(34, 30), sizes=[(40, 40)] * 4 + [(33, 32)])
    with pytest.raises(DataError, match=r"0\.npy: its size has changed"):
        open_pairs(pairs, sizes=[(41, 33), *SIZES[1:]]).decode(0)


def test_invalid_pixels_are_zero_and_a_crop_has_others(tmp_path: Path) -> None:
    data = open_pairs(write(tmp_path, "float32", holes=True), "float32", masked=True)
    plain, chosen = [], []
    for epoch in range(20):
        for index in range(len(data)):
            source, target, mask = data[index, epoch]
            assert not source[:, mask[0] == 0].any()
            assert not target[:, mask[0] == 0].any()
            assert torch.isfinite(source).all()
            chosen.append(float(mask.mean()))
            crop = torch.from_numpy(data._draws(epoch)[0][index : index + 1])
            plain.append(float(crop_images(data.decode(index)[None], crop, (30, 32))[0, -1].mean()))
    assert np.mean(chosen) > np.mean(plain)
    assert min(chosen) > 0
    refusing = open_pairs(data.pairs, "float32")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"0\.npy: it has pixels that are nodata, NaN or infinite"):
        refusing.decode(0)


def test_a_crop_with_content_is_chosen() -> None:
    valid = np.zeros((64, 80), bool)
    valid[:, 48:] = True
    content = content_of(valid)
    left, right = np.array([0, 80, 1]), np.array([48 + 31, 80, -1])  # the second is flipped
    assert choose_crop(content, [left, right], 80, (32, 32)) is right
    assert choose_crop(content, [right, left], 80, (32, 32)) is right
    assert choose_crop(None, [left, right], 80, (32, 32)) is left
    assert content_of(np.ones((4, 4), bool)) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_moves_values_and_bicubic_stays_in_the_type(dtype: str) -> None:
    from PIL import Image

    limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    high = 1000 if dtype.startswith("float") else limits.max
    values = np.random.default_rng(0).choice([0, high], (9, 12, 2)).astype(dtype)
    nearest = resized(values, (20, 7), Image.Resampling.NEAREST)
    assert (nearest.shape, nearest.dtype) == ((20, 7, 2), values.dtype)
    assert set(np.unique(nearest)) <= {0, high}
    bicubic = resized(values, (20, 7), Image.Resampling.BICUBIC)
    assert bicubic.dtype == values.dtype
    # Pillow also rounds and clamps 8 bits between its two passes; these values need no clamping.
    soft = np.random.default_rng(0).integers(100, 120, (9, 12, 1), dtype=np.uint8)
    theirs = Image.fromarray(soft[..., 0]).resize((7, 20), Image.Resampling.BICUBIC)
    ours = resized(soft.astype(dtype), (20, 7), Image.Resampling.BICUBIC)
    assert np.abs(ours[..., 0].astype(float) - np.asarray(theirs)).max() <= 1.5
    valid = np.ones((9, 12), bool)
    valid[4, 5] = False
    mask = resized_mask(valid, (18, 24), Image.Resampling.NEAREST)
    assert (~mask).sum() == 4
    assert not mask[8:10, 10:12].any()


def test_channels_that_cannot_be_converted_are_refused() -> None:
    with pytest.raises(DataError, match=r"a\.tif: it has 5 channels, but .*input_nc is 3"):
        with_channels(np.zeros((2, 2, 5), np.uint16), 3, "a.tif", "input_nc")


def test_one_dtype_holds_all() -> None:
    assert storage_dtype(["uint8", "uint16"]) == np.uint16
    assert storage_dtype(["uint16", "int16"]) == np.float32
    assert storage_dtype(["int8", "uint8"]) == np.int16
    assert storage_dtype(["float16", "uint8"]) == np.float16
    assert storage_dtype(["float16", "int16"]) == np.float32


def test_masks_are_moved_with_their_pixels() -> None:
    both = {"optical_distortion_chance": 1.0, "coarse_dropout_chance": 1.0}
    defaults = {
        "optical_distortion_mode": "camera",
        "optical_distortion_min": 0.3,
        "optical_distortion_max": 0.3,
        **{f"coarse_dropout_{k}": v for k, v in COARSE.items()},
    }
    augment = PairAugmentation({**both, **defaults}, {})
    images, mask = torch.full((2, 3, 32, 32), 0.5), torch.ones(2, 1, 32, 32, dtype=torch.bool)
    source, target, same = augment(images, images, mask)
    assert same.all()
    mask[:, :, :6, :9] = False
    source, target, moved = augment(torch.where(mask, images, 0.0), images, mask)
    assert not torch.equal(moved, mask)
    assert not source.masked_select(~moved).any()
    assert not target.masked_select(~moved).any()


COARSE = {
    "holes_min": 1,
    "holes_max": 1,
    "height_min": 0.1,
    "height_max": 0.1,
    "width_min": 0.1,
    "width_max": 0.1,
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cache", ["ram", "device", "off"])
@pytest.mark.parametrize(("dtype", "holes"), [("uint16", False), ("float32", True)])
def test_a_gpu_gets_the_same_batches(tmp_path: Path, cache: Any, dtype: str, holes: bool) -> None:
    data = open_pairs(write(tmp_path, dtype, holes), dtype, masked=holes)
    encode = (as_they_are, as_they_are)
    loader = PairLoader(data, 2, torch.device("cuda"), True, cache=cache, encode=encode)
    found = [batch.cpu() for batch in batches(loader, 1)]
    assert all(map(torch.equal, found, batches(loader_of(data), 1)))
