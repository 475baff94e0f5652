"""Augmentations: values where there is a closed form, and who is changed with whom."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nectargan.config.schema import Config
from nectargan.dataset.augmentations import PairAugmentation
from nectargan.errors import DataError

ELASTIC = {
    "elastic_transform_chance": 1.0,
    "elastic_transform_alpha": 60.0,
    "elastic_transform_sigma": 4.0,
}
DISTORTION = {
    "optical_distortion_chance": 1.0,
    "optical_distortion_min": 0.3,
    "optical_distortion_max": 0.5,
    "optical_distortion_mode": "camera",
}
DROPOUT = {
    "coarse_dropout_chance": 1.0,
    "coarse_dropout_holes_min": 1,
    "coarse_dropout_holes_max": 2,
    "coarse_dropout_height_min": 0.25,
    "coarse_dropout_height_max": 0.25,
    "coarse_dropout_width_min": 0.5,
    "coarse_dropout_width_max": 0.5,
}
JITTER = {
    "colorjitter_chance": 1.0,
    "colorjitter_min_brightness": 0.5,
    "colorjitter_max_brightness": 0.9,
}
NOISE = {"gaussnoise_chance": 1.0, "gaussnoise_min": 0.05, "gaussnoise_max": 0.1}
BLUR = {"motionblur_chance": 1.0, "motionblur_limit": 7}
GAMMA = {"randgamma_chance": 1.0, "randgamma_min": 80.0, "randgamma_max": 120.0}
GREY = {"grayscale_chance": 1.0, "grayscale_method": "weighted_average"}
JPEG = {
    "compression_chance": 1.0,
    "compression_type": "jpeg",
    "compression_quality_min": 20,
    "compression_quality_max": 30,
}
BOTH = {"elastic": ELASTIC, "distortion": DISTORTION, "dropout": DROPOUT}
INPUT = {"jitter": JITTER, "noise": NOISE, "blur": BLUR, "gamma": GAMMA, "grey": GREY, "jpeg": JPEG}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def noise_image(n: int = 3, c: int = 3, h: int = 24, w: int = 40) -> Tensor:
    """Random pixels in [-0.8, 0.8]."""
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8


def unit(images: Tensor) -> Tensor:
    return (images + 1) / 2


def one_sample(images: Tensor, settings: dict[str, object]) -> Tensor:
    """Images in [0, 1] after one stage on the input."""
    return unit(PairAugmentation({}, settings)(images * 2 - 1, images)[0])


@pytest.mark.parametrize("settings", BOTH.values(), ids=BOTH)
def test_both_stages_do_the_same_to_input_and_target(settings: dict[str, object]) -> None:
    image = noise_image()
    augment = PairAugmentation(settings, {})
    # The channels differ in number; the first is the same picture.
    a, b = augment(image, image[:, :1])
    assert a.shape == image.shape
    assert torch.equal(a[:, :1], b)
    assert (a - image).abs().mean() > 0.05
    assert a.abs().max() <= 1.0


@pytest.mark.parametrize("settings", BOTH.values(), ids=BOTH)
def test_both_stages_differ_from_pair_to_pair(settings: dict[str, object]) -> None:
    image = noise_image(1).expand(3, -1, -1, -1)
    a, _ = PairAugmentation(settings, {})(image, image)
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(a[1], a[2])


@pytest.mark.parametrize("settings", INPUT.values(), ids=INPUT)
def test_input_stages_leave_the_target(settings: dict[str, object]) -> None:
    image = noise_image()
    kept, before = image.clone(), image.clone()
    a, b = PairAugmentation({}, settings)(image, kept)
    assert b is kept
    assert torch.equal(kept, before)
    assert torch.equal(image, before)  # nothing is done in place
    assert a.shape == image.shape
    assert all((a[i] - image[i]).abs().mean() > 0.005 for i in range(3))
    assert a.abs().max() <= 1.0


def test_a_seed_of_torch_fixes_every_stage() -> None:
    both = {key: value for stage in BOTH.values() for key, value in stage.items()}
    input = {key: value for stage in INPUT.values() for key, value in stage.items()}
    half = {key: 0.5 if key.endswith("_chance") else value for key, value in both.items()}
    augment, image = PairAugmentation(half, input), noise_image()
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(torch.cat(augment(image, image)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_chance_picks_pairs_and_returns_the_others_bit_for_bit() -> None:
    image = noise_image(400, 1, 4, 4)
    torch.manual_seed(0)
    a, b = PairAugmentation({**DROPOUT, "coarse_dropout_chance": 0.25}, {})(image, image)
    same = [torch.equal(a[i], image[i]) for i in range(400)]
    assert 60 <= same.count(False) <= 140
    assert same == [torch.equal(b[i], image[i]) for i in range(400)]


def test_nothing_to_do_is_the_identity() -> None:
    none = {"h_flip_chance": 1.0, "v_flip_chance": 0.5, "rot90_chance": 0.5, **ELASTIC}
    none["elastic_transform_chance"] = 0.0
    augment = PairAugmentation(none, {"compression_chance": 0.0, "compression_type": "webp"})
    image, target = noise_image(), noise_image(c=1)
    a, b = augment(image, target)
    assert not augment.enabled
    assert a is image
    assert b is target
    assert PairAugmentation({}, GAMMA).enabled


def test_kornia_is_loaded_only_when_it_is_needed() -> None:
    code = f"""
