"""`nectargan data check` finds what is planted, and nothing in a good data set."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nectargan.dataset.copies import close_hashes, links_of_copies
from nectargan.dataset.examination import inspect
from nectargan.dataset.inspection import MEASUREMENTS
from nectargan.dataset.pairs import find_pairs, list_splits
from nectargan.dataset.suspicions import Suspicion, suspicions
from nectargan.dataset.synthetic import synthesize

ORIENTATION = 274


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 + 4 good pairs in two folders for each split."""
    root = tmp_path_factory.mktemp("drawn")
    synthesize(root / "wide", train=24, val=4, size=128, seed=3)
    for split in ("train", "val"):
        for side in "AB":
            (root / "good" / f"{split}{side}").mkdir(parents=True)
        for path in (root / "wide" / split).iterdir():
            with Image.open(path) as image:
                for side, box in (("A", (0, 0, 128, 128)), ("B", (128, 0, 256, 128))):
                    image.crop(box).save(root / "good" / f"{split}{side}" / path.name)
    return root / "good"


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def found_in(root: Path) -> list[Suspicion]:
    pairs = {split: find_pairs(root, split) for split in list_splits(root)}
    return list(suspicions(pairs, inspect([pair for each in pairs.values() for pair in each])))


def change(path: Path, by: Callable[[Image.Image], Image.Image]) -> None:
    with Image.open(path) as image:
        image.load()
    by(image).save(path)


def test_a_good_data_set(root: Path) -> None:
    assert found_in(root) == []


def moved(down: int, right: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: Image.fromarray(np.roll(np.asarray(image), (down, right), (0, 1)))


def test_misaligned_pairs_with_their_shift_and_worst_first(root: Path) -> None:
    files = sorted((root / "trainB").iterdir())
    change(files[2], moved(-6, 0))
    change(files[5], moved(4, 12))
    found = found_in(root)
    assert [each.kind for each in found] == ["misaligned"] * 2
    assert [Path(each.files[1]).name for each in found] == [files[5].name, files[2].name]
    shifts = [re.findall(r"[+-]\d+", each.figure) for each in found]
    wanted = [(-4, -12), (6, 0)]
    for shift, right in zip(shifts, wanted, strict=True):
        assert [int(value) for value in shift] == pytest.approx(right, abs=1)


def test_copies_within_a_split_and_across_splits(root: Path) -> None:
    train, val = (sorted((root / f"{split}A").iterdir()) for split in ("train", "val"))
    for side in "AB":
        for source, target in ((train[0], root / "valA" / "leak.png"), (train[1], train[2])):
            shutil.copy(
                source.parent.with_name(source.parent.name[:-1] + side) / source.name,
                target.parent.with_name(target.parent.name[:-1] + side) / target.name,
            )
    # A copy that is not equal: a little darker and resized twice.
    change(
        root / "valB" / "leak.png",
        lambda image: image.resize((90, 90)).resize((128, 128)).point(lambda v: v * 0.9),
    )
    assert len(val) == 4
    found = found_in(root)
    assert [(each.kind, [Path(f).name for f in each.files]) for each in found] == [
        ("leak", [train[0].name, "leak.png"]),
        ("duplicate", [train[1].name, train[2].name]),
    ]


def saved_as_jpeg(root: Path) -> None:
    for path in (root / "trainA").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=75)
        path.unlink()


def in_16_bits(path: Path) -> None:
    with Image.open(path) as image:
        values = np.asarray(image.convert("L"), np.uint16)
    Image.fromarray(values * 257).save(path)


def swap(root: Path, name: str) -> None:
    a, b = root / "trainA" / name, root / "trainB" / name
    a.rename(root / "x.png")
    b.rename(a)
    (root / "x.png").rename(b)


def rotate(path: Path) -> None:
    with Image.open(path) as image:
        exif = image.getexif()
        exif[ORIENTATION] = 3
        image.rotate(180).save(path, exif=exif)


@pytest.mark.parametrize(
    ("kind", "plant", "figure"),
    [
        ("empty", lambda r: Image.new("RGB", (128, 128), "gray").save(r / "trainB" / "0003.png"),
         "its brightness has a standard deviation of 0.0 %"),
        ("swapped", lambda r: swap(r, "0003.png"), "B is a label map; in 27 pairs A is"),
        ("8 bits in 16", lambda r: in_16_bits(r / "trainB" / "0003.png"), "of which 8 are used"),
        ("orientation", lambda r: rotate(r / "trainB" / "0003.png"), "A is 1, that of B is 3"),
        ("channels", lambda r: change(r / "trainB" / "0003.png", lambda i: i.convert("L")),
         "1 channel, most have 3"),
        ("brightness", lambda r: change(r / "trainB" / "0003.png",
                                        lambda i: i.point(lambda v: v * 0.12)), "mean brightness"),
        ("compressed labels", saved_as_jpeg, "colors, but "),
        ("size", lambda r: [change(r / f"train{s}" / "0003.png",
                                   lambda i: i.resize((300, 300))) for s in "AB"],
         "300 x 300 pixels, most are near 128 x 128"),
    ],
)  # fmt: skip
def test_a_planted_fault(
    root: Path, kind: str, plant: Callable[[Path], object], figure: str
) -> None:
    plant(root)
    found = found_in(root)
    matching = [each for each in found if each.kind == kind]
    assert matching, [str(each) for each in found]
    assert figure in matching[0].figure
    if kind == "compressed labels":
        assert len(matching) == 24
    else:
        assert {Path(f.split(" (")[0]).name for each in matching for f in each.files} == {
            "0003.png"
        }


