"""Loading pairs: values against an independent resize, and items that depend on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nectargan.dataset.paired_dataset import PairedDataset, denormalize, normalize
from nectargan.dataset.pairs import Pair
from nectargan.errors import DataError

HEIGHT, WIDTH = 20, 24


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Four side-by-side images of random pixels."""
    folder = tmp_path_factory.mktemp("train")
    made = []
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(pixels).save(path)
        made.append(Pair(path.stem, path))
    return made


def halves(pair: Pair) -> tuple[Image.Image, Image.Image]:
    pixels = np.asarray(Image.open(pair.a))
    return Image.fromarray(pixels[:, :WIDTH]), Image.fromarray(pixels[:, WIDTH:])


def tensor_of(image: Image.Image) -> torch.Tensor:
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def test_validation_resizes_each_half_on_its_own(pairs: list[Pair]) -> None:
    data = PairedDataset(pairs, crop_size=(10, 14), load_size=(12, 16), augment=False)
    for pair, (a, b) in zip(pairs, data, strict=True):
        left, right = (half.resize((14, 10), Image.Resampling.BICUBIC) for half in halves(pair))
        assert a.dtype == torch.uint8
        assert torch.equal(a, tensor_of(left))
        assert torch.equal(b, tensor_of(right))


def test_direction_swaps_input_and_target(pairs: list[Pair]) -> None:
    forth = PairedDataset(pairs, "AtoB", crop_size=(HEIGHT, WIDTH), augment=False)[0]
    back = PairedDataset(pairs, "BtoA", crop_size=(HEIGHT, WIDTH), augment=False)[0]
    assert torch.equal(forth[0], tensor_of(halves(pairs[0])[0]))
    assert torch.equal(back[0], forth[1])
    assert torch.equal(back[1], forth[0])


def places(whole: torch.Tensor, crop: torch.Tensor) -> list[tuple[int, int]]:
    """Where a crop lies in an image, found by trying every place."""
    h, w = crop.shape[1:]
    return [
        (top, left)
        for top in range(whole.shape[1] - h + 1)
        for left in range(whole.shape[2] - w + 1)
        if torch.equal(whole[:, top : top + h, left : left + w], crop)
    ]


def test_crops_are_the_same_place_of_the_resized_halves(pairs: list[Pair]) -> None:
    data = PairedDataset(pairs, load_size=(18, 22), crop_size=(15, 16), seed=3)
    left, right = (
        tensor_of(half.resize((22, 18), Image.Resampling.BICUBIC)) for half in halves(pairs[1])
    )
    seen = set()
    for epoch in range(150):
        a, b = data[1, epoch]
        ((place),) = places(left, a)
        assert places(right, b) == [place]
        seen.add(place)
    # Every offset occurs: 4 rows by 7 columns. A given one is missed with a chance of 0.4 %.
    assert {top for top, _ in seen} == set(range(4))
    assert {left for _, left in seen} == set(range(7))


@pytest.mark.parametrize(
    ("chance", "turned"),
    [("h_flip_chance", lambda x: x.flip(2)), ("v_flip_chance", lambda x: x.flip(1))],
)
def test_flips_are_the_same_on_both(pairs: list[Pair], chance: str, turned: object) -> None:
    plain = PairedDataset(pairs, load_size=18, crop_size=(12, 14))
    flipped = PairedDataset(pairs, load_size=18, crop_size=(12, 14), **{chance: 1.0})
    for before, after in zip(plain[2, 5], flipped[2, 5], strict=True):
        assert torch.equal(after, turned(before))
        assert after.is_contiguous()


def test_quarter_turns_are_the_same_on_both_and_of_three_kinds(pairs: list[Pair]) -> None:
    plain = PairedDataset(pairs, load_size=18, crop_size=12)
    turned = PairedDataset(pairs, load_size=18, crop_size=12, rot90_chance=1.0)
    seen = set()
    for epoch in range(30):
        kinds = []
        for before, after in zip(plain[0, epoch], turned[0, epoch], strict=True):
            kinds.append([k for k in range(4) if torch.equal(before.rot90(k, (1, 2)), after)])
        assert kinds[0] == kinds[1]
        seen.add(kinds[0][0])
    assert seen == {1, 2, 3}