import sys, torch
from nectargan.dataset.augmentations import PairAugmentation
x = torch.zeros(1, 3, 8, 8)
PairAugmentation({{"h_flip_chance": 1.0}}, {{}})(x, x)
assert "kornia" not in sys.modules
PairAugmentation({{}}, {GREY!r})(x, x)
assert "kornia" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_elastic_moves_pixels_by_the_smoothed_field() -> None:
    # In images that hold their own coordinates, the change of value is the displacement.
    h, w = 40, 60
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    image = torch.stack([x, y])[None] * 2 - 1
    settings = {**ELASTIC, "elastic_transform_alpha": 8.0, "elastic_transform_sigma": 2.0}
    torch.manual_seed(3)
    out, _ = PairAugmentation(settings, {})(image, image)
    torch.manual_seed(3)
    torch.rand(1)  # the draw of the chance
    field = torch.rand(1, 2, h, w)[0].double().numpy() * 2 - 1
    taps = np.exp(-(np.arange(-6, 7) ** 2) / (2 * 2.0**2))
    taps /= taps.sum()
    for axis, side, moved in ((0, w, out[0, 0]), (1, h, out[0, 1])):
        smooth = np.apply_along_axis(np.convolve, 0, field[axis], taps, "same")
        smooth = np.apply_along_axis(np.convolve, 1, smooth, taps, "same")
        pixels = (moved - image[0, axis]) / 2 * side
        inner = slice(8, -8)
        assert np.allclose(pixels[inner, inner], 8.0 * smooth[inner, inner], atol=2e-3)


@pytest.mark.parametrize("mode", ["camera", "fisheye"])
def test_distortion_scales_the_distance_from_the_centre(mode: str) -> None:
    h, w, k = 21, 31, -0.4
    y, x = torch.meshgrid(torch.arange(h) - 10.0, torch.arange(w) - 15.0, indexing="ij")
    image = torch.stack([x / 20, y / 20])[None]
    settings = {**DISTORTION, "optical_distortion_mode": mode}
    settings |= {"optical_distortion_min": k, "optical_distortion_max": k}
    out, _ = PairAugmentation(settings, {})(image, image)
    if mode == "camera":
        r2 = (x / w) ** 2 + (y / h) ** 2
        scale = 1 + k * r2 + k * r2**2
    else:
        scale = 1 + k * (x**2 + y**2) / (10**2 + 15**2)
    assert torch.allclose(out, image * scale, atol=1e-5)


