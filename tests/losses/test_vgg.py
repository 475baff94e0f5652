from __future__ import annotations

import copy
import hashlib
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nectargan.errors import CheckpointError, LossError
from nectargan.losses import vgg
from nectargan.losses.vgg import VGG19Features, VGGPerceptualLoss

# torchvision's VGG19: index of each convolution in `features`, its channels in and out.
CONVOLUTIONS = {
    0: (3, 64), 2: (64, 64),
    5: (64, 128), 7: (128, 128),
    10: (128, 256), 12: (256, 256), 14: (256, 256), 16: (256, 256),
    19: (256, 512), 21: (512, 512), 23: (512, 512), 25: (512, 512),
    28: (512, 512), 30: (512, 512), 32: (512, 512), 34: (512, 512),
}  # fmt: skip
CLASSIFIER = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}
POOLINGS = (4, 9, 18, 27)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index, (nc_in, nc_out) in CONVOLUTIONS.items():
        # Uniform, of He's variance, so that the signal neither dies nor explodes; quick to draw.
        limit = (6 / (9 * nc_in)) ** 0.5
        weight = torch.empty(nc_out, nc_in, 3, 3).uniform_(-limit, limit, generator=generator)
        tensors[f"features.{index}.weight"] = weight
        tensors[f"features.{index}.bias"] = torch.rand(nc_out, generator=generator) / 10
    for index, shape in CLASSIFIER.items():  # one number on disk, whatever the shape
        tensors[f"classifier.{index}.weight"] = torch.zeros(1).expand(shape)
        tensors[f"classifier.{index}.bias"] = torch.zeros(1).expand(shape[0])
    return tensors


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def loss(weights: Path) -> VGGPerceptualLoss:
    return VGGPerceptualLoss(weights)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def reference_features(state: dict[str, Tensor], x: Tensor) -> dict[int, Tensor]:
    """Output of each ReLU of torchvision's `features`, by its index."""
    outs = {}
    for index in range(36):
        if index in CONVOLUTIONS:
            weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
            x = F.conv2d(x, weight, bias, padding=1)
        elif index in POOLINGS:
            x = F.max_pool2d(x, kernel_size=2, stride=2)
        else:
            x = outs[index] = F.relu(x)
    return outs


def reference_loss(state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    a, b = (reference_features(state, ((t + 1) / 2 - mean) / std) for t in (x, y))
    weights = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1}
    return sum(w * (a[i] - b[i]).abs().mean() for i, w in weights.items())


def test_features_equal_an_independent_forward(state: dict[str, Tensor], weights: Path) -> None:
    names = ("relu5_4", "relu1_2", "relu3_3")
    x = image(1, 3, 32, 48)
    found = VGG19Features(names, weights)(x)
    expected = reference_features(state, x)
    assert list(found) == ["relu1_2", "relu3_3", "relu5_4"]
    for name, index in (("relu1_2", 3), ("relu3_3", 15), ("relu5_4", 35)):
        torch.testing.assert_close(found[name], expected[index])
    assert found["relu5_4"].shape == (1, 512, 2, 3)
    assert found["relu5_4"].std() > 0.01


def test_parameters_have_the_names_of_torchvision(state: dict[str, Tensor], weights: Path) -> None:
    whole = VGG19Features(["relu5_4"], weights).state_dict()
    assert list(whole) == [name for name in state if name.startswith("features")]
    assert all(torch.equal(whole[name], state[name]) for name in whole)
    # Nothing deeper than asked for is kept in memory.
    assert list(VGG19Features(["relu2_1"], weights).state_dict()) == [
        f"features.{index}.{kind}" for index in (0, 2, 5) for kind in ("weight", "bias")
    ]


def test_loss_equals_an_independent_one(state: dict[str, Tensor], loss: VGGPerceptualLoss) -> None:
    x, y = image(2, 3, 32, 32), image(2, 3, 32, 32, seed=1)
    torch.testing.assert_close(loss(x, y), reference_loss(state, x, y))
    assert loss(x, x).item() == 0


def test_one_channel_is_repeated(state: dict[str, Tensor], weights: Path) -> None:
    x, y = image(1, 1, 16, 17), image(1, 1, 16, 17, seed=1)
    expected = reference_loss(state, x.expand(1, 3, 16, 17), y.expand(1, 3, 16, 17))
    torch.testing.assert_close(VGGPerceptualLoss(str(weights), channels=1)(x, y), expected)


def test_the_gradient_reaches_the_generated_image_alone(loss: VGGPerceptualLoss) -> None:
    x = image(1, 3, 16, 16).requires_grad_()
    y = image(1, 3, 16, 16, seed=1).requires_grad_()
    loss.train()  # as its owner may say; the network stays a fixed ruler
    loss(x, y).backward()
    assert torch.count_nonzero(x.grad) == x.numel()
    assert y.grad is None
    assert not any(p.requires_grad or p.grad is not None for p in loss.parameters())
    assert not loss.network.training
    assert not any(module.training for module in loss.network.modules())


