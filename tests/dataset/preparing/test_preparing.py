"""Preparing data sets: pairs from two folders, splits, tiles."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nectargan.dataset.pairs import Pair, find_pairs
from nectargan.dataset.preparing.pairing import (
    match_names,
    match_order,
    write_manifest,
    write_pictures,
)
from nectargan.dataset.preparing.placing import Placed, place
from nectargan.dataset.preparing.splitting import split_pairs
from nectargan.dataset.preparing.tiling import starts, write_tiles
from nectargan.dataset.synthetic import synthesize
from nectargan.errors import DataError
from nectargan.images.raw import ALL
from nectargan.images.reading import read_raw
from tests.image_kinds import IMAGE_KINDS, ImageKind
from tests.image_kinds import draw as draw_kind


def draw(path: Path, height: int = 6, width: int = 8, seed: int = 0, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, channels) if channels > 1 else (height, width)
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def pixels(path: Path) -> NDArray[np.integer]:
    with Image.open(path) as image:
        return np.asarray(image)


def folders(root: Path, a: list[str], b: list[str]) -> tuple[Path, Path]:
    for seed, name in enumerate([*(f"a/{n}" for n in a), *(f"b/{n}" for n in b)]):
        draw(root / name, seed=seed)
    return root / "a", root / "b"


# --- pairs -------------------------------------------------------------------------------------


def test_pairs_by_name_pattern_and_order(tmp_path: Path) -> None:
    a, b = folders(
        tmp_path, ["map_2_x.png", "map_10_x.png"], ["photo-10.png", "photo-2.png", "photo-3.png"]
    )
    with pytest.raises(
        DataError, match=r"map_2_x.png: no partner in .*b; .*map_10_x.png: no .*photo-3.png: no "
    ):
        match_names(a, b)
    with pytest.raises(DataError, match=r"photo-3.png: no partner in .*a\.$"):
        match_names(a, b, r"(\d+)")
    with pytest.raises(DataError, match=r"2 images and .* 3 images"):
        match_order(a, b)
    (b / "photo-3.png").unlink()
    assert [(p.name, p.b and p.b.name) for p in match_names(a, b, r"(\d+)")] == [
        ("map_2_x", "photo-2.png"),
        ("map_10_x", "photo-10.png"),
    ]
    assert match_order(a, b) == match_names(a, b, r"(\d+)")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        (r"\d+", "has no group"),
        (r"(z)", "does not match 'map_1'"),
        (r"(m)ap", "the same key as map_1.png"),
    ],
)
def test_a_pattern_that_cannot_pair(tmp_path: Path, pattern: str, message: str) -> None:
    a, b = folders(tmp_path, ["map_1.png", "map_2.png"], ["map_1.png", "map_2.png"])
    with pytest.raises(DataError, match=message):
        match_names(a, b, pattern)


def test_links_and_copies_are_read_as_the_same_pairs(tmp_path: Path) -> None:
    a, b = folders(tmp_path, ["1.png", "2.png"], ["1.jpg", "2.jpg"])
    placed = [Placed("val", pair.name, pair) for pair in match_names(a, b)]
    place(placed, tmp_path / "links", "links")
    place(placed, tmp_path / "copies", "copies")
    for out in ("links", "copies"):
        found = find_pairs(tmp_path / out, "val")
        assert [pair.name for pair in found] == ["1", "2"]
        for pair, source in zip(found, placed, strict=True):
            assert pair.b is not None
            assert source.pair.b is not None
            assert pair.a.read_bytes() == source.pair.a.read_bytes()
            assert pair.b.read_bytes() == source.pair.b.read_bytes()
            assert pair.a.is_symlink() == (out == "links")


def test_a_folder_with_contents_is_kept_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    a, b = folders(tmp_path, ["1.png"], ["1.png"])
    pairs = match_names(a, b)
    out = tmp_path / "out"
    draw(out / "mine.png")
    with pytest.raises(DataError, match="not empty"):
        place([Placed("train", "1", pairs[0])], out)
    assert [path.name for path in out.iterdir()] == ["mine.png"]
    draw(b / "1.png", height=4)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="6 x 8 and 4 x 8 pixels; --resize"):
        write_pictures(pairs, "train", tmp_path / "new")
    assert sorted(tmp_path.rglob("*")) == before


def test_new_files_side_by_side_are_both_images(tmp_path: Path) -> None:
    a, b = folders(tmp_path, ["1.png"], ["1.png"])
    draw(a / "1.png", seed=5, channels=1)
    write_pictures(match_names(a, b), "train", tmp_path / "out", side_by_side=True)
    whole = pixels(tmp_path / "out" / "train" / "1.png")
    assert whole.shape == (6, 16, 3)
    assert (whole[:, :8] == pixels(a / "1.png")[..., None]).all()
    assert (whole[:, 8:] == pixels(b / "1.png")).all()
    write_pictures(match_names(a, b), "test", tmp_path / "grey", size=(3, 5), grey=True)
    (pair,) = find_pairs(tmp_path / "grey", "test")
    assert [pixels(path).shape for path in (pair.a, pair.b) if path] == [(3, 5), (3, 5)]


def test_16_bits_are_not_reduced_silently(tmp_path: Path) -> None:
    a, b = folders(tmp_path, ["1.png"], ["1.png"])
    Image.fromarray(np.full((6, 8), 300, np.uint16)).save(a / "1.png")
    with pytest.raises(DataError, match=r"1.png: it has 1 channel of uint16; --side-by-side"):
        write_pictures(match_names(a, b), "train", tmp_path / "out", grey=True)


def test_a_manifest_lists_absolute_paths(tmp_path: Path) -> None:
    a, b = folders(tmp_path, ["1, 2.png"], ["1, 2.png"])
    write_manifest(match_names(a, b), "val", tmp_path / "out")
    with (tmp_path / "out" / "pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"input": str(a / "1, 2.png"), "target": str(b / "1, 2.png"), "split": "val"},
    ]


# --- splits ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """40 frames of 8 scenes; the frames 0 and 39 are the same picture."""
    root = tmp_path_factory.mktemp("many")
    return [
        Pair(f"s{i // 5}_{i:02}", draw(root / f"s{i // 5}_{i:02}.png", seed=i % 39))
        for i in range(40)
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 15), st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_sizes_are_exact_up_to_pairs_of_equal_pictures(
    many: list[Pair], val: int, test: int, seed: int
) -> None:
    placed = split_pairs(many, {"val": val, "test": test}, seed)
    assert [each.pair for each in placed] == many
    sizes = Counter(each.split for each in placed)
    assert abs(sizes["val"] - val) <= 1
    assert abs(sizes["test"] - test) <= 1
    assert placed[0].split == placed[39].split
    backwards = split_pairs(many[::-1], {"val": val, "test": test}, seed)
    assert {e.name: e.split for e in placed} == {e.name: e.split for e in backwards}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_scenes_stay_together(many: list[Pair], seed: int) -> None:
    placed = split_pairs(many, {"val": 0.25, "test": 0.0}, seed, r"^(s\d)_")
    parts: dict[str, set[str]] = {}
    for each in placed:
        parts.setdefault(each.name[:2], set()).add(each.split)
    assert all(len(found) == 1 for found in parts.values())
    assert parts["s0"] == parts["s7"]  # they share a picture
    assert Counter(each.split for each in placed) == {"train": 30, "val": 10}


def test_nearly_equal_pictures_stay_together(tmp_path: Path) -> None:
    synthesize(tmp_path / "set", train=12, val=0, size=128, seed=2)
    for path in sorted((tmp_path / "set" / "train").iterdir()):
        with Image.open(path) as image:
            copy = image.resize((512, 256)).point(lambda value: value * 0.97)
        copy.save(path.with_name(f"{path.stem}_copy.png"))
    pairs = find_pairs(tmp_path / "set", "train")
    for seed in range(3):
        parts: dict[str, set[str]] = {}
        for each in split_pairs(pairs, {"val": 6, "test": 4}, seed):
            parts.setdefault(each.name.removesuffix("_copy"), set()).add(each.split)
        assert len(parts) == 12
        assert all(len(found) == 1 for found in parts.values())


@pytest.mark.parametrize(
    ("parts", "group_by", "message"),
    [
        ({"val": 0.001}, None, "--val 0.001 of 40 pairs would be 0; choose from 1 to 39 pairs"),
        ({"val": 40}, None, "--val 40 of 40 pairs would be 40"),
        ({"val": 1.5}, None, "neither a fraction below 1 nor a number"),
        ({"val": -0.1}, None, "neither a fraction"),
        ({"val": 20, "test": 20}, None, "No pairs are left for 'train'"),
        ({"val": 1}, r"^(s\d)_", "No group fits into 'val', which is to have 1 pair.* 5 pairs"),
        ({"val": 1}, "[", "not a regular expression"),
        ({"val": 1}, "zebra", "matches no name, such as 's0_00'"),
    ],
)
def test_a_split_that_cannot_be_made(
    many: list[Pair], parts: dict[str, float], group_by: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split_pairs(many, parts, 0, group_by)


# --- tiles -------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 80), st.integers(0, 79))
def test_tiles_cover_everything_with_the_overlap(length: int, size: int, overlap: int) -> None:
    size, overlap = min(size, length), min(overlap, size - 1, length - 1)
    first = list(starts(length, size, overlap))
    assert {i for start in first for i in range(start, start + size)} == set(range(length))
    assert all(b - a <= size - overlap for a, b in pairwise(first))
    assert len(first) == len(set(first))


@pytest.mark.parametrize("kind", ["side by side", "16 bit"])
def test_tiles_are_the_pixels_of_the_images(tmp_path: Path, kind: str) -> None:
    if kind == "side by side":
        source = draw(tmp_path / "d" / "train" / "x.png", 9, 20)
        whole = pixels(source)
        sides = [whole[:, :10], whole[:, 10:]]
    else:
        sides = [np.random.default_rng(i).integers(0, 2**16, (9, 10), np.uint16) for i in (0, 1)]
        for side, values in zip("AB", sides, strict=True):
            (tmp_path / "d" / f"train{side}").mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / "d" / f"train{side}" / "x.png")
    placed = [Placed("train", pair.name, pair) for pair in find_pairs(tmp_path / "d", "train")]
    assert write_tiles(placed, tmp_path / "out", size=4, overlap=1) == (9, 0)
    for pair in find_pairs(tmp_path / "out", "train"):
        top, left = map(int, pair.name.split("_")[1:])
        found = (
            np.split(pixels(pair.a), 2, axis=1)
            if pair.b is None
            else [pixels(pair.a), pixels(pair.b)]
        )
        for tile, side in zip(found, sides, strict=True):
            assert (tile == side[top : top + 4, left : left + 4]).all()


def test_empty_tiles_are_left_out_only_if_both_sides_are(tmp_path: Path) -> None:
    a, b = np.zeros((4, 12), np.uint8), np.full((4, 12), 7, np.uint8)
    a[1, 1] = 255  # the first tile
    b[2, 6] = 200  # the second one
    b[2, 9] = 10  # the third one: 3 of 255 are too little
    for side, values in (("A", a), ("B", b)):
        (tmp_path / "d" / f"train{side}").mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "d" / f"train{side}" / "x.png")
    placed = [Placed("train", pair.name, pair) for pair in find_pairs(tmp_path / "d", "train")]
    assert write_tiles(placed, tmp_path / "out", size=4, emptiness=0.02) == (2, 1)
    assert [p.name for p in find_pairs(tmp_path / "out", "train")] == ["x_0_0", "x_0_4"]
    with pytest.raises(DataError, match="All 3 tiles are empty"):
        write_tiles(placed, tmp_path / "none", size=4, emptiness=1.0)
    with pytest.raises(DataError, match=r"x.png: 4 x 12 pixels are less than a tile of 5"):
        write_tiles(placed, tmp_path / "none", size=5)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", IMAGE_KINDS, ids=str)
def test_tiles_of_every_kind(tmp_path: Path, kind: ImageKind) -> None:
    for side in "AB":
        (tmp_path / "d" / f"train{side}").mkdir(parents=True)
        kind.write(tmp_path / "d" / f"train{side}" / f"x{kind.suffix}", draw_kind(kind, 70, 80))
    placed = [Placed("train", pair.name, pair) for pair in find_pairs(tmp_path / "d", "train")]
    assert write_tiles(placed, tmp_path / "out", size=66, emptiness=0.02) == (4, 0)
    whole = read_raw(placed[0].pair.a, ALL)
    for pair in find_pairs(tmp_path / "out", "train"):
        top, left = map(int, pair.name.split("_")[1:])
        found = read_raw(pair.a, ALL)
        assert np.array_equal(found.values, whole.values[top : top + 66, left : left + 66])
        assert found.channel_names == whole.channel_names
        if "geo" in whole.metadata and pair.a.suffix == ".tif":
            with rasterio.open(pair.a) as part, rasterio.open(placed[0].pair.a) as source:
                assert part.crs == source.crs
                assert part.xy(0, 0) == source.xy(top, left)
                assert part.nodata == source.nodata


def test_tiles_without_data_are_empty(tmp_path: Path) -> None:
    values = np.full((8, 16), np.nan, np.float32)
    values[:, :8] = np.arange(8)
    for side in "AB":
        (tmp_path / "d" / f"train{side}").mkdir(parents=True)
        np.save(tmp_path / "d" / f"train{side}" / "x.npy", values)
    placed = [Placed("train", pair.name, pair) for pair in find_pairs(tmp_path / "d", "train")]
    assert write_tiles(placed, tmp_path / "out", size=8, emptiness=0.02) == (1, 1)
