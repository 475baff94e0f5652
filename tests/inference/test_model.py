"""What was trained is loaded from wherever it is, and generates for any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nectargan
from nectargan import load_model
from nectargan.build_data import build_data
from nectargan.config.config_manager import load_config
from nectargan.dataset.paired_dataset import denormalize
from nectargan.errors import CheckpointError, ConfigError, DataError
from nectargan.record.run_directory import RunDirectory


def test_a_run_directory_gives_its_best_checkpoint(trained: RunDirectory) -> None:
    model = load_model(trained)
    assert model.checkpoint == trained.best_checkpoint
    assert model.run == trained
    assert model.name == "tiny_v1"
    assert (model.in_channels, model.out_channels) == (3, 3)
    assert model.config == load_config(trained.config)
    assert model.epoch in (1, 2)


@pytest.mark.parametrize(
    ("chosen", "file", "epoch"),
    [
        ("last", "epoch_0002.pt", 2),
        ("epoch_0001", "epoch_0001.pt", 1),
        ("epoch_0001.pt", "epoch_0001.pt", 1),
    ],
)
def test_another_checkpoint_can_be_chosen(
    trained: RunDirectory, chosen: str, file: str, epoch: int
) -> None:
    model = load_model(trained, checkpoint=chosen)
    assert model.checkpoint is not None
    assert model.checkpoint.name == file
    assert model.epoch == epoch
    alone = load_model(trained.checkpoints / file)
    assert alone.name == model.name == f"tiny_v1/{Path(file).stem}"
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(alone.generate(images), model.generate(images))


def test_a_checkpoint_alone_describes_itself(trained: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(trained.best_checkpoint.read_bytes())
    model = load_model(path)
    assert (model.name, model.run) == ("mine", None)


def test_validation_images_are_reproduced_bit_by_bit(trained: RunDirectory) -> None:
    """The grid of examples, which the trainer wrote after its last epoch."""
    model = load_model(trained, checkpoint="last")
    pairs = build_data(model.config, model.device).examples
    (grid,) = trained.examples.glob("epoch_0002_*")
    rows = np.asarray(Image.open(grid))
    for row, (source, _) in enumerate(pairs):
        made = denormalize(model.generate(source[None].float() / 127.5 - 1))[0]
        top = row * 34
        assert np.array_equal(rows[top : top + 32, 34:66], made.permute(1, 2, 0).numpy())


def test_a_network_of_torch_alone_agrees(trained: RunDirectory) -> None:
    images = torch.rand(2, 3, 64, 40) * 2 - 1
    with torch.no_grad():
        expected = nectargan.load_generator(trained.best_checkpoint)(images)
    assert torch.equal(load_model(trained, device="cpu").generate(images), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 33), (37, 8)])
def test_any_size_comes_back_as_it_went_in(trained: RunDirectory, size: tuple[int, int]) -> None:
    model = load_model(trained)
    images = torch.rand(1, 3, *size) * 2 - 1
    made = model.generate(images)
    assert made.shape == images.shape
    assert made.dtype == torch.float32
    assert float(made.abs().max()) <= 1


def test_dropout_can_be_left_on(trained: RunDirectory) -> None:
    images = torch.rand(1, 3, 32, 32)
    with_dropout = load_model(trained, dropout=True)
    torch.manual_seed(1)
    first = with_dropout.generate(images)
    torch.manual_seed(1)
    assert torch.equal(with_dropout.generate(images), first)
    assert not torch.equal(with_dropout.generate(images), first)


def test_what_is_wrong_is_told_in_a_sentence(trained: RunDirectory, tmp_path: Path) -> None:
    for source, options, error, told in [
        (trained, {"checkpoint": "epoch_9"}, CheckpointError, "no checkpoint 'epoch_9'; there are"),
        (tmp_path, {}, CheckpointError, "holds no checkpoint"),
        (tmp_path / "none", {}, CheckpointError, "neither a run directory nor a checkpoint"),
        (trained.config, {}, CheckpointError, "is not a checkpoint of NectarGAN, or is damaged"),
        (trained, {"device": "gpu"}, ConfigError, "^device is 'gpu'; allowed"),
        (trained, {"precision": "int8"}, ConfigError, "precision is 'int8'; allowed"),
        (trained.best_checkpoint, {"checkpoint": "last"}, CheckpointError, "is a file"),
    ]:
        with pytest.raises(error, match=told):
            load_model(source, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"\(1, 4, 32, 32\).*takes \(N, 3, H, W\)"):
        load_model(trained).generate(torch.rand(1, 4, 32, 32))
