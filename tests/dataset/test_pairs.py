"""Finding and checking pairs: what is found, and that all problems come in one message."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nectargan.dataset.data_check import check_data
from nectargan.dataset.pairs import Pair, find_pairs, list_splits
from nectargan.errors import DataError
from tests.dataset.tiffs import write_tiff


def draw(path: Path, height: int = 8, width: int = 16, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def problems_of(root: Path, **options: tuple[str, ...]) -> str:
    with pytest.raises(DataError) as caught:
        check_data(root, **options)
    return str(caught.value)


def test_side_by_side_pairs_come_in_natural_order_without_other_files(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.PNG", "Img1.jpg", "._img3.png"):
        draw(tmp_path / "train" / "tmp.png").rename(tmp_path / "train" / name)
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "folder.png").mkdir()

    pairs = find_pairs(tmp_path, "train")

    assert pairs == [
        Pair("Img1", tmp_path / "train" / "Img1.jpg"),
        Pair("img2", tmp_path / "train" / "img2.PNG"),
        Pair("img10", tmp_path / "train" / "img10.png"),
    ]


@pytest.mark.parametrize(("a", "b"), [("trainA", "trainB"), ("train/A", "train/B")])
def test_two_folders_match_by_stem(tmp_path: Path, a: str, b: str) -> None:
    for name in ("x.1", "x.2"):
        draw(tmp_path / a / f"{name}.png")
        draw(tmp_path / b / f"{name}.jpg")

    pairs = find_pairs(tmp_path, "train")

    assert [pair.name for pair in pairs] == ["x.1", "x.2"]
    assert pairs[0].a == tmp_path / a / "x.1.png"
    assert pairs[0].b == tmp_path / b / "x.1.jpg"
    assert check_data(tmp_path)["train"].layout == f"{a} + {b}"


def test_list_splits_knows_every_layout(tmp_path: Path) -> None:
    assert list_splits(tmp_path) == []
    draw(tmp_path / "test" / "1.png")
    draw(tmp_path / "valA" / "1.png")
    draw(tmp_path / "train" / "B" / "1.png")
    assert list_splits(tmp_path) == ["train", "val", "test"]


def test_summary_has_pairs_and_sizes_of_one_half(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "1.png", 8, 16)
    draw(tmp_path / "train" / "2.png", 6, 20)
    draw(tmp_path / "val" / "1.png", 8, 16)

    found = check_data(tmp_path)

    assert list(found) == ["train", "val"]
    assert found["train"].pairs == tuple(find_pairs(tmp_path, "train"))
    assert (found["train"].smallest, found["train"].largest) == ((6, 8), (8, 10))
    assert str(found["train"]) == "train: 2 pairs in train (side by side), 6 x 8 to 8 x 10"
    assert str(found["val"]) == "val: 1 pair in val (side by side), 8 x 8"


def test_only_required_splits_must_be_there(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "1.png")
    assert list(check_data(tmp_path)) == ["train"]
    message = problems_of(tmp_path, required=("test",))
    assert str(tmp_path) in message
    assert "'test' is missing" in message
    assert "testA/ and testB/" in message


def test_a_root_that_is_not_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert f"{file}: not a directory" in problems_of(file)
    (tmp_path / "pairs.csv").write_text("input,target,split\n")
    hint = f"pairs.csv: not a directory; give its directory {tmp_path}"
    assert hint in problems_of(tmp_path / "pairs.csv")
    gone = tmp_path / "gone"
    for look in (lambda: check_data(gone), lambda: find_pairs(gone, "train")):
        with pytest.raises(DataError, match="gone: no such directory"):
            look()


def test_every_problem_is_in_one_message(tmp_path: Path) -> None:
    a, b = tmp_path / "trainA", tmp_path / "trainB"
    for folder in (a, b):
        draw(folder / "good.png")
    draw(a / "lonely.png")
    draw(b / "alone.png")
    draw(a / "twice.png")
    draw(a / "twice.jpg")
    draw(b / "twice.png")
    draw(a / "size.png", 8, 8)
    draw(b / "size.png", 8, 10)
    draw(a / "text.png").write_text("no image")
    draw(b / "text.png")
    draw(tmp_path / "val" / "odd.png", 8, 15)
    half = draw(tmp_path / "val" / "half.png", 64, 64)
    half.write_bytes(half.read_bytes()[:4000])
    jpeg = draw(tmp_path / "val" / "cut.jpg", 64, 64)
    jpeg.write_bytes(jpeg.read_bytes()[:-1000])

    message = problems_of(tmp_path)

    lines = message.splitlines()
    assert lines[0].endswith("8 problems:")
    assert len(lines) == 9
    expected = {
        a / "lonely.png": f"no partner with this name in {b}",
        b / "alone.png": f"no partner with this name in {a}",
        a / "twice.png": "same name as twice.jpg",
        a / "size.png": f"8 x 8, but {b / 'size.png'} is 8 x 10",
        a / "text.png": "not an image",
        tmp_path / "val" / "odd.png": "the width 15 is odd",
        tmp_path / "val" / "half.png": "unreadable or truncated",
        tmp_path / "val" / "cut.jpg": "unreadable or truncated",
    }
    for path, text in expected.items():
        assert any(f"{path}: " in line and text in line for line in lines), (path, message)


def test_long_lists_are_cut_at_twenty(tmp_path: Path) -> None:
    for i in range(23):
        draw(tmp_path / "train" / f"{i}.png", 4, 5)
    lines = problems_of(tmp_path).splitlines()
    assert len(lines) == 22
    assert "19.png" in lines[20]
    assert lines[21].strip() == "and 3 more"


def test_empty_and_missing_folders_are_one_problem_each(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert f": {tmp_path / 'train'}: no images; found there: nothing. Supported are" in problems_of(
        tmp_path
    )
    for i in range(3):
        draw(tmp_path / "valA" / f"{i}.png")
    message = problems_of(tmp_path, required=("val",))
    assert message.endswith(f"{tmp_path / 'valB'}: folder is missing")


def test_two_layouts_at_once_are_refused(tmp_path: Path) -> None:
    for folder in ("train", "trainA", "trainB"):
        draw(tmp_path / folder / "1.png")
    assert "several layouts (trainA + trainB, train (side by side))" in problems_of(tmp_path)


@pytest.mark.parametrize("factor", [0.75, 0.4])  # Pillow warns, Pillow raises
def test_decompression_bomb_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    bomb = draw(tmp_path / "train" / "bomb.png", 10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(100 * factor))
    assert f"{bomb}: more than {int(100 * factor)} pixels" in problems_of(tmp_path)


def test_floats_among_integers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train" / "depth.tif"
    path.parent.mkdir()
    Image.fromarray(np.zeros((4, 8), np.float32)).save(path)
    summary = check_data(tmp_path)["train"]
    assert (summary.is_plain, summary.dtypes, list(map(tuple, summary.sizes.tolist()))) == (
        False,
        (np.float32,) * 2,
        [(4, 4)],
    )
    other = draw(tmp_path / "train" / "other.png")
    wanted = f"{path}: its values are float32, but those of {other} are uint8;"
    assert wanted in problems_of(tmp_path)


def test_size_is_the_displayed_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "train").mkdir()
    # Stored 64 high and 33 wide, shown 33 high and 64 wide: the odd side is the height.
    Image.new("RGB", (33, 64)).save(tmp_path / "train" / "1.jpg", exif=exif)
    assert check_data(tmp_path)["train"].largest == (33, 32)


# --- names ---------------------------------------------------------------------------------------


def test_unicode_forms_of_a_name_are_one(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    draw(tmp_path / "trainA" / f"{composed}.png")
    draw(tmp_path / "trainB" / f"{decomposed}.png")
    (pair,) = find_pairs(tmp_path, "train")
    assert pair.name == composed
    assert pair.b is not None
    assert pair.b.name == f"{decomposed}.png"
    draw(tmp_path / "trainA" / f"{decomposed}.png")
    assert "except for the Unicode form of a letter; names must be unique" in problems_of(tmp_path)


def test_hints_for_a_missing_partner(tmp_path: Path) -> None:
    a, b = tmp_path / "trainA", tmp_path / "trainB"
    draw(a / "IMG_1.png")
    draw(b / "img_1.png")
    draw(a / "2.png")
    (b / "2.heic").write_text("")
    message = problems_of(tmp_path)
    assert f"IMG_1.png: no partner with this name in {b}; 'img_1.png' differs only in" in message
    assert f"img_1.png: no partner with this name in {a}; 'IMG_1.png' differs only in" in message
    assert "2.png: no partner with this name" in message
    assert "'2.heic' has an unsupported suffix (.avif .bmp .exr" in message


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    draw(tmp_path / "x.png").rename(tmp_path / f"{name}.png")
    for folder in ("trainA", "trainB"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.png").symlink_to(tmp_path / f"{name}.png")
    assert [pair.name for pair in check_data(tmp_path)["train"].pairs] == [name]


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_without_images_says_what_is_there_and_what_is_read(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / "train" / f"{i}.heic").parent.mkdir(exist_ok=True)
        (tmp_path / "train" / f"{i}.heic").write_text("")
    (tmp_path / "train" / "deep").mkdir()
    (tmp_path / "train" / "LICENSE").write_text("")
    assert problems_of(tmp_path).endswith(
        "train: no images; found there: 3 .heic, 1 without suffix, folder deep. Supported are "
        ".avif .bmp .exr .gif .jfif .jpeg .jpg .npy .npz .pbm .pgm .png .pnm .ppm .tif .tiff "
        ".webp, for 'train' in train/, trainA/ and trainB/, train/A/ and train/B/, pairs.csv, or "
        "train-*.tar"
    )


def test_a_missing_split_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    draw(tmp_path / "1.png")
    draw(tmp_path / "2.png")
    (tmp_path / "list.txt").write_text("")
    assert problems_of(tmp_path).endswith("; found there: 2 images, 1 .txt, folder Images")


def test_pipes_and_links_are_images_that_cannot_be_read(tmp_path: Path) -> None:
    train = tmp_path / "train"
    draw(train / "1.png")
    os.mkfifo(train / "2.png")
    (train / "3.png").symlink_to("/dev/zero")
    (train / "4.png").symlink_to("nowhere")
    message = problems_of(tmp_path)
    assert f"{train / '2.png'}: unreadable (it is a pipe, not a regular file" in message
    assert f"{train / '3.png'}: unreadable (it is a device, not a regular file" in message
    assert f"{train / '4.png'}: unreadable (No such file or directory)" in message


@pytest.mark.parametrize("root", ["x\0y", "n" * 300])
def test_a_root_that_no_file_system_has(root: str) -> None:
    with pytest.raises(DataError, match=r"The data set cannot be used: .{3,400}: "):
        check_data(root)


# --- what may not be meant -----------------------------------------------------------------------


def grey(path: Path, values: object, **options: object) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.array(values)).save(path, **options)


def test_values_that_use_a_fraction_of_their_range(tmp_path: Path) -> None:
    bright = np.full((4, 4), 200, np.uint8)
    grey(tmp_path / "trainA" / "1.png", np.full((4, 4), 4095, np.uint16))
    grey(tmp_path / "trainA" / "2.png", np.full((4, 4), 95, np.uint16))
    grey(tmp_path / "trainA" / "3.png", bright)
    for name in "123":
        grey(tmp_path / "trainB" / f"{name}.png", bright)
    assert check_data(tmp_path)["train"].warnings == (
        "trainA: no value is above 4095, but the range goes up to 65535, so the network sees "
        "dark images; set input_range and target_range of dataloader.load, such as [0, 4095].",
    )
    grey(tmp_path / "trainA" / "2.png", np.full((4, 4), 16384, np.uint16))
    assert check_data(tmp_path)["train"].warnings == ()


def test_the_range_that_is_suggested_holds_values_below_zero(tmp_path: Path) -> None:
    for side, values in (("A", [[-1024, 1161]]), ("B", [[0, 3000]])):
        (tmp_path / f"train{side}").mkdir()
        np.save(tmp_path / f"train{side}" / "1.npy", np.array(values, np.int16))
    first, second = check_data(tmp_path)["train"].warnings
    assert first.startswith("trainA: the values are from -1024 to 1161, but the range is from -327")
    assert first.endswith("such as [-1024, 1161].")
    assert second.endswith("such as [0, 3000].")


def test_images_without_a_valid_pixel_are_told(tmp_path: Path) -> None:
    for side, value in (("A", 0.5), ("B", np.nan)):
        (tmp_path / f"train{side}").mkdir()
        np.save(tmp_path / f"train{side}" / "1.npy", np.full((4, 4), value, np.float32))
    assert check_data(tmp_path)["train"].warnings == (
        "trainB: 1 image with nodata, NaN or infinity in every pixel, such as 1.npy: nothing is "
        "learned from their pairs.",
    )


def test_transparency_is_told_only_where_it_is_lost(tmp_path: Path) -> None:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        np.save(tmp_path / f"train{side}" / "1.npy", np.full((4, 4, 2), 200, np.uint8))
    (warning,) = check_data(tmp_path, counts=(2, 1))["train"].warnings
    assert warning.startswith("trainB: 1 image with transparent pixels, such as 1.npy: they are")


def test_dark_halves_are_named(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 4:] = 3  # labels 0 to 3 in the right half
    pixels[:, :4] = 250
    grey(tmp_path / "train" / "1.png", pixels)
    (warning,) = check_data(tmp_path)["train"].warnings
    assert warning.startswith(
        "train, right halves (B): no value is above 3, but the range goes up to 255, so"
    )


def test_transparency_frames_and_left_out_channels_are_told(tmp_path: Path) -> None:
    clear = np.full((4, 4, 4), 255, np.uint8)
    grey(tmp_path / "trainB" / "1.png", clear)
    clear[0, 0, 3] = 0
    grey(tmp_path / "trainA" / "1.png", clear)
    pages = [Image.new("L", (4, 4), value) for value in (255, 0)]
    pages[0].save(tmp_path / "trainA" / "2.gif", save_all=True, append_images=pages[1:])
    grey(tmp_path / "trainB" / "2.png", clear[..., 0])
    write_tiff(tmp_path / "trainA" / "3.tif", clear, photometric=2, extra=(0,))
    grey(tmp_path / "trainB" / "3.png", clear[..., 0])
    assert check_data(tmp_path)["train"].warnings == (
        "trainA: 1 image with transparent pixels, such as 1.png: they are blended with black "
        "unless 2 or 4 channels are read.",
        "trainA: 1 image with several frames or pages, such as 2.gif: only the first is read.",
        "trainA: 1 image with extra channels besides gray, RGB and alpha, such as 3.tif: they "
        "are ignored unless dataloader.load.input_channels lists them.",
    )


def test_images_that_are_passed_over_are_told(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "1.png")
    for name in ("2.HEIC", "3.heic", "4.jxl", "Thumbs.db", "notes.txt"):
        (tmp_path / "train" / name).write_text("")
    (warning,) = check_data(tmp_path)["train"].warnings
    sentence = f"{tmp_path / 'train'}: ignored: 2 .heic, 1 .jxl; supported are .avif"
    assert warning.startswith(sentence)


def test_few_colours_are_a_hint(tmp_path: Path) -> None:
    draw(tmp_path / "trainA" / "1.png", 16, 16)
    grey(tmp_path / "trainB" / "1.png", np.arange(256, dtype=np.uint8).reshape(16, 16) // 64 * 80)
    (hint,) = check_data(tmp_path)["train"].hints
    assert hint.startswith("trainB: at most 4 colors in an image. If these are label maps,")
