"""A run that is resumed imports what its config names only for whoever vouches for it."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from nectargan.cli.main import main
from nectargan.cli.train import train
from nectargan.config.schema import Config
from nectargan.runs.checkpoint import load_generator
from nectargan.runs.trust import foreign_functions
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

LOSS = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("imported").touch()
class Loss(nn.L1Loss):
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with a loss; a file beside it shows that it was imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "some_loss.py").write_text(LOSS)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("some_loss", None)


def forget(module: Path) -> None:
    sys.modules.pop("some_loss", None)
    (module / "imported").unlink()


@pytest.fixture
def foreign_run(tiny: Callable[..., Config], module: Path) -> Path:
    """The directory of a run whose config names a class of that module."""
    config = tiny(train__loss__G_own={"function": "some_loss.Loss"})
    run = Pix2pixTrainer(config).train()
    forget(module)
    return run.path


def resume(run: Path, *options: str) -> Result:
    return CliRunner().invoke(train, ["--resume", str(run), "--epochs", "3", *options])


def test_a_run_of_this_user_is_trusted(foreign_run: Path, module: Path) -> None:
    assert resume(foreign_run).exit_code == 0
    assert (module / "imported").exists()


@pytest.mark.parametrize("kind", ["of another user", "of an earlier version", "changed on the way"])
def test_what_came_from_elsewhere_needs_trust(
    kind: str,
    foreign_run: Path,
    module: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "of another user":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    elif kind == "of an earlier version":
        (foreign_run / "functions.hmac").unlink()
    else:
        last = torch.load(foreign_run / "checkpoints" / "epoch_0002.pt", weights_only=True)
        last["config"]["train"]["loss"]["G_two"] = {"function": "some_loss.Loss2"}
        torch.save(last, foreign_run / "checkpoints" / "epoch_0002.pt")
    before = {path: path.stat().st_mtime_ns for path in foreign_run.rglob("*")}
    result = resume(foreign_run)
    assert result.exit_code == 2
    assert "names 'some_loss.Loss'" in result.stderr
    assert "check it, then add --trust, or give your own config with -c" in result.stderr
    assert not (module / "imported").exists()
    assert {path: path.stat().st_mtime_ns for path in foreign_run.rglob("*")} == before
    if kind != "changed on the way":
        assert resume(foreign_run, "--trust").exit_code == 0
        # From then on it is this user's.
        assert resume(foreign_run, "--epochs", "4").exit_code == 0


def test_reading_imports_nothing(foreign_run: Path, module: Path, tmp_path: Path) -> None:
    shutil.copytree(foreign_run, tmp_path / "copy")
    runner = CliRunner()
    for command in (
        ["runs", str(foreign_run.parent)],
        ["watch", str(foreign_run)],
        ["compare", str(foreign_run), str(tmp_path / "copy")],
        ["plot", str(foreign_run), "-o", str(tmp_path / "a.png")],
        ["export-csv", str(foreign_run), "-o", str(tmp_path / "a.csv")],
        ["schedule", str(foreign_run / "config.json"), "-o", str(tmp_path / "b.png")],
        ["sync", str(foreign_run)],
    ):
        result = runner.invoke(main, command)
        assert result.exit_code == 0, (command, result.output)
    load_generator(foreign_run / "checkpoints" / "epoch_0002.pt")
    assert not (module / "imported").exists()


def test_the_key_is_for_its_user_alone(
    tmp_path: Path,
    tiny: Callable[..., Config],
    module: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Pix2pixTrainer(tiny()).train()
    assert not (tmp_path / "state").exists(), "nothing to vouch for"
    config = tiny(train__loss__G_own={"function": "some_loss.Loss"})
    run = Pix2pixTrainer(config).train()
    key = tmp_path / "state" / "nectargan" / "key"
    if sys.platform != "win32":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text() not in (run / "functions.hmac").read_text()
    # Nor does a run fail where there is no place for one.
    key.unlink()
    key.parent.rmdir()
    key.parent.write_text("in the way")
    run = Pix2pixTrainer(config).train()
    assert not (run / "functions.hmac").exists()
    assert resume(run).exit_code == 2
    assert resume(run, "--trust").exit_code == 0


def test_which_functions_are_of_others() -> None:
    terms = {
        "a": 1.0,
        "b": {"schedule": "linear"},
        "c": {"weight": 2.0},
        "d": {"function": "nectargan.losses.losses.Sobel"},
        "e": {"function": "torch.nn.L1Loss"},
        "f": {"function": "torch.hub.load"},
        "g": {"function": "torch:nn.L1Loss"},
        "h": {"function": "nectargan_extra.Loss"},
    }
    config = json.loads(json.dumps({"train": {"loss": terms}}))
    assert foreign_functions(config) == [
        "nectargan_extra.Loss",
        "torch.hub.load",
        "torch:nn.L1Loss",
    ]
    assert foreign_functions({}) == []
