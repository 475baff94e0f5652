"""Thousands of files that are wrong somehow: an error of ours, or none at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nectargan.analysis import load_losses, load_metrics, load_runs
from nectargan.build import build_generator
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.errors import NectarGANError
from nectargan.loggers.mlflow.run_file import remember_run
from nectargan.record.cursor import Cursor
from nectargan.record.ledger import LossRow
from nectargan.record.rollback import check_ledger, cut_ledger
from nectargan.record.run_directory import RunDirectory
from nectargan.record.seeking import first_step_from, offset_of_step
from nectargan.runs.checkpoint import load_checkpoint, load_generator, load_last
from nectargan.runs.random_state import random_state, set_random_state
from nectargan.runs.run_list import summarize_runs
from nectargan.runs.training_state import Checkpoint, Training, TrainingState

MANY = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def only_ours(action: Any, *arguments: Any) -> None:
    try:
        action(*arguments)
    except NectarGANError as error:
        assert str(error)


# --- configs -----------------------------------------------------------------------------------

RIGHT = Config().model_dump(mode="json")
WORDS = [
    *RIGHT,
    *(key for section in RIGHT.values() if isinstance(section, dict) for key in section),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["linear", "auto", "torch.nn.L1Loss", "os.system", "../..", "\x00"])
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def paths(section: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [at] if at else []
    if isinstance(section, dict):
        for key, value in section.items():
            found += paths(value, (*at, key))
    return found


@MANY
@given(where=st.sampled_from(paths(RIGHT)), value=TREES)
def test_one_option_that_may_be_anything(where: tuple[str, ...], value: Any) -> None:
    config: Any = json.loads(json.dumps(RIGHT))
    section = config
    for key in where[:-1]:
        section = section[key]
    section[where[-1]] = value
    only_ours(ConfigManager, config)


@MANY
@given(document=TREES, suffix=st.sampled_from([".json", ".yaml"]))
def test_a_file_that_may_be_anything(folder: Path, document: Any, suffix: str) -> None:
    path = folder / f"c{suffix}"
    path.write_text(json.dumps(document))
    only_ours(ConfigManager, path)


@MANY
@given(noise=st.binary(max_size=80), suffix=st.sampled_from([".json", ".yaml"]))
def test_a_file_of_noise(folder: Path, noise: bytes, suffix: str) -> None:
    path = folder / f"n{suffix}"
    path.write_bytes(noise)
    only_ours(ConfigManager, path)


@MANY
@given(text=st.text("{}[]:,-&*!|>'\"# \n\tabc01", max_size=40))
def test_text_that_looks_like_yaml(folder: Path, text: str) -> None:
    path = folder / "t.yaml"
    path.write_text(text)
    only_ours(ConfigManager, path)


# --- ledgers -----------------------------------------------------------------------------------

HEADER = ",".join(LossRow._fields).encode() + b"\n"
LINES = st.lists(
    st.just(b"1,1,1,a,0.5,1,0.5\n")
    | st.binary(max_size=30).map(lambda line: line + b"\n")
    | st.text("0123456789,.-naif\n", max_size=30).map(str.encode),
    max_size=6,
).map(b"".join)


@pytest.mark.slow
@MANY
@given(lines=LINES, whole=st.booleans(), offset=st.integers(0, 200), step=st.integers(0, 9))
def test_ledgers_that_are_damaged(
    folder: Path, lines: bytes, whole: bool, offset: int, step: int
) -> None:
    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "status.json").write_text('{"status": "KILLED", "reason": ""}')
    for name in ("losses.csv", "metrics.csv"):
        (run / name).write_bytes((HEADER if whole else b"") + lines)
    only_ours(load_losses, run)
    only_ours(load_metrics, run)
    only_ours(load_runs, run)
    only_ours(summarize_runs, folder)
    path = run / "losses.csv"
    only_ours(first_step_from, path, offset)
    only_ours(offset_of_step, path, step)
    only_ours(check_ledger, path, offset, step, None)
    only_ours(cut_ledger, path, offset, folder / "orphans.csv")


@SOME
@given(document=TREES, noise=st.binary(max_size=40), is_noise=st.booleans())
def test_cursors_and_statuses(folder: Path, document: Any, noise: bytes, is_noise: bool) -> None:
    content = noise if is_noise else json.dumps(document).encode()
    (folder / "sinks").mkdir(exist_ok=True)
    (folder / "sinks" / "x.json").write_bytes(content)
    (folder / "status.json").write_bytes(content)
    only_ours(lambda: Cursor(RunDirectory(folder), "x").rewind())
    only_ours(RunDirectory(folder).read_status)


# --- checkpoints -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    config = ConfigManager({"train": {"generator": {"features": 1, "n_downs": 0}}}).data
    networks = {"generator": build_generator(config).state_dict()}
    options = config.model_dump(mode="json")
    Checkpoint(config=options, epoch=1, step=1, networks=networks).save(folder / "whole.pt")
    return (folder / "whole.pt").read_bytes()


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_checkpoints_with_some_bytes_changed(
    folder: Path, whole: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.pt"
    path.write_bytes(damaged)
    only_ours(load_checkpoint, path)
    only_ours(load_generator, path)


@SOME
@given(noise=st.binary(max_size=200), head=st.booleans())
def test_checkpoints_of_noise(folder: Path, whole: bytes, noise: bytes, head: bool) -> None:
    path = folder / "noise.pt"
    path.write_bytes(whole[:1000] + noise if head else noise)
    only_ours(load_checkpoint, path)


WEIRD = TREES | st.sampled_from([torch.zeros(3), -1, 2**70])


@pytest.fixture(scope="module")
def resumable(folder: Path) -> dict[str, Any]:
    config = ConfigManager({"train": {"generator": {"features": 1, "n_downs": 0}}}).data
    training = {
        "epoch": 1,
        "batch": None,
        "epoch_began": 0,
        "bests": {"val/l1": [0.5, 1]},
        "random": random_state(torch.device("cpu")),
        "ledgers": {"losses.csv": 5},
        "mlflow": {"run_id": "a", "uri": "b"},
    }
    networks = {"generator": build_generator(config).state_dict()}
    path = folder / "whole_run" / "checkpoints" / "epoch_0001.pt"
    path.parent.mkdir(parents=True)
    TrainingState(
        config=config.model_dump(mode="json"),
        epoch=1,
        step=1,
        networks=networks,
        training=Training.model_validate(training),
    ).save(path)
    return load_last(RunDirectory(folder / "whole_run"))


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_checkpoints_that_hold_anything(
    folder: Path, resumable: dict[str, Any], data: st.DataObject
) -> None:
    content = {**resumable, "training": {**resumable["training"]}}
    content["training"]["random"] = {**content["training"]["random"]}
    content["networks"] = {**content["networks"]}
    where = data.draw(
        st.sampled_from([p for p in paths(content) if p[:1] != ("config",) or len(p) == 1])
    )
    section = content
    for key in where[:-1]:
        section[key] = {**section[key]}
        section = section[key]
    section[where[-1]] = data.draw(WEIRD)
    path = folder / "whole_run" / "checkpoints" / "epoch_0001.pt"
    torch.save(content, path)
    only_ours(load_generator, path)
    only_ours(go_on_from, path.parents[1])


def go_on_from(run: Path) -> None:
    training = TrainingState.read(load_last(RunDirectory(run)), run).training
    assert training.ledgers.keys() <= {"losses.csv", "metrics.csv"}
    set_random_state(training.random, torch.device("cpu"))
    remember_run(RunDirectory(run), training.mlflow.run_id if training.mlflow else None)
