"""16 bits in several channels are read as they are in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nectargan.dataset.raw_pairs import with_channels
from nectargan.images.reading import read_raw
from nectargan.inference.picture_files import write_picture
from nectargan.inference.pictures import Metadata, Picture, read_picture
from tests.dataset.tiffs import write_tiff


def drawn(channels: int) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, 65536, (20, 24, channels), np.uint16)


def all_of(picture: Picture) -> np.ndarray:
    """With alpha, which a generator of 1 or 3 channels does not take."""
    parts = (
        [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha[..., None]]
    )
    return np.concatenate(parts, axis=2)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_written_content_is_read_back(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"a{suffix}"
    assert write_picture(path, Picture(drawn(channels))) == []
    if (suffix, channels) == (".tif", 2):
        return  # Pillow reads no such TIFF
    picture = read_picture(path, channels)
    assert picture.metadata.notes == ()
    assert np.array_equal(all_of(picture), drawn(channels))


@pytest.mark.parametrize("found", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_generator_sees_the_values_of_training(tmp_path: Path, found: int, channels: int) -> None:
    path = tmp_path / "a.png"
    write_picture(path, Picture(drawn(found)))
    trained_on = with_channels(read_raw(path).values, channels, path, "input_nc")
    picture = read_picture(path, channels)
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(picture.pixels, trained_on)
    if channels in (1, 3) and found in (2, 4):
        assert np.array_equal(picture.alpha, drawn(found)[..., -1])  # type: ignore[arg-type]
    else:
        assert picture.alpha is None


@pytest.mark.parametrize("extra", [(), (0,), (1,), (2,)])
def test_tiffs_that_others_wrote(tmp_path: Path, extra: tuple[int, ...]) -> None:
    """Alpha that is none, is multiplied in, or is not."""
    pixels = drawn(4) if extra else drawn(3)
    if extra == (1,):
        pixels[..., :3] = (pixels[..., :3].astype(np.uint32) * pixels[..., 3:] // 65535).astype(
            "u2"
        )
    path = write_tiff(tmp_path / "a.tif", pixels, photometric=2, extra=extra)
    picture = read_picture(path, 4 if extra in ((1,), (2,)) else 3)
    assert picture.metadata.notes == ()
    if extra != (1,):
        assert np.array_equal(picture.pixels, pixels[..., : picture.pixels.shape[2]])
        return
    assert np.array_equal(picture.pixels[..., 3], pixels[..., 3])
    again = picture.pixels[..., :3].astype(np.float64) * pixels[..., 3:] / 65535
    assert np.abs(again - pixels[..., :3]).max() <= 0.51


def test_orientation(tmp_path: Path) -> None:
    """A turned image is turned in all its bits."""
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.png"
    write_picture(path, Picture(drawn(3), metadata=Metadata(exif=exif.tobytes())))
    picture = read_picture(path, 3)
    assert np.array_equal(picture.pixels, np.rot90(drawn(3), -1))


def test_a_transparent_color_of_16_bits(tmp_path: Path) -> None:
    grey = drawn(1)[..., 0]
    grey[:3] = 12345
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=12345)
    picture = read_picture(tmp_path / "a.png", 1)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, grey == 12345)
    assert np.array_equal(picture.pixels[3:, :, 0][grey[3:] != 12345], grey[3:][grey[3:] != 12345])


def test_what_has_8_bits_only_is_told(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", drawn(4), photometric=5)
    picture = read_picture(path, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.metadata.notes == ("its 16 bits of CMYK are read as 8",)