@pytest.mark.parametrize("settings", [ELASTIC, DISTORTION])
def test_a_label_map_gets_no_new_colours_and_moves_with_its_partner(
    settings: dict[str, object],
) -> None:
    """Each pixel is the nearest one to where the partner, a ramp, is interpolated."""
    n, h, w = 3, 24, 40
    places = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    ramp = (places / torch.tensor([h - 1, w - 1]).view(2, 1, 1) * 2 - 1).expand(n, 2, h, w)
    labels = torch.randint(0, 256, (n, 3, h, w)).div(127.5).sub(1)
    pair = PairAugmentation(settings, {}, nearest=(True, False))
    moved, where = pair(labels, ramp)
    assert not torch.equal(moved, labels)
    sides = torch.tensor([h - 1, w - 1]).view(2, 1, 1)
    y, x = where.add(1).div(2).mul(sides).round().long().unbind(1)
    expected = torch.stack(
        [each[:, row, column] for each, row, column in zip(labels, y, x, strict=True)]
    )
    # Where it lies in the middle between two pixels, rounding decides.
    assert (moved == expected).all(dim=1).float().mean() > 0.999
    for before, after in zip(labels, moved, strict=True):
        colours = {tuple(pixel) for pixel in before.flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in after.flatten(1).T.tolist()} <= colours
    torch.manual_seed(0)
    torch.randint(0, 256, (n, 3, h, w))
    assert torch.equal(PairAugmentation(settings, {})(labels, ramp)[1], where)


def test_dropout_paints_whole_black_rectangles() -> None:
    image = torch.full((200, 2, 16, 20), 0.5)
    a, b = PairAugmentation(DROPOUT, {})(image, image)
    black = a == -1.0
    assert torch.equal(black | (a == 0.5), torch.ones_like(black))
    assert torch.equal(black, b == -1.0)
    # One hole of 4 x 10 pixels, or two that may overlap.
    sizes = black[:, 0].sum(dim=(1, 2))
    assert sizes.min() == 40
    assert 40 < sizes.max() <= 80
    for hole in black[sizes == 40, 0]:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert (len(rows), len(columns)) == (4, 10)
        assert rows[-1] - rows[0] == 3
        assert columns[-1] - columns[0] == 9


def test_dropout_reaches_every_edge() -> None:
    image = torch.ones(300, 1, 4, 2)
    a, _ = PairAugmentation(DROPOUT, {})(image, image)
    assert torch.equal((a == -1.0).any(dim=0)[0], torch.ones(4, 2, dtype=torch.bool))


def test_jitter_multiplies_and_clamps() -> None:
    settings = {**JITTER, "colorjitter_min_brightness": 1.5, "colorjitter_max_brightness": 1.5}
    image = torch.tensor([0.0, 0.2, 0.4, 0.9]).view(1, 1, 2, 2)
    out = one_sample(image, settings)
    assert torch.allclose(out.flatten(), torch.tensor([0.0, 0.3, 0.6, 1.0]))


def test_jitter_stays_within_its_range() -> None:
    out = one_sample(torch.full((300, 1, 2, 2), 0.5), JITTER)
    factors = out[:, 0, 0, 0] / 0.5
    assert torch.equal(out, out[:, :, :1, :1].expand_as(out))
    assert 0.5 <= factors.min() < 0.53
    assert 0.87 < factors.max() <= 0.9 + 1e-6


def test_noise_has_the_deviation_asked_for() -> None:
    out = one_sample(torch.full((8, 3, 64, 64), 0.5), NOISE)
    deviations = out.std(dim=(1, 2, 3))
    assert 0.048 <= deviations.min() < deviations.max() <= 0.102
    assert (out.mean(dim=(1, 2, 3)) - 0.5).abs().max() < 0.005


