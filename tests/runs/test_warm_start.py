"""A run that starts with the weights of another one."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ConfigError
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint, load_last
from nectargan.runs.resume import resumption_of
from nectargan.sweeps.axes import parse_axes
from nectargan.sweeps.grid import check_grid, grid
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import draw_pairs
from tests.runs.test_resume import assert_same, stopped

Make = Callable[..., Config]
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def first(tiny: Make) -> RunDirectory:
    return Pix2pixTrainer(tiny(train__gan_mode="lsgan")).train()


def states(trainer: Pix2pixTrainer) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, network in trainer.networks.items()
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("place", ["directory", "file", "link"])
def test_both_networks_start_with_the_weights_of_the_other_run(
    tiny: Make, first: RunDirectory, place: str
) -> None:
    file = first.checkpoint(2)
    places = {"directory": first.path, "file": file, "link": first.last_checkpoint}
    options = {"train__objective": "extended", "train__init_from": str(places[place])}
    trainer = Pix2pixTrainer(tiny(**options))
    saved = load_checkpoint(file)["networks"]
    ours = states(trainer)
    assert len(ours) == sum(map(len, saved.values()))
    for name, state in saved.items():
        for key, value in state.items():
            assert torch.equal(ours[f"{name}.{key}"], value)
    assert (trainer.epoch, trainer.step, trainer.bests) == (0, 0, {})
    assert not any(optimizer.state for optimizer in trainer.optimizers.values())


def test_it_is_the_run_that_such_weights_would_make(tiny: Make, first: RunDirectory) -> None:
    warm = Pix2pixTrainer(tiny(train__init_from=str(first)))
    warm.train()
    by_hand = Pix2pixTrainer(tiny())
    for name, state in load_checkpoint(first.path)["networks"].items():
        by_hand.networks[name].load_state_dict(state)
    by_hand.train()
    assert_same(warm, by_hand)


def test_its_digest_is_on_record(tiny: Make, first: RunDirectory) -> None:
    run = Pix2pixTrainer(tiny(train__init_from=str(first))).train()
    digest = hashlib.sha256(first.checkpoint(2).read_bytes()).hexdigest()
    assert ConfigManager(run.config).data.train.init_from_digest == digest
    assert load_last(run)["config"]["train"]["init_from_digest"] == digest
    tags = json.loads(run.metadata.read_text())["tags"]
    assert (tags["init_from"], tags["init_from_digest"]) == (str(first), digest)

    repeated = ConfigManager(run.config).data
    Pix2pixTrainer(repeated)
    shutil.copy(first.best_checkpoint if first.best_checkpoint.exists() else run.checkpoint(2),
                first.checkpoint(2))  # fmt: skip
    with pytest.raises(CheckpointError, match=rf"is {digest}; put the file back, or remove the"):
        Pix2pixTrainer(repeated)


def test_a_resumed_run_does_not_need_the_file(tiny: Make, first: RunDirectory) -> None:
    options = {"train__init_from": str(first)}
    whole = Pix2pixTrainer(tiny(**options))
    whole.train()
    run = RunDirectory(stopped(tiny(**options), 4))
    shutil.rmtree(first.path)
    checkpoint = load_last(run)
    # A config that is given again does not have the digest.
    resumption = resumption_of(run, checkpoint, tiny(**options))
    assert resumption.changes == {}
    assert resumption.config.train.init_from_digest == whole.config.train.init_from_digest
    trainer = Pix2pixTrainer(resumption.config, resumption)
    trainer.train()
    assert_same(trainer, whole)
    assert json.loads(run.metadata.read_text())["tags"]["init_from"] == str(first)
    with pytest.raises(ConfigError, match=r"with a change of train\.init_from from"):
        resumption_of(run, checkpoint, tiny())


def test_every_tensor_that_differs_is_named(tiny: Make, first: RunDirectory) -> None:
    other = tiny(
        train__init_from=str(first),
        train__generator__features=8,
        train__discriminator__n_layers=2,
    )
    with pytest.raises(CheckpointError) as caught:
        Pix2pixTrainer(other)
    text = str(caught.value)
    assert text.startswith(f"train.init_from: the weights in '{first.checkpoint(2)}' do not fit")
    assert "(train.generator.features was 4, not 8, train.discriminator.n_layers was 1" in text
    small, large = Pix2pixTrainer(tiny()), Pix2pixTrainer(tiny(**{
        "train__generator__features": 8, "train__discriminator__n_layers": 2
    }))  # fmt: skip
    for name in ("generator", "discriminator"):
        theirs, ours = (each.networks[name].state_dict() for each in (small, large))
        for key in theirs.keys() | ours.keys():
            if key not in theirs:
                assert f"its {name} lacks '{key}'" in text
            elif key not in ours:
                assert f"its {name} has a foreign '{key}'" in text
            elif theirs[key].shape != ours[key].shape:
                was, now = (f"float32 {list(each[key].shape)}" for each in (theirs, ours))
                assert f"'{key}' of its {name} is {was}, not {now}" in text
            else:
                assert f"'{key}' of its {name} is" not in text


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("nowhere.pt", "Checkpoint 'nowhere.pt' cannot be read: No such file or directory."),
        ("", "'.' holds no checkpoint"),
        (str(DATA), "holds no checkpoint"),
        (__file__, "is not a checkpoint of NectarGAN, or is damaged"),
    ],
)
def test_files_that_are_not_checkpoints_are_refused(tiny: Make, place: str, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=r"^train\.init_from: ") as caught:
        Pix2pixTrainer(tiny(train__init_from=place))
    assert complaint in str(caught.value)


def test_a_digest_needs_a_file_and_64_digits(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="init_from_digest is given without init_from"):
        tiny(train__init_from_digest="0" * 64)
    with pytest.raises(ConfigError, match=r"train\.init_from_digest"):
        tiny(train__init_from="x", train__init_from_digest="0" * 63)


def test_nothing_that_the_other_config_names_is_imported(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "their_loss.py"
    module.write_text("from torch import nn\nclass Loss(nn.L1Loss): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    theirs = Pix2pixTrainer(tiny(train__loss__G_theirs={"function": "their_loss.Loss"})).train()
    sys.modules.pop("their_loss")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    Pix2pixTrainer(tiny(train__init_from=str(theirs)))
    assert "their_loss" not in sys.modules


def test_runs_of_version_1_0_can_be_started_from(tiny: Make, tmp_path: Path) -> None:
    old = DATA / "version_1_0" / "old_v1"
    for split in ("train", "val"):
        draw_pairs(tmp_path / "theirs", split, 2)
    config = ConfigManager(
        old / "config.json",
        [
            ("dataloader.dataroot", str(tmp_path / "theirs")),
            ("common.output_directory", str(tmp_path / "runs")),
            ("train.init_from", str(old)),
        ],
    ).data
    trainer = Pix2pixTrainer(config)
    for name, state in load_checkpoint(old)["networks"].items():
        for key, value in state.items():
            assert torch.equal(trainer.networks[name].state_dict()[key], value)


def test_a_sweep_checks_the_weights_before_its_first_run(tiny: Make, first: RunDirectory) -> None:
    base = tiny(train__init_from=str(first)).model_dump(mode="json")

    def points(axis: str) -> list:  # type: ignore[type-arg]
        return grid(parse_axes([axis]), lambda overrides: ConfigManager(base, overrides).data)

    check_grid(points("train.loss.G_L1=10,100"))
    with pytest.raises(CheckpointError, match=r"train\.generator\.features was 4, not 8"):
        check_grid(points("train.generator.features=4,8"))
