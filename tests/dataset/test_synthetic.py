from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nectargan.dataset import synthetic
from nectargan.dataset.facades import LABEL_COLOURS, WALLS
from nectargan.dataset.synthetic import draw_pair, synthesize
from nectargan.errors import DataError


def pairs(count: int, size: int = 64, stream: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_pair(size, np.random.default_rng((stream, index))) for index in range(count)]


def mask(labels: np.ndarray, kind: str) -> np.ndarray:
    return (labels == LABEL_COLOURS[kind]).all(axis=-1)


def files(root: Path) -> dict[str, bytes]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("size", [32, 100, 256, 300])
def test_shapes(size: int) -> None:
    for image in draw_pair(size, np.random.default_rng(0)):
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8


def test_equal_seeds_draw_equal_pictures_and_others_do_not() -> None:
    (a, b), (c, d) = pairs(2)
    again = draw_pair(64, np.random.default_rng((0, 0)))
    assert np.array_equal(a, again[0])
    assert np.array_equal(b, again[1])
    assert not np.array_equal(a, c)
    assert not np.array_equal(b, d)


def test_labels_are_flat_and_every_class_appears() -> None:
    area = dict.fromkeys(LABEL_COLOURS, 0)
    drawn = pairs(40)
    for labels, _ in drawn:
        for kind in LABEL_COLOURS:
            area[kind] += int(mask(labels, kind).sum())
    assert sum(area.values()) == 40 * 64 * 64, "a pixel has a colour that is no label's"
    assert min(area.values()) > 100


def test_a_front_has_one_wall() -> None:
    for labels, _ in pairs(20):
        assert sum(mask(labels, wall).any() for wall in WALLS) == 1


def test_the_front_is_where_the_labels_say() -> None:
    """Inside a label the front is alike; across labels it differs."""
    for labels, front in pairs(12):
        values = front.astype(float)
        explained = np.zeros_like(values)
        for kind in LABEL_COLOURS:
            where = mask(labels, kind)
            if where.any():
                explained[where] = values[where].mean(axis=0)
        rest = ((values - explained) ** 2).mean()
        assert rest < 0.5 * values.reshape(-1, 3).var(axis=0).mean()
        # Shifted labels explain it worse: the two are aligned to the pixel.
        shifted = np.roll(explained, (3, 3), axis=(0, 1))
        assert ((values - shifted) ** 2).mean() > 1.2 * rest


def test_light_falls_from_the_upper_left() -> None:
    """Below a balcony or cornice the wall is darker than away from it."""
    under, away = [], []
    for labels, front in pairs(30, 256):
        wall = np.any([mask(labels, kind) for kind in WALLS], axis=0)
        thing = mask(labels, "balcony") | mask(labels, "cornice")
        near = wall & np.roll(thing, 4, axis=0)
        far = wall & ~np.any([np.roll(thing, k, axis=0) for k in range(24)], axis=0)
        if near.sum() > 50 and far.sum() > 50:
            under.append(front[near].mean())
            away.append(front[far].mean())
    assert len(under) > 20
    assert np.mean(np.array(under) < np.array(away)) > 0.9


def test_a_network_that_memorises_does_badly() -> None:
    """The nearest of many training label maps is still another house."""
    seen = np.stack([labels for labels, _ in pairs(100, 32)])
    for labels, _ in pairs(20, 32, stream=1):
        differing = (seen != labels).any(axis=-1).mean(axis=(1, 2))
        assert differing.min() > 0.05


def test_a_data_set(tmp_path: Path) -> None:
    synthesize(tmp_path / "d", train=3, val=2, test=1, size=48, seed=4)
    assert list(files(tmp_path / "d")) == [
        "test/0001.png",
        "train/0001.png",
        "train/0002.png",
        "train/0003.png",
        "val/0001.png",
        "val/0002.png",
    ]
    labels, front = draw_pair(48, np.random.default_rng((4, 1, 1)))
    with Image.open(tmp_path / "d" / "val" / "0002.png") as image:
        assert np.array_equal(np.asarray(image), np.concatenate([labels, front], axis=1))


def test_a_larger_set_keeps_the_pictures_of_a_smaller_one(tmp_path: Path) -> None:
    synthesize(tmp_path / "small", train=2, val=1, size=32)
    synthesize(tmp_path / "large", train=4, val=3, test=2, size=32)
    small, large = files(tmp_path / "small"), files(tmp_path / "large")
    assert {name: large[name] for name in small} == small


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    synthesize(tmp_path / "d", train=1, val=0, size=32)
    assert list(files(tmp_path / "d")) == ["train/0001.png"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": 0}, "train pairs is 0; it must be from 1 to 1000000"),
        ({"val": -1}, "val pairs is -1"),
        ({"size": 31}, "size is 31 pixels; it must be from 32 to 1024"),
        ({"size": 2000}, "size is 2000"),
        ({"seed": -5}, "seed is -5"),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, options: dict[str, int], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        synthesize(tmp_path / "d", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for root in (tmp_path, tmp_path / "letter.txt"):
        with pytest.raises(DataError, match="is not an empty folder"):
            synthesize(root, train=1, val=0, size=32)
    assert files(tmp_path) == {"letter.txt": b"dear"}


def test_an_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = draw_pair
    calls = iter(range(10))

    def failing(size: int, rng: np.random.Generator) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(size, rng)

    monkeypatch.setattr(synthetic, "draw_pair", failing)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "d", train=5, val=0, size=32)
    assert list(tmp_path.iterdir()) == []


def test_windows_have_more_contrast_than_walls() -> None:
    # Means would not do: white frames and dark glass average to the grey of stone.
    for labels, front in pairs(20, 256):
        light = front.astype(float).mean(axis=-1)
        wall = np.any([mask(labels, kind) for kind in WALLS], axis=0)
        assert light[mask(labels, "window")].std() > 1.5 * light[wall].std()


def test_walls_vary_moderately_around_the_colour_of_their_material() -> None:
    drawn = pairs(60)
    for kind in WALLS:
        walls = [
            front[mask(labels, kind)].mean(axis=0)
            for labels, front in drawn
            if mask(labels, kind).any()
        ]
        assert 3 < np.std(walls, axis=0).max() < 25


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(size: int, rng: np.random.Generator) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "draw_pair", failing)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        synthesize(tmp_path / "d", train=1, val=0, size=32)
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    synthesize(Path("."), train=1, val=1, size=32)
    assert list(files(tmp_path)) == ["train/0001.png", "val/0001.png"]