def test_blur_spreads_a_point_along_a_line_and_keeps_its_sum() -> None:
    image = torch.zeros(60, 3, 15, 17)
    image[:, :, 7, 8] = 1.0
    out = one_sample(image, BLUR)
    assert torch.allclose(out.sum(dim=(2, 3)), torch.ones(60, 3), atol=1e-4)
    assert torch.equal(out[:, 0], out[:, 1])
    lit = [row[0].nonzero() - torch.tensor([7, 8]) for row in (out > 1e-6)]
    reach = {int(points.abs().max()) for points in lit}
    assert reach <= {1, 2, 3}
    assert 3 in reach
    assert 1 in reach


def test_gamma_is_in_percent() -> None:
    image = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2)
    for percent in (50.0, 200.0):
        settings = {"randgamma_chance": 1.0, "randgamma_min": percent, "randgamma_max": percent}
        assert torch.allclose(one_sample(image, settings), image ** (percent / 100), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "grey"),
    [
        ("weighted_average", 0.299 * 0.8 + 0.587 * 0.2 + 0.114 * 0.5),
        ("average", 0.5),
        ("max", 0.8),
        ("desaturation", 0.5),
    ],
)
def test_grayscale_methods(method: str, grey: float) -> None:
    image = torch.tensor([0.8, 0.2, 0.5]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    out = one_sample(image, {**GREY, "grayscale_method": method})
    assert torch.allclose(out, torch.full_like(image, grey), atol=1e-6)


def test_grayscale_from_lab_is_lightness() -> None:
    # Middle grey of 18 % reflectance, 0.4613 in sRGB, has the lightness 49.5.
    image = torch.full((1, 3, 2, 2), 0.4613)
    out = one_sample(image, {**GREY, "grayscale_method": "from_lab"})
    assert torch.allclose(out, torch.full_like(image, 0.495), atol=1e-3)


def test_compression_is_near_to_what_pillow_decodes() -> None:
    y, x = np.mgrid[0:32, 0:48]
    pixels = np.stack([4 * x + y, 5 * y, 128 + 60 * np.sin(x / 2)], -1).clip(0, 255)
    pixels = pixels.astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=25)
    expected = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1) / 255
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    out = one_sample(image, {**JPEG, "compression_quality_min": 25, "compression_quality_max": 25})
    error, change = (out[0] - expected).abs().mean(), (image[0] - expected).abs().mean()
    assert change > 0.015
    assert error < change / 2


def test_reference_config_builds(reference: dict[str, dict[str, object]]) -> None:
    assert not PairAugmentation(reference["both"], reference["input"]).enabled
    all_on = {
        place: {k: 1.0 if k.endswith("_chance") else v for k, v in reference[place].items()}
        for place in ("both", "input")
    }
    a, b = PairAugmentation(all_on["both"], all_on["input"])(noise_image(), noise_image())
    assert a.isfinite().all()
    assert b.isfinite().all()


@pytest.fixture
def reference() -> dict[str, dict[str, object]]:
    """The keys and defaults of the original's config."""
    text = """{
      "both": {"h_flip_chance": 0.5, "v_flip_chance": 0.0, "rot90_chance": 0.0,
        "elastic_transform_chance": 0.0, "elastic_transform_alpha": 1.0,
        "elastic_transform_sigma": 50.0, "optical_distortion_chance": 0.0,
        "optical_distortion_min": -0.05, "optical_distortion_max": 0.05,
        "optical_distortion_mode": "camera", "coarse_dropout_chance": 0.0,
        "coarse_dropout_holes_min": 1, "coarse_dropout_holes_max": 2,
        "coarse_dropout_height_min": 0.1, "coarse_dropout_height_max": 0.2,
        "coarse_dropout_width_min": 0.1, "coarse_dropout_width_max": 0.2},
      "input": {"colorjitter_chance": 0.0, "colorjitter_min_brightness": 0.8,
        "colorjitter_max_brightness": 1.2, "gaussnoise_chance": 0.0, "gaussnoise_min": 0.2,
        "gaussnoise_max": 0.44, "motionblur_chance": 0.0, "motionblur_limit": 7,
        "randgamma_chance": 0.0, "randgamma_min": 80.0, "randgamma_max": 120.0,
        "grayscale_chance": 0.0, "grayscale_method": "weighted_average",
        "compression_chance": 0.0, "compression_type": "jpeg", "compression_quality_min": 99,
        "compression_quality_max": 100}}"""
    loaded: dict[str, dict[str, object]] = json.loads(text)
    return loaded


