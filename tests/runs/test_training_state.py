"""What does not fit a run is refused before anything of it is used."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import CheckpointError, ConfigError, NectarGANError, RunError
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_checkpoint, load_last
from nectargan.runs.resume import resumption_of
from nectargan.shell import quoted
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from .conftest import DATA

Make = Callable[..., Config]


def trainer_of(run: Path, checkpoint: dict[str, Any], **options: Any) -> Pix2pixTrainer:
    overrides = [("dataloader.dataroot", str(DATA / "stopped_run_pairs")), *options.items()]
    wanted = ConfigManager(checkpoint["config"], overrides).data
    resumption = resumption_of(RunDirectory(run), checkpoint, wanted)
    return Pix2pixTrainer(resumption.config, resumption)


def files(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_run_of_version_1_0_is_resumed(run: Path) -> None:
    before = pd.read_csv(run / "losses.csv")
    trainer = trainer_of(run, load_last(RunDirectory(run)))
    trainer.train()
    assert RunDirectory(run).read_status() == ("FINISHED", "")
    after = pd.read_csv(run / "losses.csv")
    pd.testing.assert_frame_equal(after.head(len(before)), before)
    assert after["step"].unique().tolist() == [1, 2, 3, 4, 5, 6]
    training = load_last(RunDirectory(run))["training"]
    assert set(training["data"]) == {"training", "validation"}
    assert set(training["ledger_digests"]) == {"losses.csv", "metrics.csv", "gradients.csv"}


def adam(content: dict[str, Any]) -> dict[Any, Any]:
    state: dict[Any, Any] = content["training"]["optimizers"]["generator"]
    return state


def generator(content: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = content["networks"]["generator"]
    return state


def put(section: Callable[[dict[str, Any]], Any], *path: Any) -> Callable[[dict[str, Any]], None]:
    """Puts the last of ``path`` at the place that the others lead to."""

    def change(content: dict[str, Any]) -> None:
        place = section(content)
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1]

    return change


def training(content: dict[str, Any]) -> Any:
    return content["training"]


def whole(content: dict[str, Any]) -> Any:
    return content


NAN, SMALL = float("nan"), torch.zeros(1)
MISFITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a small Adam": (put(adam, 0, "exp_avg", SMALL), r"'0.exp_avg' .* is float32 \[1\], not"),
    "Adam in float64": (
        lambda c: adam(c)[0].update(exp_avg=adam(c)[0]["exp_avg"].double()),
        "is float64",
    ),
    "a sparse Adam": (
        lambda c: adam(c)[0].update(exp_avg=adam(c)[0]["exp_avg"].to_sparse()),
        "torch.sparse_coo, not",
    ),
    "Adam lacks a parameter": (lambda c: adam(c).pop(1), "optimizer of generator lacks '1.step'"),
    "Adam lacks a moment": (lambda c: adam(c)[0].pop("exp_avg_sq"), "lacks '0.exp_avg_sq'"),
    "Adam is empty": (lambda c: adam(c).clear(), "lacks '0.step'"),
    "Adam has a parameter more": (put(adam, 99, {"step": SMALL}), "has a foreign '99.step'"),
    "Adam is a list": (put(training, "optimizers", "generator", [1]), "lacks '0.step'"),
    "Adam made other steps": (
        put(adam, 0, "step", torch.tensor(9.0)),
        "has 4 to 9 steps, but the run has 4",
    ),
    "Adam made no number": (put(adam, 0, "step", torch.tensor(NAN)), "steps, but the run has 4"),
    "no optimizer": (lambda c: training(c).pop("optimizers"), "optimizers are missing"),
    "no discriminator": (
        lambda c: c["networks"].pop("discriminator"),
        "networks are generator, not generator, discriminator",
    ),
    "a weight less": (lambda c: generator(c).popitem(), "generator lacks"),
    "a weight more": (put(generator, "new", SMALL), "generator has a foreign 'new'"),
    "a weight that is none": (
        lambda c: generator(c).update(dict.fromkeys(generator(c), 1.0)),
        "is float, not float32",
    ),
    "a weight of another shape": (
        lambda c: generator(c).update(dict.fromkeys(generator(c), SMALL)),
        r"is float32 \[1\], not",
    ),
    "weights without data": (
        lambda c: generator(c).update({k: v.to("meta") for k, v in generator(c).items()}),
        "without data, not float32",
    ),
    "an MLflow run without a name": (put(training, "mlflow", {"run_id": ""}), "mlflow.run_id"),
    "batch past the epoch": (put(training, "batch", 7), "its batch is 7, and an epoch has 3"),
    "batch before": (put(training, "batch", 0), "its step is 4, and that of epoch 2, batch 0"),
    "step past the batch": (put(whole, "step", 5), "its step is 5"),
    "an epoch more is done": (put(whole, "epoch", 2), "has 2 epochs done, and is in epoch 2"),
    "between epochs": (put(training, "batch", None), "has 1 epoch done, and is in epoch 2"),
    "an epoch that begins early": (put(training, "epoch_began", 0), "its epoch began after 0"),
    "a best of the future": (put(training, "bests", "val/ssim", [0.5, 7]), "is of epoch 7"),
    "a best that is none": (
        put(training, "bests", "val/ssim", [NAN, 1]),
        "training|going on|go on",
    ),
    "ledgers are not named": (put(training, "ledgers", {}), "lacks the sizes of the CSV files"),
    "a ledger longer than it is": (
        put(training, "ledgers", "losses.csv", 10**6),
        "no row ends at byte 1000000",
    ),
    "a ledger cut in a row": (put(training, "ledgers", "losses.csv", 300), "ends at byte 300"),
    "NumPy's place": (put(training, "random", "numpy", 2, 10**6), "random generators cannot"),
    "a scaler of nonsense": (put(training, "scaler", {"scale": NAN}), "its scaler has scale nan"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_changes(
    run: Path, name: str
) -> None:
    change, told = MISFITS[name]
    content = copy.deepcopy(load_last(RunDirectory(run)))
    change(content)
    before = files(run)
    with pytest.raises(NectarGANError, match=told) as raised:
        trainer_of(run, content).train()
    assert raised.value.exit_code == 2
    assert files(run) == before


def test_a_refused_checkpoint_changes_no_network(run: Path) -> None:
    content = load_last(RunDirectory(run))
    trainer = trainer_of(run, content)
    before = copy.deepcopy(trainer.generator.state_dict())
    content["training"]["optimizers"]["discriminator"][0]["exp_avg"] = SMALL
    with pytest.raises(CheckpointError, match="optimizer of discriminator"):
        trainer.train()
    for key, value in trainer.generator.state_dict().items():
        assert torch.equal(value, before[key])


def test_tensors_of_a_checkpoint_that_share_memory_are_updated_once(run: Path) -> None:
    content = load_last(RunDirectory(run))
    step = torch.tensor(4.0)
    for state in adam(content).values():
        state["step"] = step
    trainer = trainer_of(run, content)
    trainer.train()
    made = {float(s["step"]) for s in trainer.optimizers["generator"].state.values()}
    assert made == {6.0}


# --- ledgers ---------------------------------------------------------------------------------


@pytest.fixture
def stopped(tiny: Make) -> Path:
    """A run of three epochs of three steps that ended after two, with a checkpoint of each."""
    trainer = Pix2pixTrainer(tiny(save__model_save_rate=1))
    return trainer.train().path


def again(run: Path) -> Pix2pixTrainer:
    content = load_last(RunDirectory(run))
    wanted = ConfigManager(content["config"], [("train.generator.learning_rate.epochs", 2)]).data
    resumption = resumption_of(RunDirectory(run), content, wanted)
    return Pix2pixTrainer(resumption.config, resumption)


@pytest.mark.parametrize("how", ["decimal commas", "a row less", "one digit", "not there"])
def test_a_ledger_that_was_changed_is_not_gone_on_with(stopped: Path, how: str) -> None:
    path = stopped / "losses.csv"
    text = path.read_bytes()
    if how == "decimal commas":
        path.write_bytes(text.replace(b",", b";").replace(b".", b","))
    elif how == "a row less":
        lines = text.splitlines(keepends=True)
        twin = lines[1].replace(b"1,1", b"2,1")
        path.write_bytes(b"".join([lines[0], twin, *lines[2:]]))
    elif how == "one digit":
        path.write_bytes(text[:-3] + bytes([(text[-3] - 48 + 1) % 10 + 48]) + text[-2:])
    else:
        path.unlink()
    before = files(stopped)
    with pytest.raises(RunError, match=r"bytes of '.*losses.csv'|losses.csv' cannot be read"):
        again(stopped)
    assert files(stopped) == before


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_changed_ledger_leaves_the_checkpoints_from_before_the_change(
    stopped: Path, epoch: int
) -> None:
    """A row of one epoch is changed: what is offered works, and is offered only if there is one."""
    path, first = stopped / "losses.csv", stopped / "checkpoints" / "epoch_0001.pt"
    lines = path.read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines[1:], 1) if line.split(b",")[1] == b"%d" % epoch)
    lines[place] = lines[place].rstrip() + b"1\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunError) as raised:
        again(stopped)
    if epoch == 1:
        assert "start a new run" in str(raised.value)
        return
    assert str(raised.value).endswith(f" --resume {quoted(first)}.")
    content = load_checkpoint(first)
    wanted = Config.model_validate(content["config"])
    resumption = resumption_of(RunDirectory(stopped), content, wanted, first)
    Pix2pixTrainer(resumption.config, resumption).train()
    assert RunDirectory(stopped).status == "FINISHED"
    assert lines[place] not in path.read_bytes()
    (aside,) = (stopped / "orphaned").glob("attempt-1.csv")
    assert lines[place] in aside.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files from being replaced")
@pytest.mark.parametrize("at", [4, 6])
@pytest.mark.parametrize("how", ["replaced", "in place", "one digit"])
def test_a_ledger_that_is_changed_under_a_run_stops_it(tiny: Make, at: int, how: str) -> None:
    """In the middle of the second epoch, and after its last step."""

    class Disturbed(Pix2pixTrainer):
        def train_step(self, source: torch.Tensor, target: torch.Tensor) -> None:
            super().train_step(source, target)
            path = self.directory / "losses.csv"
            if self.step == at and how == "replaced":
                shutil.copy(path, path.with_name("other"))
                path.with_name("other").replace(path)
            elif self.step == at and how == "in place":
                path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
            elif self.step == at:
                path.write_bytes(path.read_bytes().replace(b"1,1,1", b"1,2,1"))

    trainer = Disturbed(tiny(logging__window_steps=1))
    with pytest.raises(RunError, match=r"losses.csv' was changed by another program"):
        trainer.train()
    assert trainer.directory.status == "FAILED"
    assert "\0" not in (trainer.directory / "losses.csv").read_text()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(run: Path) -> None:
    for path in RunDirectory(run).list_checkpoints():
        path.unlink()
    os.mkfifo(run / "checkpoints" / "epoch_0009.pt")
    with pytest.raises(CheckpointError, match="it is a pipe, not a regular file"):
        load_last(RunDirectory(run))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
@pytest.mark.parametrize(
    "name", ["status.json", "config.json", "facts.json", "resumptions.jsonl", ".lock"]
)
def test_a_pipe_in_the_place_of_a_file_of_a_run_is_named(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(RunError, match=f"/{name}' cannot be .*it is .*regular file"):
        trainer_of(run, load_last(RunDirectory(run))).train()
    assert (run / name).is_fifo()


# --- images ----------------------------------------------------------------------------------


def test_images_at_another_place_are_the_same_others_are_not(
    stopped: Path, tmp_path: Path, pairs_root: Path
) -> None:
    content = load_last(RunDirectory(stopped))
    options = [("train.generator.learning_rate.epochs", 2)]

    def begin(root: Path) -> None:
        wanted = ConfigManager(
            content["config"], [*options, ("dataloader.dataroot", str(root))]
        ).data
        resumption = resumption_of(RunDirectory(stopped), content, wanted)
        Pix2pixTrainer(resumption.config, resumption)

    moved = shutil.copytree(pairs_root, tmp_path / "moved")
    begin(moved)
    image = moved / "train" / "0.png"
    original = image.read_bytes()

    # Another image; the same number of bytes; one more; none for validation.
    shutil.copy(moved / "train" / "1.png", image)
    with pytest.raises(ConfigError, match="cannot be resumed with other training images: their"):
        begin(moved)
    image.write_bytes(original)
    begin(moved)
    shutil.copy(image, moved / "train" / "6.png")
    with pytest.raises(ConfigError, match="other training images"):
        begin(moved)
    (moved / "train" / "6.png").unlink()
    shutil.rmtree(moved / "val")
    with pytest.raises(ConfigError, match=r"other validation images: .* it is none; put"):
        begin(moved)


# --- older checkpoints -----------------------------------------------------------------------


def test_a_run_is_resumed_from_an_older_checkpoint(tiny: Make) -> None:
    options = {
        "save__model_save_rate": 1,
        "save__keep_best": "val/ssim",
        "train__generator__learning_rate": {"epochs": 4, "epochs_decay": 0},
    }
    whole = Pix2pixTrainer(tiny(**options))
    whole.train()
    other = Pix2pixTrainer(tiny(**options))
    run = other.train()
    file = run / "checkpoints" / "epoch_0002.pt"
    content = load_checkpoint(file)
    resumption = resumption_of(run, content, ConfigManager(content["config"]).data, file)
    assert (resumption.step, resumption.is_finished) == (6, False)
    trainer = Pix2pixTrainer(resumption.config, resumption)
    trainer.train()
    assert RunDirectory(run).read_status() == ("FINISHED", "")
    for table in ("losses.csv", "metrics.csv"):
        ours, theirs = (
            pd.read_csv(each.directory / table, dtype=str).drop(columns="time")
            for each in (trainer, whole)
        )
        if table == "metrics.csv":
            ours, theirs = (t[~t["metric"].str.startswith("time/")] for t in (ours, theirs))
        pd.testing.assert_frame_equal(ours, theirs)
    assert pd.read_csv(run / "orphaned" / "attempt-1.csv")["step"].unique().tolist() == [
        *range(7, 13)
    ]
    aside = {path.name for path in (run / "orphaned").glob("*.pt")}
    assert {"attempt-1.epoch_0003.pt", "attempt-1.epoch_0004.pt"} <= aside
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.pt", *(f"epoch_000{n}.pt" for n in range(1, 5)), "last.pt"]
    assert load_checkpoint(run / "checkpoints" / "best.pt")["epoch"] == trainer.bests["val/ssim"][1]
    assert load_checkpoint(run / "checkpoints" / "last.pt")["epoch"] == 4


def test_going_back_restores_the_best_checkpoint_of_that_time(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5, 0.3, 0.9, 0.1])
    monkeypatch.setattr(
        "nectargan.trainers.pix2pix_trainer.validate", lambda *_: {"val/ssim": next(values)}
    )
    rates = {"epochs": 3, "epochs_decay": 0}
    options = {"save__model_save_rate": 1, "save__keep_best": "val/ssim"}
    run = Pix2pixTrainer(tiny(**options, train__generator__learning_rate=rates)).train()
    best = run / "checkpoints" / "best.pt"
    assert load_checkpoint(best)["epoch"] == 3
    # By its other name, as people will.
    file = run / "checkpoints" / "epoch_0002.pt"
    content = load_checkpoint(file)
    resumption = resumption_of(run, content, ConfigManager(content["config"]).data, file)
    trainer = Pix2pixTrainer(resumption.config, resumption)
    trainer.train()
    assert trainer.bests == {"val/ssim": (0.5, 1)}
    assert load_checkpoint(best)["epoch"] == 1
    assert (run / "orphaned" / "attempt-1.best.pt").exists()


# --- the end of a run ------------------------------------------------------------------------


def test_a_finished_run_is_left_as_it_is(stopped: Path) -> None:
    content, before = load_last(RunDirectory(stopped)), files(stopped)
    resumption = resumption_of(
        RunDirectory(stopped), content, ConfigManager(content["config"]).data
    )
    assert resumption.is_finished
    assert Pix2pixTrainer(resumption.config, resumption).train() == stopped
    assert files(stopped) == before


def test_fewer_epochs_than_are_done_are_refused(stopped: Path) -> None:
    content, before = load_last(RunDirectory(stopped)), files(stopped)
    manager = ConfigManager(content["config"])
    manager.set_epochs(1)
    with pytest.raises(
        ConfigError, match=r"cannot be resumed with 1 epoch: 2 are done\. To go back"
    ):
        resumption_of(RunDirectory(stopped), content, manager.data)
    assert files(stopped) == before
