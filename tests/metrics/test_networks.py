"""The networks of LPIPS, DISTS, FID and KID with random weights, against independent references."""

from __future__ import annotations

import copy
import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nectargan.errors import CheckpointError
from nectargan.metrics import METRICS, fid, kid
from nectargan.metrics.networks import (
    NETWORKS,
    DISTSFeatures,
    InceptionFeatures,
    LPIPSFeatures,
    load_network,
)
from nectargan.metrics.weights import VARIABLE, WeightFile, find_weights

CPU = torch.device("cpu")


def random_state(network: nn.Module) -> dict[str, Tensor]:
    """Weights with which the values neither vanish nor explode."""
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, own in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = torch.rand(own.shape, generator=rng) + 0.5
        elif own.dim() < 2:
            state[name] = torch.randn(own.shape, generator=rng) * 0.1
        else:
            state[name] = torch.randn(own.shape, generator=rng) * (2.0 / own[0].numel()) ** 0.5
    return state


def images(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 70, 83, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_that_of_torchmetrics(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = LPIPSFeatures(net)
    mine.load(random_state(mine), "random")
    theirs = importlib.import_module("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: copy.deepcopy(mine.features))
    x, y = images(1), images(2)
    wanted = theirs.learned_perceptual_image_patch_similarity(
        x, y, net_type=net, reduction="none", normalize=True
    )
    found = METRICS["lpips"].function(mine(x), mine(y))
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    assert found.min() > 0.01
    assert METRICS["lpips"].function(mine(x), mine(x)).tolist() == [0, 0]


def test_dists_is_that_of_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = DISTSFeatures()
    mine.load(random_state(mine), "random")
    theirs = importlib.import_module("torchmetrics.functional.image.dists")

    class Weights:
        DEFAULT = None

    class VGG(nn.Module):
        features = mine.features

    monkeypatch.setattr(theirs, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(theirs, "VGG16_Weights", Weights, raising=False)
    monkeypatch.setattr(theirs, "vgg16", lambda weights: VGG(), raising=False)
    x, y = images(1), images(2)
    wanted = theirs.deep_image_structure_and_texture_similarity(x, y)
    found = METRICS["dists"].function(mine(x), mine(y))
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    assert found.min() > 0.01


def test_inception_is_that_of_torch_fidelity() -> None:
    """The figures are of torch-fidelity 0.4.0 with the same weights and images."""
    network = InceptionFeatures()
    state = random_state(network)
    assert sum(tensor.numel() for tensor in state.values()) == 21_820_094
    network.load(state, "random")
    rng = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8, generator=rng)
    features = network(pictures)
    assert features.shape == (2, 2048)
    assert features.sum().item() == pytest.approx(14344.3105, rel=1e-5)
    assert features.max().item() == pytest.approx(46.5802, rel=1e-5)
    assert features[1, -1].item() == pytest.approx(4.5068, rel=1e-4)
    # What is measured is what a file would hold.
    assert torch.equal(network(pictures.float() / 255), features)


class _AsGiven(nn.Module):
    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("count", [4, 40])
def test_fid_and_kid_are_those_of_torchmetrics(count: int) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    rng = torch.Generator().manual_seed(0)
    x = torch.rand(count, 6, generator=rng, dtype=torch.float64)
    y = torch.rand(count, 6, generator=rng, dtype=torch.float64) * 1.5 + 0.3
    theirs = FrechetInceptionDistance(feature=_AsGiven()).set_dtype(torch.float64)
    theirs.update(y, real=True)
    theirs.update(x, real=False)
    assert fid(x, y).item() == pytest.approx(theirs.compute().item(), abs=1e-5)
    other = KernelInceptionDistance(feature=_AsGiven(), subsets=1, subset_size=count)
    other.update(y, real=True)
    other.update(x, real=False)
    assert kid(x, y).item() == pytest.approx(other.compute()[0].item(), abs=1e-5)


def test_closed_forms_of_sets() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert fid(x, x).item() == pytest.approx(0, abs=1e-9)
    # Moved: the squared distance. Scaled: the difference of the deviations, squared.
    assert fid(x + 2, x).item() == pytest.approx(12)
    assert fid(3 * x, x).item() == pytest.approx(
        4 * (x.var(0).sum() + x.mean(0).square().sum()).item()
    )


def test_a_sample_of_each_image_once_is_the_set() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, 3, generator=rng) for _ in range(2))
    counts = torch.ones(2, 8)
    assert kid(x, y, counts).tolist() == pytest.approx([kid(x, y).item()] * 2)
    # By hand, of a sample without the first image and with the second one twice.
    counts = torch.tensor([[0, 2, 1, 1, 1, 1, 1, 1.0]])
    k = lambda a, b: ((a.double() @ b.double().T / 3 + 1) ** 3).numpy()  # noqa: E731
    drawn = [1, 1, 2, 3, 4, 5, 6, 7]
    between = k(x, x) + k(y, y) - (k(x, y) + k(x, y).T) * (1 - 1 / 8)
    pairs = [(i, j) for i in drawn for j in drawn if i != j]
    wanted = np.mean([between[p] for p in pairs]) - 2 / 8 * np.mean(k(x, y).diagonal()[drawn])
    assert kid(x, y, counts).item() == pytest.approx(wanted)


def test_grey_and_alpha() -> None:
    network = DISTSFeatures()
    network.load(random_state(network), "random")
    grey = images(1)[:, :1]
    three = network(grey.expand(-1, 3, -1, -1))
    for each in (grey, torch.cat([grey, grey], 1), torch.cat([grey] * 4, 1)):
        assert all(map(torch.equal, network(each), three))


def weight_file(folder: Path) -> tuple[Path, WeightFile]:
    network = LPIPSFeatures("alex")
    path = folder / "part"
    torch.save(random_state(network), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = WeightFile(f"some-{digest[:8]}.pth", (folder / "absent.pth").as_uri())
    return path.rename(folder / file.name), file


def test_weights_are_found_downloaded_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, cache = tmp_path / "given", tmp_path / "hub"
    given.mkdir()
    path, file = weight_file(given)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))
    assert find_weights(file, given).path == path
    monkeypatch.setenv(VARIABLE, str(given))
    assert find_weights(file).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(CheckpointError) as caught:
        find_weights(file, tmp_path)
    for part in (file.name, file.url, file.digest, "--weights", VARIABLE, str(cache)):
        assert part in str(caught.value)
    there = WeightFile(file.name, path.as_uri())
    assert find_weights(there).path == cache / "checkpoints" / file.name
    path.unlink()
    assert find_weights(file).path.parent == cache / "checkpoints"  # downloaded once
    (given / file.name).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=f"SHA-256.*{file.url}"):
        find_weights(file, given)


def test_a_network_takes_only_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, file = weight_file(tmp_path)
    monkeypatch.setitem(NETWORKS, "a", NETWORKS["lpips_alexnet"]._replace(file=file))
    monkeypatch.setitem(NETWORKS, "b", NETWORKS["dists_vgg16"]._replace(file=file))
    loaded = load_network("a", tmp_path, CPU)
    assert loaded.file == path.name
    assert torch.equal(loaded.see.features[0].weight, torch.load(path)["features.0.weight"])
    assert not loaded.see.train().training
    with pytest.raises(CheckpointError, match=r"'features.0.weight' of shape \(64, 3, 3, 3\)"):
        load_network("b", tmp_path, CPU)