@pytest.mark.parametrize(
    ("both", "input", "message"),
    [
        ({"elastic_transfrom_chance": 1.0}, {}, "both.elastic_transfrom_chance is unknown. Did"),
        ({}, {"h_flip_chance": 1.0}, "input.h_flip_chance is unknown"),
        ({**ELASTIC, "elastic_transform_chance": 2}, {}, "elastic_transform_chance is 2; a chance"),
        ({"elastic_transform_chance": 1}, {}, "elastic_transform_alpha, elastic_transform_sigma"),
        ({**ELASTIC, "elastic_transform_sigma": 0.0}, {}, "elastic_transform needs 0.1 <= sigma"),
        (
            {**DISTORTION, "optical_distortion_max": 0.1},
            {},
            "optical_distortion needs -1 <= min <= max <= 1, but got min = 0.3, max = 0.1",
        ),
        ({**DISTORTION, "optical_distortion_mode": "eye"}, {}, "mode 'eye', allowed: camera, fish"),
        (
            {**DROPOUT, "coarse_dropout_holes_min": 3},
            {},
            " 1 <= holes_min <= holes_max <= 10000,",
        ),
        ({}, {**GAMMA, "randgamma_min": float("nan")}, "randgamma needs 1 <= min <= max"),
        ({}, {**BLUR, "motionblur_limit": 1}, "needs 3 <= limit <= 255, but got limit = 1"),
        ({}, {**GREY, "grayscale_method": "pca"}, "method 'pca', allowed: weighted_average"),
        ({}, {**JPEG, "compression_type": "webp"}, "the type 'webp', allowed: jpeg"),
        ({}, {**JPEG, "compression_quality_max": 101}, "quality_max <= 100, but got"),
    ],
)
def test_bad_settings_name_their_key(
    both: dict[str, object], input: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        PairAugmentation(both, input)
    assert "augmentations." in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "settings"), [("grayscale", GREY), ("compression", JPEG)])
def test_colour_stages_need_three_channels(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(DataError, match=f"input.{name}_chance .* input_nc is 1"):
        PairAugmentation({}, settings, input_nc=1)
    off = {f"{name}_chance": 0.0}
    assert not PairAugmentation({}, off, input_nc=1).enabled


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("name", ["dropout", "jitter", "noise", "blur", "gamma"])
def test_alpha_is_left_alone(name: str, channels: int) -> None:
    images = noise_image(c=channels)
    augment = PairAugmentation(BOTH.get(name, {}), INPUT.get(name, {}), input_nc=channels)
    changed, _ = augment(images, images.clone())
    assert torch.equal(changed[:, -1], images[:, -1])
    assert not torch.equal(changed[:, 0], images[:, 0])


@pytest.mark.parametrize("name", ["elastic", "distortion"])
def test_alpha_moves_with_its_pixels(name: str) -> None:
    grey = noise_image(c=1)
    moved, _ = PairAugmentation(BOTH[name], {}, input_nc=2)(torch.cat([grey, grey], 1), grey)
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert not torch.equal(moved[:, 1:], grey)


def test_sections_of_a_config_are_taken_as_they_are() -> None:
    sections = Config().dataloader.augmentations
    both, input = sections.both.model_dump(), sections.input.model_dump()
    assert not PairAugmentation(both, input).enabled
    assert PairAugmentation(both, input | {"gaussnoise_chance": 1.0}).enabled
    with pytest.raises(DataError, match=r"augmentations\.input\.own is unknown"):
        PairAugmentation(both, input | {"own": {"mine": {"function": "a.B"}}})