def test_loss_is_float32_under_autocast(loss: VGGPerceptualLoss) -> None:
    x, y = image(1, 3, 16, 16), image(1, 3, 16, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(x, y)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(loss(x, y).item(), rel=0.02)


def test_its_network_runs_in_the_context_that_it_is_given(weights: Path) -> None:
    loss, seen = VGGPerceptualLoss(weights), set()
    loss.network.features[0].register_forward_hook(lambda *args: seen.add(args[2].dtype))
    x, y = image(1, 3, 16, 16), image(1, 3, 16, 16, seed=1)
    full = loss(x, y)
    assert seen == {torch.float32}
    seen.clear()
    loss.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    low = loss(x, y)
    assert seen == {torch.bfloat16}
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(full.item(), rel=0.02)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 3, 15, 64)] * 2, "images of 15 x 64 (height x width); each side must be at least 16"),
        ([(1, 1, 16, 16)] * 2, "built for images with 3 channels, not 1."),
        ([(1, 3, 16, 16), (1, 3, 16, 32)], "shape (1, 3, 16, 16) and (1, 3, 16, 32); both must"),
    ],
)
def test_images_that_do_not_fit(
    shapes: list[tuple[int, ...]], message: str, loss: VGGPerceptualLoss
) -> None:
    with pytest.raises(LossError, match=re.escape(message)):
        loss(*(image(*shape) for shape in shapes))


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_channels_are_refused_before_any_file_is_read(channels: int) -> None:
    with pytest.raises(LossError, match=f"images with {channels} channels; it takes 1 or 3"):
        VGGPerceptualLoss("no such file", channels=channels)


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "layers is empty"), (["relu3_5"], "layers is 'relu3_5'. Did you mean 'relu3_")],
)
def test_unknown_layers_are_refused(layers: list[str], message: str) -> None:
    with pytest.raises(LossError, match=re.escape(message)):
        VGG19Features(layers, "no such file")


def shallow(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"features.{i}.{k}": state[f"features.{i}.{k}"] for i in (0, 2) for k in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.2.bias"), "'features.2.bias' of shape (64,), but has none"),
        (lambda s: s.update({"features.2.weight": torch.zeros(64, 3, 3, 3)}),
         "'features.2.weight' of shape (64, 64, 3, 3), but has one of (64, 3, 3, 3)"),
        (lambda s: s.update({"features.0.bias": [0.0] * 64}), "'features.0.bias' of shape (64,)"),
        (lambda s: [s.update({f"vgg.{key}": s.pop(key)}) for key in list(s)],
         "'features.0.weight' of shape (64, 3, 3, 3), but has none"),
    ],
)  # fmt: skip
def test_another_state_dict_is_refused(
    change: object, message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "other.pth"
    wrong = shallow(state)
    change(wrong)
    torch.save(wrong, path)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        VGG19Features(["relu1_2"], path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="has none"):
        VGG19Features(["relu1_1"], tmp_path / "list.pth")


def test_damaged_files_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"features.0.bias": state["features.0.bias"]}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    garbled = whole.replace(b"features", b"\xff\x00\xff\x00\xff\x00\xff\x00")
    for content in (b"", b"no weights", b"\x80\x02.", whole[:300], whole[:-50], garbled):
        path = tmp_path / "damaged.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            VGG19Features(["relu1_1"], path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"cannot be read \(FileNotFoundError.*vgg_weights"):
        VGG19Features(weights=tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        VGG19Features(weights=tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    bias = {"features.0.bias": torch.zeros(64)}
    torch.save(bias, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be read"):
            VGG19Features(["relu1_1"], path)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": Path("x")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="UnpicklingError: Weights only load failed"):
        VGG19Features(weights=tmp_path / "evil.pth")


def serve(path: Path, monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    """Puts a local file where the official one is downloaded from, and an empty cache."""
    monkeypatch.setattr(vgg, "VGG19_URL", path.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(hub))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


def test_download_is_checked_by_its_hash_and_kept(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(shallow(state), tmp_path / "plain.pth")
    digest = hashlib.sha256((tmp_path / "plain.pth").read_bytes()).hexdigest()[:8]
    official = (tmp_path / "plain.pth").rename(tmp_path / f"vgg19-{digest}.pth")
    serve(official, monkeypatch, tmp_path / "hub")
    features = VGG19Features(["relu1_2"])
    assert torch.equal(features.features[2].weight, state["features.2.weight"])
    official.unlink()  # offline from now on
    VGG19Features(["relu1_2"])


def test_failed_downloads_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "vgg19-dcbb9e9d.pth"
    wrong.write_bytes(b"not the official file")
    for path, reason in ((tmp_path / "vgg19-00000000.pth", "URLError"), (wrong, "hash")):
        serve(path, monkeypatch, tmp_path / "hub")
        with pytest.raises(CheckpointError, match=reason) as caught:
            VGGPerceptualLoss()
        message = str(caught.value)
        assert f"download {path.as_uri()} on another machine" in message
        assert message.endswith("set train.vgg_weights to the path of the file.")
        assert "\n" not in message


def test_official_address() -> None:
    assert vgg.VGG19_URL == "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"


def test_loss_can_be_copied(loss: VGGPerceptualLoss) -> None:
    x, y = image(1, 3, 16, 16), image(1, 3, 16, 16, seed=1)
    assert torch.equal(copy.deepcopy(loss)(x, y), loss(x, y))


def test_three_chosen_channels_are_compared(weights: Path, loss: VGGPerceptualLoss) -> None:
    chosen = VGGPerceptualLoss(weights, channels=13, selection=[4, 0, 12])
    x, y = image(1, 13, 32, 32), image(1, 13, 32, 32, seed=1)
    order = [4, 0, 12]
    assert torch.equal(chosen(x, y), loss(x[:, order], y[:, order]))
    for selection in ([0, 1], [0, 1, 13]):
        with pytest.raises(LossError, match="takes three numbers from 1 to 13"):
            VGGPerceptualLoss(weights, 13, selection)
    with pytest.raises(LossError, match=r"13 channels; .* with train\.vgg_channels"):
        VGGPerceptualLoss(weights, channels=13)