@given(
    st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 2), min_size=2, max_size=12),
    st.integers(0, 8),
    st.randoms(),
)
def test_close_hashes_are_those_that_a_full_search_finds(
    rows: list[tuple[int, int]], bits: int, random: object
) -> None:
    flips = [1 << i for i in range(0, 63, 9)]
    rows = rows + [(a ^ sum(flips[: i % 8]), b) for i, (a, b) in enumerate(rows)]
    hashes = np.array(rows, np.uint64)
    wanted = {
        (i, j, (rows[i][0] ^ rows[j][0]).bit_count() + (rows[i][1] ^ rows[j][1]).bit_count())
        for j in range(len(rows))
        for i in range(j)
    }
    assert found_close(hashes, bits) == {each for each in wanted if each[2] <= bits}


def found_close(hashes: NDArray[np.uint64], bits: int) -> set[tuple[int, int, int]]:
    found = close_hashes(hashes, bits, most_links=len(hashes) * 8)
    rows = [
        row for a, b, d in found for row in zip(*map(np.ndarray.tolist, (a, b, d)), strict=True)
    ]
    return {(min(i, j), max(i, j), distance) for i, j, distance in rows}


def test_many_copies_of_a_picture_are_one_finding_less_than_copies(root: Path) -> None:
    first, *others = sorted((root / "trainA").iterdir())[:6]
    for each in others:
        for side in "AB":
            shutil.copy(root / f"train{side}" / first.name, root / f"train{side}" / each.name)
            shutil.copy(root / f"train{side}" / first.name, root / f"val{side}" / "leak.png")
    found = [(each.kind, Path(each.files[0]).name) for each in found_in(root)]
    assert found == [("leak", first.name)] + [("duplicate", first.name)] * 5


def test_a_large_bucket_is_searched_in_the_order_of_its_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nectargan.dataset.copies._AHEAD", 2)
    monkeypatch.setattr("nectargan.dataset.copies._BLOCK", 16)
    hashes = np.zeros((100, 2), np.uint64)
    hashes[:, 0] = np.random.default_rng(0).integers(0, 2**40, 100)  # half of the bands are equal
    hashes[99] = hashes[3]
    assert (3, 99, 0) in found_close(hashes, 6)


@pytest.mark.parametrize("buffer", [1, 1 << 18])
def test_links_connect_all_copies_and_those_across_splits_come_first(
    monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    monkeypatch.setattr("nectargan.dataset.copies._LEAST_BUFFER", buffer)
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 2**64, (40, 2), np.uint64)
    noise = np.uint64(1) << rng.integers(0, 64, (1000, 2), np.uint64)
    measured = np.zeros(1000, MEASUREMENTS)
    measured["deviation"] = 1
    measured["hash"] = np.repeat(scenes, 25, axis=0) ^ noise
    splits = (np.arange(1000) % 5 == 0).astype(np.uint8)
    links = list(links_of_copies(measured, splits, 0.02))
    assert len(links) == 40 * 24
    groups: dict[int, set[int]] = {}
    for i, j, bits in links:
        assert i < j
        assert i // 25 == j // 25
        assert bits == sum(
            int(a ^ b).bit_count()
            for a, b in zip(measured["hash"][i], measured["hash"][j], strict=True)
        )
        groups.setdefault(i // 25, set()).update((i, j))
    assert {len(group) for group in groups.values()} == {25}
    is_within = [bool(splits[i] == splits[j]) for i, j, _ in links]
    assert is_within == sorted(is_within)


def sky(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Twelve stars on black, with noise of the camera."""
    values = rng.integers(0, 4, (128, 128, 3), np.uint8)
    for row, column in rng.integers(4, 124, (12, 2)):
        values[row - 3 : row + 3, column - 3 : column + 3] = rng.integers(120, 255, 3)
    return np.asarray(Image.fromarray(values).filter(ImageFilter.GaussianBlur(1.2)))


def drawing(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Gray lines on white paper."""
    coarse = rng.integers(0, 256, (16, 16), np.uint8)
    smooth = Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC)
    edges = np.hypot(*np.gradient(np.asarray(smooth, np.float32)))
    return (255 - edges * 9).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", [sky, drawing])
def test_few_bright_or_dark_pixels_are_neither_empty_nor_label_maps(
    tmp_path: Path, kind: Callable[[np.random.Generator], NDArray[np.uint8]]
) -> None:
    rng = np.random.default_rng(0)
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
    for number in range(20):
        values = kind(rng)
        Image.fromarray(values).save(tmp_path / "trainA" / f"{number}.png")
        Image.fromarray(255 - values).save(tmp_path / "trainB" / f"{number}.png")
    assert [
        each for each in found_in(tmp_path) if each.kind in ("empty", "compressed labels")
    ] == []


def test_a_shift_of_three_pixels_of_256(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8))
        values = np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC))
        Image.fromarray(values).save(tmp_path / "trainA" / f"{number}.png")
        target = np.roll(255 - values, (3, 0) if number == 7 else (0, 0), (0, 1))
        Image.fromarray(target).save(tmp_path / "trainB" / f"{number}.png")
    found = [each for each in found_in(tmp_path) if each.kind == "misaligned"]
    assert [Path(each.files[0]).name for each in found] == ["7.png"]
    down, right = map(int, re.findall(r"[+-]\d+", found[0].figure))
    assert (down, right) == pytest.approx((-3, 0), abs=1)
