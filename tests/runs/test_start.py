"""What somebody asks for is merged with a config, or with the checkpoint of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, RunError
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.start import Request
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

from .conftest import DATA

Make = Callable[..., Config]


def config_file(tmp_path: Path, **sections: Any) -> str:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(sections))
    return str(path)


def test_swept_values_override_options_which_override_the_config(tmp_path: Path) -> None:
    path = config_file(tmp_path, common={"seed": 1}, dataloader={"batch_size": 2, "num_workers": 1})
    request = Request(path, [("common.seed", 3), ("dataloader.batch_size", 4)], epochs=7)
    config = request.resolve(swept=[("common.seed", 5)])
    assert (config.common.seed, config.dataloader.batch_size) == (5, 4)
    assert (config.dataloader.num_workers, config.train.epochs) == (1, 7)
    assert Request().resolve() == Config()


def test_an_error_names_what_was_typed(tmp_path: Path) -> None:
    request = Request(None, [("common.seed", -1)], {"common.seed": "--seed"})
    with pytest.raises(ConfigError, match="--seed cannot be -1"):
        request.resolve()


def test_a_run_is_resumed_with_its_own_config_and_the_overrides(run: Path) -> None:
    before = ConfigManager(run / "config.json").data
    overrides = [("train.loss.G_L1", 7.0), ("dataloader.dataroot", str(DATA / "stopped_run_pairs"))]
    config, resumption = Request(None, overrides, epochs=3).resume(str(run))
    assert resumption is not None
    assert (resumption.directory, resumption.step, resumption.file) == (run, 4, None)
    assert resumption.config == config
    assert (config.train.loss["G_L1"], config.train.epochs) == (7.0, 3)
    assert config.train.generator.features == before.train.generator.features
    assert resumption.changes["train.loss.G_L1"] == (before.train.loss["G_L1"], 7.0)


def test_a_config_takes_the_place_of_the_runs_own(run: Path, tmp_path: Path) -> None:
    other = json.loads((run / "config.json").read_text())
    other["train"]["loss"]["G_L1"] = 9.0
    config, resumption = Request(config_file(tmp_path, **other)).resume(str(run))
    assert resumption is not None
    assert config.train.loss["G_L1"] == 9.0
    other["train"]["generator"]["features"] += 1
    with pytest.raises(ConfigError, match=r"a change of train\.generator\.features"):
        Request(config_file(tmp_path, **other)).resume(str(run))


def test_a_checkpoint_stands_for_its_run(run: Path) -> None:
    (file,) = (run / "checkpoints").glob("epoch_*_step_*.pt")
    _, resumption = Request().resume(str(file))
    assert resumption is not None
    assert (resumption.directory, resumption.file) == (run, file)


@pytest.mark.parametrize("trust", [True, False])
def test_what_a_run_names_is_imported_only_for_who_vouches(tiny: Make, trust: bool) -> None:
    run = Pix2pixTrainer(tiny(train__loss__mine={"function": "kornia.losses.CharbonnierLoss"}))
    directory = run.train()
    (directory / "functions.hmac").unlink()
    if trust:
        assert Request(epochs=3).resume(str(directory), trust=True)[1] is not None
    else:
        with pytest.raises(RunError, match=r"names 'kornia.*', which would"):
            Request(epochs=3).resume(str(directory))


def test_auto_takes_the_newest_unfinished_run_or_none(run: Path, tmp_path: Path) -> None:
    document = json.loads((run / "config.json").read_text())
    document["common"] |= {"output_directory": str(tmp_path), "experiment_name": "old"}
    request = Request(config_file(tmp_path, **document), [])
    config, resumption = request.resume("auto")
    assert resumption is not None
    assert resumption.directory == run
    RunDirectory(run).write_status("FINISHED")
    config, resumption = request.resume("auto")
    assert (config.common.experiment_name, resumption) == ("old", None)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory, a checkpoint in one, or"):
        Request().resume(str(tmp_path / "nowhere"))
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(RunError, match="it is not in the folder 'checkpoints' of a run"):
        Request().resume(str(tmp_path / "x.pt"))