def test_chances_are_frequencies(pairs: list[Pair]) -> None:
    plain = PairedDataset(pairs, load_size=8, crop_size=8)
    flipped = PairedDataset(pairs, load_size=8, crop_size=8, h_flip_chance=0.25)
    flips = sum(not torch.equal(plain[0, e][0], flipped[0, e][0]) for e in range(400))
    assert 60 <= flips <= 140  # 100, give or take 4.6 standard deviations


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 10**6),
    index=st.integers(0, 3),
    before=st.lists(st.integers(0, 3), max_size=3),
)
def test_item_is_a_pure_function_of_seed_epoch_and_index(
    pairs: list[Pair], seed: int, epoch: int, index: int, before: list[int]
) -> None:
    arguments = {"load_size": 18, "crop_size": 12, "h_flip_chance": 0.5, "rot90_chance": 0.5}
    first = PairedDataset(pairs, seed=seed, **arguments)[index, epoch]
    other = PairedDataset(pairs, seed=seed, **arguments)
    for i in before:  # reading others, and the global generators, change nothing
        other[i, epoch]
    np.random.seed(seed % 1000)
    torch.manual_seed(epoch)
    second = other[index, epoch]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@given(st.lists(st.integers(0, 255), min_size=1, max_size=300))
def test_normalize_round_trips(values: list[int]) -> None:
    images = torch.tensor(values, dtype=torch.uint8)
    floats = normalize(images)
    assert floats.dtype == torch.float32
    assert torch.allclose(floats.double(), images.double() / 127.5 - 1, atol=1e-6)
    assert torch.equal(denormalize(floats), images)


def test_denormalize_rounds_and_clamps() -> None:
    floats = torch.tensor([-7.0, -1.0, -0.0005, 0.0005, 1.0, 7.0])
    assert denormalize(floats).tolist() == [0, 0, 127, 128, 255, 255]
    assert floats[0] == -7.0  # not changed in place


def one(path: Path, image: Image.Image, channels: int = 3, **options: object) -> torch.Tensor:
    """An image beside itself in another folder, read back in its own size."""
    image.save(path, **options)
    height, width = (image.height, image.width)
    data = PairedDataset(
        [Pair("x", path, path)],
        input_nc=channels,
        output_nc=1,
        crop_size=(height, width),
        augment=False,
    )
    return data[0][0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535], [128, 129, 65407, 65406]], np.uint16)
    found = one(tmp_path / f"x.{suffix}", Image.fromarray(values), channels=1)
    expected = np.rint(values / 257).astype(np.uint8)
    assert found.tolist() == [expected.tolist()]


