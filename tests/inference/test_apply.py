"""`nectargan apply`: whatever is in the folder comes out, or is named in one sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageCms

from nectargan import load_model
from nectargan.cli.main import main
from nectargan.dataset.paired_dataset import denormalize, normalize
from nectargan.inference.model import Model
from nectargan.inference.pictures import read_picture
from nectargan.record.run_directory import RunDirectory
from tests.dataset.tiffs import write_tiff


def apply(*arguments: object, **options: object) -> Result:
    words = ["apply", *map(str, arguments)]
    return CliRunner().invoke(main, words, **options)  # type: ignore[arg-type]


def drawn(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng((height, width, channels))
    top = int(np.iinfo(dtype).max)
    return rng.integers(0, top, (height, width, channels), dtype, endpoint=True).squeeze()


def expected(model: Model, pixels: np.ndarray) -> np.ndarray:
    """By the plainest way there is."""
    import torch

    batch = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    made = denormalize(model.generate(normalize(batch)))
    return made[0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def model(trained: RunDirectory) -> Model:
    return load_model(trained)


def test_a_folder_gives_a_folder(trained: RunDirectory, model: Model, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "below").mkdir(parents=True)
    sizes = {"a1.png": (32, 32), "a2.png": (32, 32), "a10.bmp": (17, 40), "below/b.png": (32, 32)}
    for name, size in sizes.items():
        Image.fromarray(drawn(*size)).save(photos / name)
    (photos / "notes.txt").write_text("no image")
    result = apply(trained, photos, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("3 images in ")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a1.png", "a10.bmp", "a2.png"]
    result = apply(trained, photos, "-o", tmp_path / "out", "--recursive")
    assert result.exit_code == 0
    assert "3 files are there already" in result.output
    for name, size in sizes.items():
        made = np.asarray(Image.open(tmp_path / "out" / name))
        assert np.array_equal(made, expected(model, drawn(*size))), name


def test_the_training_size_gives_the_pixels_of_the_example_grid(
    trained: RunDirectory, pairs_root: Path, tmp_path: Path
) -> None:
    result = apply(
        *(trained, pairs_root / "val", "--side", "A", "-o", tmp_path, "--checkpoint", "last")
    )
    assert result.exit_code == 0, result.output
    (grid,) = trained.examples.glob("epoch_0002_*")
    rows = np.asarray(Image.open(grid))
    for row in range(2):
        made = np.asarray(Image.open(tmp_path / f"{row}.png"))
        assert np.array_equal(made, rows[row * 34 : row * 34 + 32, 34:66])


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 7), (3, 5000), (5000, 3), (31, 37), (97, 101), (32, 32)]
)
def test_any_size_comes_out_as_it_went_in(
    trained: RunDirectory, tmp_path: Path, size: tuple[int, int]
) -> None:
    Image.fromarray(drawn(*size).reshape(*size, 3)).save(tmp_path / "in.png")
    result = apply(trained, tmp_path / "in.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "out.png").size == size[::-1]


def save_odd(path: Path, kind: str) -> None:
    """Files of kinds that cameras, scanners and the web make."""
    grey, rgb, rgba = drawn(20, 24, 1), drawn(20, 24, 3), drawn(20, 24, 4)
    wide = drawn(20, 24, 1, np.uint16)
    if kind == "palette":
        Image.fromarray(rgb).quantize(16).save(path)
    elif kind == "bilevel":
        Image.fromarray(grey).convert("1").save(path)
    elif kind == "cmyk":
        Image.fromarray(rgb).convert("CMYK").save(path)
    elif kind == "animated":
        frames = [Image.fromarray(drawn(20, 24, 3) // n) for n in (1, 2, 3)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "wide":
        Image.fromarray(wide).save(path)
    else:
        Image.fromarray({"grey": grey, "rgb": rgb, "rgba": rgba}[kind]).save(path)


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [
        ("a.png", "palette", "RGB"),
        ("a.gif", "palette", "P"),
        ("a.png", "bilevel", "RGB"),
        ("a.png", "grey", "RGB"),
        ("a.JPG", "grey", "RGB"),
        ("a.jpg", "cmyk", "RGB"),
        ("a.tif", "cmyk", "RGB"),
        ("a.gif", "animated", "P"),
        ("a.webp", "animated", "RGB"),
        ("a.tiff", "animated", "RGB"),
        ("a.png", "rgba", "RGBA"),
        ("a.webp", "rgba", "RGBA"),
        ("a.tif", "rgba", "RGBA"),
        ("a.bmp", "rgb", "RGB"),
        ("a.ppm", "rgb", "RGB"),
        ("a.pgm", "grey", "RGB"),
    ],
)
def test_odd_files_give_images_of_the_same_size(
    trained: RunDirectory, tmp_path: Path, name: str, kind: str, mode: str
) -> None:
    save_odd(tmp_path / name, kind)
    result = apply(trained, tmp_path / name, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    written = name.replace(".pgm", ".ppm")
    with Image.open(tmp_path / "out" / written) as made:
        assert made.size == (24, 20)
        assert made.mode == mode or (mode == "P" and made.mode == "RGB")
    assert ("frames" in result.output) == (kind == "animated")


def test_alpha_is_kept_beside(trained: RunDirectory, model: Model, tmp_path: Path) -> None:
    save_odd(tmp_path / "a.png", "rgba")
    apply(trained, tmp_path / "a.png", "-o", tmp_path / "out")
    made = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    pixels = drawn(20, 24, 4)
    assert np.array_equal(made[..., 3], pixels[..., 3])
    black = Image.new("RGBA", (24, 20), (0, 0, 0, 255))
    black.alpha_composite(Image.fromarray(pixels))
    laid = np.asarray(black.convert("RGB"))
    assert np.array_equal(made[..., :3], expected(model, laid))
    result = apply(trained, tmp_path / "a.png", "-o", tmp_path / "o2", "--format", "jpg")
    assert result.exit_code == 0
    assert "transparency cannot be kept" in result.output


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_stay_16_bits(
    trained: RunDirectory, model: Model, tmp_path: Path, suffix: str, channels: int
) -> None:
    import torch
    from kornia_rs import io as wide_io

    pixels = drawn(20, 24, channels, np.uint16)
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    mode = {3: "rgb", 4: "rgba"}.get(channels, "mono")
    if channels == 1:
        Image.fromarray(pixels).save(path)
    elif suffix == ".png":
        wide_io.write_image_png_u16(str(path), pixels, mode)
    else:
        write_tiff(path, pixels, photometric=2, extra=(2,) * (channels - 3))
    result = apply(trained, path, "-o", out)
    assert result.exit_code == 0, result.output
    if (suffix, channels) == (".tif", 4):  # which kornia_rs does not read
        made = read_picture(out, 4).pixels
        with Image.open(out) as image:
            assert image.tag_v2[258] == (16, 16, 16, 16)  # type: ignore[attr-defined]
    else:
        read = wide_io.read_image_png_u16 if suffix == ".png" else wide_io.read_image_tiff_u16
        made = np.asarray(read(str(out), "rgba" if channels == 4 else "rgb"))
    colours = (pixels[..., None] if channels == 1 else pixels)[..., :3].astype(np.float64)
    if channels == 4:
        assert np.array_equal(made[..., 3], pixels[..., 3])
        colours = np.floor(colours * pixels[..., 3:] / 65535 + 0.5)
    batch = torch.from_numpy(np.broadcast_to(colours, (20, 24, 3)) / 32767.5 - 1).float()
    by_hand = model.generate(batch.permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(made[..., :3] - (by_hand + 1) * 32767.5).max() <= 0.6
    assert len(np.unique(made[..., :3] % 256)) > 100


def test_orientation_profile_and_resolution(
    trained: RunDirectory, model: Model, tmp_path: Path
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(drawn(20, 24))
    exif = image.getexif()
    exif[274], exif[271], exif[306] = 6, "A camera", "2026:11:26 10:00:00"
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
        options = {"lossless": True} if suffix == ".webp" else {}
        image.save(path, exif=exif, icc_profile=profile, dpi=(300, 300), **options)
        assert apply(trained, path, "-o", out).exit_code == 0
        with Image.open(out) as made:
            assert made.size == (20, 24)  # turned by a quarter
            assert made.info["icc_profile"] == profile
            assert made.getexif().get(274, 1) == 1
            assert made.getexif()[271] == "A camera"
            if suffix != ".webp":
                assert made.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            pixels = np.asarray(made)
        if suffix == ".png":
            turned = np.rot90(drawn(20, 24), -1)
            assert np.array_equal(pixels, expected(model, turned))


def test_bad_files_are_named_and_the_rest_is_done(trained: RunDirectory, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(drawn(20, 24)).save(photos / name)
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[: len(whole) // 2])
    (photos / "d.jpg").write_bytes(b"this is no image")
    (photos / "e.png").write_bytes(b"")
    (photos / "f.png").symlink_to("nowhere")
    Image.fromarray(drawn(20, 24).astype(np.float32)[..., 0]).save(photos / "g.tif")
    result = apply(trained, photos, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "2 images in" in result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    for name in ("b.png", "d.jpg", "e.png", "f.png", "g.tif"):
        assert f"{photos / name}: " in result.output
    assert "5 images could not be used." in result.output
    assert "Traceback" not in result.output


def test_files_are_kept_unless_they_may_be_replaced(trained: RunDirectory, tmp_path: Path) -> None:
    Image.fromarray(drawn(20, 24)).save(tmp_path / "a.png")
    out = tmp_path / "out.png"
    out.write_bytes(b"mine")
    assert apply(trained, tmp_path / "a.png", "-o", out).exit_code == 0
    assert out.read_bytes() == b"mine"
    assert apply(trained, tmp_path / "a.png", "-o", out, "--overwrite").exit_code == 0
    assert Image.open(out).size == (24, 20)


def test_names_and_formats(trained: RunDirectory, tmp_path: Path) -> None:
    for name in ("a.png", "b.bmp"):
        Image.fromarray(drawn(20, 24)).save(tmp_path / name)
    words = (trained, tmp_path / "*", "-o", tmp_path / "out")
    result = apply(*words, "--format", "webp", "--suffix", "_made")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_made.webp", "b_made.webp"]
    assert Image.open(tmp_path / "out" / "a_made.webp").format == "WEBP"


def test_standard_input_and_output(trained: RunDirectory, model: Model) -> None:
    file = io.BytesIO()
    Image.fromarray(drawn(20, 24)).save(file, format="PNG")
    result = apply(trained, "-", "-o", "-", input=file.getvalue())
    assert result.exit_code == 0
    made = np.asarray(Image.open(io.BytesIO(result.stdout_bytes)))
    assert np.array_equal(made, expected(model, drawn(20, 24)))
    assert "1 image in" in result.stderr


def test_resize_as_trained(trained: RunDirectory, model: Model, tmp_path: Path) -> None:
    image = Image.fromarray(drawn(70, 45))
    image.save(tmp_path / "a.png")
    apply(trained, tmp_path / "a.png", "-o", tmp_path / "out.png", "--resize")
    made = np.asarray(Image.open(tmp_path / "out.png"))
    small = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(made, expected(model, small))


def test_dropout_is_seeded(trained: RunDirectory, tmp_path: Path) -> None:
    Image.fromarray(drawn(32, 32)).save(tmp_path / "a.png")
    made = {}
    for name, seed in (("b", 1), ("c", 1), ("d", 2)):
        out = tmp_path / f"{name}.png"
        apply(trained, tmp_path / "a.png", "-o", out, "--dropout", "--seed", seed)
        made[name] = out.read_bytes()
    assert made["b"] == made["c"] != made["d"]


def test_errors_are_reported_before_anything_is_written(
    trained: RunDirectory, tmp_path: Path
) -> None:
    for name in ("a.png", "a.bmp", "empty/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("")
        else:
            Image.fromarray(drawn(20, 24)).save(tmp_path / name)
    out = tmp_path / "out"
    for words, told in [
        ((tmp_path / "none.png", "-o", out), "none.png' does not exist"),
        ((tmp_path / "*.jpg", "-o", out), "matches nothing"),
        ((tmp_path / "empty", "-o", out), "contains no image; found: 1 .txt. Images end in"),
        ((tmp_path / "a.png", tmp_path / "a.bmp", "-o", out, "--format", "png"), "both be written"),
        ((tmp_path / "a.png", "-o", tmp_path), "written over itself"),
        ((tmp_path / "a.png", tmp_path / "a.bmp", "-o", "-"), "takes one image"),
        ((tmp_path / "a.png", "-o", tmp_path / "a.bmp" / "x"), "cannot be written to: Not a direc"),
        ((tmp_path / "a.png", "-o", "/proc/x/y.png"), "'/proc/x' cannot be written to: "),
        ((tmp_path / "a.png", "-o", out, "--format", "docx"), "format is 'docx'; allowed: avif"),
        ((tmp_path / "a.png", "-o", out, "--suffix", "/x"), "--suffix is '/x'"),
        ((tmp_path / "a.png", "-o", out, "--device", "gpu"), "device is 'gpu'; allowed"),
    ]:
        result = apply(trained, *words)
        assert result.exit_code == 2, told
        assert told in result.output, result.output
        assert not out.exists()
    odd = tmp_path / "odd.png"
    Image.fromarray(drawn(20, 25)).save(odd)
    result = apply(trained, odd, "-o", out, "--side", "A")
    assert result.exit_code == 1
    assert "the width 25 is odd" in result.output
    assert "images in" not in result.output, "nothing was written"
    result = apply(trained, tmp_path / "a.png", "-o", out, "--seed", "3")
    assert result.exit_code == 0
    assert "--seed is not used: dropout is off; --dropout keeps it on." in result.output


def test_16_bits_that_an_exported_model_does_not_take_are_told(
    trained: RunDirectory, pairs_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.pt2"
    words = ["export", trained, "-o", file, "--format", "pt2", "--input", "uint8", "-d", pairs_root]
    assert CliRunner().invoke(main, [str(word) for word in words]).exit_code == 0
    Image.fromarray(drawn(20, 24, 1, np.uint16)).save(tmp_path / "a.png")
    result = apply(file, tmp_path / "a.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert "a.png: its 16 bits pass through the 8 of this exported model." in result.output
