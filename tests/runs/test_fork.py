"""A fork goes on from a checkpoint of another run, which it leaves as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nectargan.analysis import load_gradients, load_losses, load_metrics, load_runs
from nectargan.analysis.compare import compare_runs
from nectargan.analysis.run_changes import changes_of
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ConfigError, NectarGANError, RunError
from nectargan.record.lineage import Ancestor, read_ancestors
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint, load_last
from nectargan.runs.fork import find_checkpoint
from nectargan.runs.resume import find_unfinished
from nectargan.runs.start import Request
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from .conftest import DATA
from .test_resume import OPTIONS, Stopping, record, resumed, stopped

Make = Callable[..., Config]
# Four epochs of three steps, with a checkpoint of each.
EACH = {**OPTIONS, "save__model_save_rate": 1, "save__keep_last": None}


def request(place: object, *overrides: tuple[str, Any], epochs: int | None = None) -> Config:
    return Request(None, overrides, epochs=epochs).fork(str(place)).resolve()


def forked(place: object, *overrides: tuple[str, Any], epochs: int | None = None) -> Pix2pixTrainer:
    trainer = Pix2pixTrainer(request(place, *overrides, epochs=epochs))
    trainer.train()
    return trainer


def files(run: Path | RunDirectory) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(run).rglob("*") if path.is_file()}


def assert_goes_on_as(fork: RunDirectory, whole: RunDirectory, step: int) -> None:
    assert pd.read_csv(fork.losses)["step"].tolist() == [
        each for each in pd.read_csv(whole.losses)["step"] if each > step
    ]
    for part, own, theirs in zip(*map(record, (fork.lineage, fork.path, whole.path)), strict=True):
        ours = pd.concat([part, own], ignore_index=True)
        pd.testing.assert_frame_equal(ours, theirs)
    ends = [load_last(directory) for directory in (fork, whole)]
    for name in ("generator", "discriminator"):
        for key, value in ends[0]["networks"][name].items():
            assert torch.equal(value, ends[1]["networks"][name][key]), key
        adams = [end["training"]["optimizers"][name] for end in ends]
        for index, state in adams[0].items():
            assert all(torch.equal(value, adams[1][index][key]) for key, value in state.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pairs_root: Path) -> RunDirectory:
    """A finished run that nothing here may change."""
    from nectargan.config.config_manager import ConfigManager
    from tests.conftest import TINY

    overrides = [
        ("dataloader.dataroot", str(pairs_root)),
        ("common.output_directory", str(tmp_path_factory.mktemp("whole"))),
        ("save.keep_best", "val/ssim"),
        *((key.replace("__", "."), value) for key, value in EACH.items()),
    ]
    return Pix2pixTrainer(ConfigManager(TINY, overrides).data).train()


def to(output: Path) -> tuple[str, Any]:
    return "common.output_directory", str(output)


def test_a_fork_without_a_change_equals_its_parent_going_on(
    whole: RunDirectory, tmp_path: Path
) -> None:
    before = files(whole)
    fork = forked(f"{whole}@2", to(tmp_path)).directory
    assert files(whole) == before
    assert_goes_on_as(fork, whole, 6)
    assert fork.name == "tiny_v1"
    assert pd.read_csv(fork.losses)["step"].unique().tolist() == [7, 8, 9, 10, 11, 12]
    # Bytes, times included: the rows that it inherited.
    own = whole.losses.read_bytes().splitlines()
    inherited = fork.inherited("losses.csv").read_bytes().splitlines()
    assert own[: len(inherited)] == inherited
    assert inherited[-1].startswith(b"6,2,")


@pytest.mark.parametrize("at", [1, 5, 11])
def test_so_does_a_fork_from_the_middle_of_an_epoch(
    tiny: Make, whole: RunDirectory, at: int
) -> None:
    """The mean of a loss over the epoch is that of both parts."""
    run = stopped(tiny(**EACH, save__keep_best="val/ssim"), at)
    before = files(run)
    fork = forked(run).directory
    assert files(run) == before
    assert_goes_on_as(fork, whole, at)
    (ancestor,) = read_ancestors(fork)
    assert (ancestor.step, ancestor.is_mid_epoch) == (at, True)
    assert str(ancestor) == f"tiny_v1, step {at}"


def test_its_lineage_is_in_config_status_and_tags(whole: RunDirectory, tmp_path: Path) -> None:
    trainer = forked(f"{whole}@3", to(tmp_path), ("train.loss.G_GAN", 0.5))
    fork, place = trainer.directory, str(whole.checkpoint(3).resolve())
    ours, theirs = (json.loads(each.config.read_text()) for each in (fork, whole))
    assert ours["train"].pop("fork_from") == place
    assert theirs["train"].pop("fork_from") is None
    assert (ours["train"]["loss"].pop("G_GAN"), theirs["train"]["loss"].pop("G_GAN")) == (0.5, 1.0)
    del ours["common"]["output_directory"], theirs["common"]["output_directory"]
    assert ours == theirs
    status = json.loads((fork / "status.json").read_text())
    assert status == {"status": "FINISHED", "reason": "", "parent checkpoint": place}
    tags = json.loads(fork.metadata.read_text())["tags"]
    assert tags["parent checkpoint"] == place
    assert tags["changes"] == "epoch 4: loss.G_GAN 1.0 to 0.5"
    assert read_ancestors(fork) == [Ancestor(place, 3, 9, False)]
    weights = pd.read_csv(fork.losses).query("loss == 'G_GAN'")["weight"]
    assert weights.unique().tolist() == [0.5]


def test_the_config_of_a_fork_makes_it_again(whole: RunDirectory, tmp_path: Path) -> None:
    first = forked(f"{whole}@3", to(tmp_path), ("train.loss.G_GAN", 0.5)).directory
    again = Pix2pixTrainer(Request(str(first.config)).resolve()).train()
    assert again.name == "tiny_v2"
    for ours, theirs in zip(record(again.path), record(first.path), strict=True):
        pd.testing.assert_frame_equal(ours, theirs)


def test_a_fork_of_a_fork_and_a_resumed_fork(whole: RunDirectory, tmp_path: Path) -> None:
    child = forked(f"{whole}@1", to(tmp_path)).directory
    trainer = Stopping(request(f"{child}@2", to(tmp_path)), 8)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    grandchild = trainer.directory
    assert [str(each) for each in read_ancestors(grandchild)] == [
        f"{whole.name}, epoch 1",
        f"{child.name}, epoch 2",
    ]
    assert pd.read_csv(grandchild.inherited("losses.csv"))["step"].unique().tolist() == [
        *range(1, 7)
    ]
    assert find_unfinished(tmp_path, "tiny") is None
    shutil.rmtree(child.path)  # nothing of it is needed any more
    resumed(grandchild.path)
    assert_goes_on_as(grandchild, whole, 6)
    status = json.loads((grandchild / "status.json").read_text())
    assert status["parent checkpoint"] == str(child.checkpoint(2))
    assert "parent checkpoint" in json.loads(grandchild.metadata.read_text())["tags"]


def test_a_fork_that_is_stopped_before_its_first_step_goes_on(
    whole: RunDirectory, tmp_path: Path
) -> None:
    class Early(Pix2pixTrainer):
        def on_epoch_start(self, epoch: int) -> Any:
            raise KeyboardInterrupt

    trainer = Early(request(f"{whole}@2", to(tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed(trainer.directory.path)
    assert_goes_on_as(trainer.directory, whole, 6)


def test_a_finished_run_is_forked_with_more_epochs(whole: RunDirectory, tmp_path: Path) -> None:
    place = f"{whole.checkpoint(4).resolve()}"
    told = f"^A fork of '{place}' with 4 epochs has nothing to train: 4 are done. "
    told += f"Add --epochs N for a longer one, or fork an earlier checkpoint, '{whole}@3'.$"
    with pytest.raises(ConfigError, match=told):
        forked(whole, to(tmp_path))
    assert not list(tmp_path.iterdir())
    fork = forked(whole, to(tmp_path), epochs=5).directory
    assert pd.read_csv(fork.losses)["step"].unique().tolist() == [13, 14, 15]


def test_the_best_checkpoint_until_then_is_kept(whole: RunDirectory, tmp_path: Path) -> None:
    trainer = forked(f"{whole}@3", to(tmp_path))
    last = load_last(whole)["training"]["bests"]
    assert {name: list(best) for name, best in trainer.bests.items()} == last
    epoch = int(last["val/ssim"][1])
    assert load_checkpoint(trainer.directory.best_checkpoint)["epoch"] == epoch


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.generator.features", 8, "train.generator.features from 4 to 8"),
        ("dataloader.batch_size", 3, "dataloader.batch_size from 2 to 3"),
        ("dataloader.direction", "BtoA", "dataloader.direction from 'AtoB' to 'BtoA'"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused(
    whole: RunDirectory, tmp_path: Path, key: str, value: object, told: str
) -> None:
    with pytest.raises(ConfigError, match=f"cannot be forked with a change of {told}: the check"):
        forked(f"{whole}@2", to(tmp_path), (key, value))
    assert not list(tmp_path.iterdir())


def test_other_images_are_refused(whole: RunDirectory, tmp_path: Path) -> None:
    from tests.conftest import draw_pairs

    draw_pairs(tmp_path / "other", "train", 6, side=40)
    draw_pairs(tmp_path / "other", "val", 3)
    with pytest.raises(ConfigError, match="cannot be forked with other training images"):
        forked(
            f"{whole}@2", to(tmp_path / "runs"), ("dataloader.dataroot", str(tmp_path / "other"))
        )
    assert not (tmp_path / "runs").exists()


def test_objective_seed_and_augmentations_may_change(whole: RunDirectory, tmp_path: Path) -> None:
    fork = forked(
        f"{whole}@3",
        to(tmp_path),
        ("train.objective", "extended"),
        ("train.gan_mode", "lsgan"),
        ("common.seed", 5),
        ("dataloader.augmentations.both.h_flip_chance", 0.0),
    ).directory
    names = pd.read_csv(fork.losses)["loss"].unique()
    assert {"G_L2", "G_SOBEL", "G_LAP"} <= set(names)


def test_changes_of_schedules_and_shares_are_told_in_one_line(
    whole: RunDirectory, tmp_path: Path
) -> None:
    fork = forked(
        f"{whole}@3",
        to(tmp_path),
        ("train.loss.G_GAN", "share 0.2"),
        ("train.loss.G_L1", "cosine 50->10 @ 2-4"),
    ).directory
    (change,) = changes_of(fork)
    assert {key: pair[1] for key, pair in change.options.items()} == {
        "train.loss.G_GAN": "share 0.2",
        "train.loss.G_L1": "cosine 50→10 @ 2–4",
    }


def test_which_checkpoint(whole: RunDirectory) -> None:
    def name(place: object) -> str:
        directory, file, _ = find_checkpoint(str(place))
        assert directory == whole
        return file.name

    assert name(whole) == "epoch_0004.pt"
    assert name(f"{whole}@1") == "epoch_0001.pt"
    assert name(whole.checkpoint(2)) == "epoch_0002.pt"
    assert name(whole.best_checkpoint) == "best.pt"


def test_a_config_that_does_not_exist(whole: RunDirectory, tiny: Make, tmp_path: Path) -> None:
    def told(place: object) -> str:
        with pytest.raises(NectarGANError) as raised:
            find_checkpoint(str(place))
        return str(raised.value)

    assert told(f"{whole}@7") == (
        f"'{whole}' has no checkpoint of epoch 7: there are those of epoch 1, epoch 2, epoch 3, "
        "epoch 4."
    )
    assert "must be a whole number, not 'best'" in told(f"{whole}@best")
    assert "does not exist" in told(tmp_path / "none_v1")
    assert "does not exist" in told(f"{tmp_path / 'none_v1'}@3")
    assert "needs a run directory" in told(f"{whole.checkpoint(1)}@1")
    other = tmp_path / "epoch_0001.pt"
    shutil.copy(whole.checkpoint(1), other)
    assert "cannot be forked: it is not in the folder 'checkpoints'" in told(other)
    run = stopped(tiny(save__save_model=False), 2)
    assert told(run) == f"'{run}' holds no checkpoint."
    assert told(f"{run}@1").endswith("has no checkpoint of epoch 1: there are none.")


def test_a_changed_ledger_of_the_parent_is_refused(whole: RunDirectory, tmp_path: Path) -> None:
    parent = RunDirectory(shutil.copytree(whole, tmp_path / "copy_v1"))
    text = parent.losses.read_text()
    parent.losses.write_text(text.replace("\n1,", "\n2,", 1))
    with pytest.raises(RunError, match="Another program has changed"):
        forked(f"{parent}@2", to(tmp_path / "runs"))


def test_a_run_of_version_1_0_is_forked(run: Path, tmp_path: Path) -> None:
    before = files(run)
    data = ("dataloader.dataroot", str(DATA / "stopped_run_pairs"))
    fork = forked(run, data, ("common.experiment_name", "new")).directory
    assert files(run) == before
    assert fork.path == tmp_path / "new_v1"  # beside its parent
    assert pd.read_csv(fork.losses)["step"].unique().tolist() == [5, 6]


def test_code_that_the_config_of_another_user_names_is_not_imported(
    whole: RunDirectory, tmp_path: Path
) -> None:
    parent = RunDirectory(shutil.copytree(whole, tmp_path / "copy_v1"))
    content = torch.load(parent.checkpoint(2), weights_only=True)
    content["config"]["train"]["loss"]["G_OWN"] = {
        "function": "somebodys.Loss",
        "weight": 1.0,
    }
    torch.save(content, parent.checkpoint(2))
    with pytest.raises(RunError, match=r"names 'somebodys\.Loss', which would be imported"):
        Request().fork(f"{parent}@2")
    assert Request().fork(f"{parent}@2", trust=True).base == content["config"]


def test_a_parent_without_a_checkpoint_to_go_on_from(whole: RunDirectory, tmp_path: Path) -> None:
    parent = RunDirectory(shutil.copytree(whole, tmp_path / "copy_v1"))
    content = torch.load(parent.checkpoint(2), weights_only=True)
    torch.save({**content, "training": {}}, parent.checkpoint(2))
    with pytest.raises(CheckpointError, match="has only networks and cannot be resumed"):
        forked(f"{parent}@2", to(tmp_path / "runs"))


def test_a_run_that_was_stopped_early_needs_another_rule(
    whole: RunDirectory, tmp_path: Path
) -> None:
    stop = ("train.stop", {"metric": "val/l1", "patience": 1})
    content = torch.load(whole.checkpoint(2), weights_only=True)
    content["training"]["bests"]["val/l1"] = [0.0, 1]
    parent = RunDirectory(shutil.copytree(whole, tmp_path / "copy_v1"))
    torch.save(content, parent.checkpoint(2))
    with pytest.raises(
        ConfigError,
        match=r"has nothing to train, because it is stopped early: val/l1 .* --set train.stop=null",
    ):
        forked(f"{parent}@2", to(tmp_path / "runs"), stop)


def test_a_fork_after_the_last_step_has_the_end_of_its_epoch(tiny: Make) -> None:
    run = stopped(tiny(**EACH), 12)
    fork = forked(run).directory
    assert pd.read_csv(fork.losses).empty
    assert "val/ssim" in pd.read_csv(fork.metrics)["metric"].tolist()
    assert load_gradients(fork, lineage=True)["step"].max() == 12
    assert load_runs([fork]).loc[fork.name, "step"] == 12


def test_the_lineage_is_one_table(whole: RunDirectory, tmp_path: Path) -> None:
    child = forked(f"{whole}@1", to(tmp_path)).directory
    fork = forked(f"{child}@3", to(tmp_path), ("train.loss.G_GAN", 0.5)).directory
    for load in (load_losses, load_gradients, load_metrics):
        ours, theirs = load(fork, lineage=True), load(whole)
        assert ours["step"].tolist() == theirs["step"].tolist()
        assert load(fork)["step"].tolist() == ours["step"].tolist()[-len(load(fork)) :]
    assert (
        load_losses(fork, lineage=True)
        .query("step <= 9")
        .drop(columns="time")
        .equals(load_losses(whole).query("step <= 9").drop(columns="time"))
    )
    runs = load_runs([whole, child, fork])
    assert runs["parent"].tolist()[1:] == [f"{whole.name}, epoch 1", f"{child.name}, epoch 3"]
    assert runs.loc[fork.name, "changes"] == "epoch 4: loss.G_GAN 1.0 to 0.5"
    table = compare_runs([child, fork])
    assert "train.fork_from" not in table
    assert table["train.loss.G_GAN"].tolist() == [1.0, 0.5]
    events = tmp_path / "tensorboard"
    events.mkdir()
    (events / "events.out.tfevents.1").touch()
    with pytest.raises(RunError, match="has no lineage to read: only a run directory has one"):
        load_losses(events, lineage=True)


def test_a_parent_that_is_at_work_is_forked(whole: RunDirectory, tmp_path: Path) -> None:
    with whole.lock():
        fork = forked(f"{whole}@3", to(tmp_path)).directory
    assert_goes_on_as(fork, whole, 9)