def test_thirty_two_bit_integers_hold_sixteen(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 32896, 257]], np.int32)
    assert one(tmp_path / "x.tif", Image.fromarray(values), 1).tolist() == [[[0, 255, 128, 1]]]


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    rgb = one(tmp_path / "x.png", image, transparency=bytes([0, 200]))
    # Laid over black: 200 / 255 of the colour is left.
    assert rgb[:, 0].T.tolist() == [[0, 0, 0], [31, 39, 47]]
    rgba = one(tmp_path / "y.png", image, channels=4, transparency=bytes([0, 200]))
    assert rgba[:, 0].T.tolist() == [[10, 20, 30, 0], [40, 50, 60, 200]]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_channels_are_pillow_modes(pairs: list[Pair], channels: int, mode: str) -> None:
    data = PairedDataset(
        pairs, input_nc=channels, output_nc=1, crop_size=(HEIGHT, WIDTH), augment=False
    )
    a, b = data[0]
    left, right = halves(pairs[0])
    assert torch.equal(a, tensor_of(left.convert(mode)))
    assert torch.equal(b, tensor_of(right.convert("L")))


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    stored = np.zeros((2, 2, 3), np.uint8)
    stored[0, 1] = 200  # top right as stored
    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn
    found = one(tmp_path / "x.png", Image.fromarray(stored), exif=exif.tobytes())
    assert found[0].tolist() == [[0, 0], [200, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"direction": "BtoC"}, "direction is 'BtoC'; allowed: AtoB, BtoA"),
        ({"input_nc": 5}, "input_nc is 5"),
        ({"output_nc": 0}, "output_nc is 0"),
        ({"load_size": 8, "crop_size": 9}, "crop_size 9 x 9 .* is larger than load_size 8 x 8"),
        ({"load_size": (8, 20), "crop_size": (9, 9)}, "is larger than load_size 8 x 20"),
        ({"crop_size": 0}, "crop_size is 0"),
        ({"load_size": (3, 4, 5)}, "load_size is"),
        ({"h_flip_chance": 1.5}, "h_flip_chance is 1.5"),
        ({"v_flip_chance": float("nan")}, "v_flip_chance is nan"),
        ({"rot90_chance": 0.5, "crop_size": (8, 16)}, "quarter turns need a square crop"),
        ({"seed": -1}, "seed is -1"),
        ({"pairs": []}, "at least one pair"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PairedDataset(**{"pairs": [Pair("x", Path("x.png"))], **arguments})


def test_validation_needs_no_room_for_a_crop(pairs: list[Pair]) -> None:
    data = PairedDataset(pairs, load_size=8, crop_size=16, augment=False)
    assert data[0][0].shape == (3, 16, 16)


def test_unreadable_item_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("no image")
    with pytest.raises(
        DataError, match=r"x\.png: not an image: it is text that begins with .no image.\.$"
    ):
        PairedDataset([Pair("x", path)])[0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("factor", [0.75, 0.4])  # Pillow warns, Pillow raises
def test_a_bomb_that_came_after_the_check_is_refused(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    data = PairedDataset(pairs, augment=False, crop_size=8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(HEIGHT * 2 * WIDTH * factor))
    with pytest.raises(DataError, match=r"0\.png: .* pixels"):
        data[0]


def test_items_end(pairs: list[Pair]) -> None:
    data = PairedDataset(pairs, augment=False, crop_size=8)
    assert len(data) == 4
    with pytest.raises(IndexError, match="pair 4 of 4"):
        data[4]


def test_decoding_is_the_item_before_the_crop(pairs: list[Pair]) -> None:
    data = PairedDataset(pairs, load_size=(18, 22), crop_size=16, input_nc=1)
    assert data.decoded_size == (18, 22)
    left, right = halves(pairs[2])
    images = [
        half.resize((22, 18), Image.Resampling.BICUBIC) for half in (left.convert("L"), right)
    ]
    assert torch.equal(data.decode(2), torch.cat([tensor_of(image) for image in images]))
    with pytest.raises(IndexError):
        data.decode(-1)


def test_each_side_has_its_way_of_resizing(tmp_path: Path) -> None:
    labels = np.array([[[0, 0, 9], [255, 0, 0]], [[0, 128, 0], [7, 7, 7]]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "x.png")
    pair = Pair("x", tmp_path / "x.png", tmp_path / "x.png")
    data = PairedDataset([pair], load_size=7, crop_size=7, resize=("nearest", "bicubic"))
    known = {tuple(colour) for colour in labels.reshape(-1, 3).tolist()}

    source, target = (images.flatten(1).T.tolist() for images in data.decode(0).split(3))

    assert {tuple(colour) for colour in source} == known
    assert len({tuple(colour) for colour in target}) > len(known)
    swapped = PairedDataset(
        [pair], "BtoA", load_size=7, crop_size=7, resize=["bicubic", "nearest"]
    ).decode(0)
    assert torch.equal(swapped, data.decode(0).roll(3, 0))
    both = PairedDataset([pair], load_size=7, crop_size=7, resize="nearest").decode(0)
    assert torch.equal(both[:3], both[3:])


@pytest.mark.parametrize("resize", ["lanczos", ["nearest"], ("nearest", "area")])
def test_a_way_of_resizing_that_there_is_not(resize: str | list[str]) -> None:
    with pytest.raises(DataError, match=r"resize is .*; allowed: bicubic, nearest, or a pair"):
        PairedDataset([Pair("x", Path("x.png"))], resize=resize)
