from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nectargan.build import build_discriminator, build_generator
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ModelError
from nectargan.runs.checkpoint import load_checkpoint, load_generator
from nectargan.runs.training_state import Checkpoint


def save(path: Path, config: Config, networks: dict[str, dict[str, Any]], epoch: int = 1) -> None:
    options = config.model_dump(mode="json")
    Checkpoint(config=options, epoch=epoch, step=10 * epoch, networks=networks).save(path)


def write(path: Path, config: Config, epoch: int = 1) -> torch.nn.Module:
    torch.manual_seed(epoch)
    generator = build_generator(config)
    networks = {"generator": generator, "discriminator": build_discriminator(config)}
    states = {name: network.state_dict() for name, network in networks.items()}
    save(path, config, states, epoch)
    return generator.eval()


def test_a_generator_comes_back_without_a_flag(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    config = tiny(
        train__generator__block_type="ResidualUnetBlock",
        train__generator__upsample_type="Bilinear",
        train__generator__norm="batch",
        dataloader__load__input_nc=1,
        dataloader__load__output_nc=2,
    )
    saved = write(tmp_path / "epoch_0001.pt", config)
    loaded = load_generator(tmp_path / "epoch_0001.pt")
    x = torch.randn(1, 1, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(x), saved(x))
    with pytest.raises(ModelError, match="the nearest being 64 x 64 or"):
        loaded(torch.zeros(1, 1, 65, 64))


def test_a_run_directory_stands_for_its_newest_checkpoint(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    for epoch in (9, 10, 10000, 2):
        write(tmp_path / "checkpoints" / f"epoch_{epoch:04d}.pt", tiny(), epoch)
    content = load_checkpoint(tmp_path)
    assert (content["epoch"], content["step"]) == (10000, 100000)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "none.pt")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"format": 1, "config": _Evil(), "networks": {}}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Evil()))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="is damaged"):
            load_checkpoint(tmp_path / name)


def test_foreign_and_newer_files(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of NectarGAN"):
        load_checkpoint(tmp_path / "other.pt")
    write(tmp_path / "newer.pt", tiny())
    content = torch.load(tmp_path / "newer.pt", weights_only=True)
    torch.save({**content, "format": 3}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="format 3; this version reads up to 2"):
        load_checkpoint(tmp_path / "newer.pt")


def test_parts_that_do_not_fit(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    networks = {"generator": build_generator(tiny(train__generator__features=8)).state_dict()}
    save(tmp_path / "a.pt", tiny(), networks)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_generator(tmp_path / "a.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.pt"
    config = Config.model_validate(
        {"train": {"generator": {"features": 1, "n_downs": 0}}, "dataloader": {"load": {}}}
    )
    save(path, config, {"generator": build_generator(config).state_dict()})
    return path.read_bytes()


@given(data=st.data())
def test_torn_or_damaged_files_give_our_error(
    data: st.DataObject, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole[:cut])
    path = tmp_path_factory.mktemp("torn") / "a.pt"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@given(noise=st.binary(max_size=200))
def test_noise_gives_our_error(noise: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("noise") / "a.pt"
    path.write_bytes(noise)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
