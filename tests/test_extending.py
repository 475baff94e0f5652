"""Code of one's own that a config names: no place in the package knows of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from nectargan.build import all_schedules, build_losses, lr_schedules
from nectargan.cli.main import main
from nectargan.cli.train import train
from nectargan.config.config_manager import ConfigManager
from nectargan.config.dotted import dotted
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, NectarGANError, ScheduleError
from nectargan.runs.params import run_params
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.notation import notation_of, parse_notation
from nectargan.trainers import pix2pix_trainer
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.graph_stand_in import CpuGraphs

Make = Callable[..., Config]

MINE = """
from pathlib import Path
from typing import Annotated
from annotated_types import Interval

Path(__file__).with_name("imported").touch()

def waves(schedule, epoch, *, period: Annotated[int, Interval(ge=1, le=9)] = 2, gain=1.0):
    span = schedule.initial_value - schedule.target_value
    return schedule.target_value + gain * span * (1 - (epoch - 1) % period / period)

calls = []
def with_a_memory(schedule, epoch):
    calls.append(epoch)
    return len(calls)

def of_words(schedule, epoch): return "much"
def below(schedule, epoch): return 1.5 - epoch
def failing(schedule, epoch): raise LookupError("no table\\nfor it")
number = 5
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module ``mine``; a file "imported" beside it shows that it was imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget(folder)


def forget(folder: Path) -> None:
    sys.modules.pop("mine", None)
    (folder / "imported").unlink(missing_ok=True)


def call(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


# --- schedules -----------------------------------------------------------------------------------

WAVES = {
    "function": "mine.waves",
    "arguments": {"period": 3},
    "initial_value": 9.0,
    "target_value": 0.0,
    "start_epoch": 1,
    "end_epoch": 5,
}
LINE = "mine.waves 9->0 @ 1-5 period=3"
EXPECTED = [9.0, 6.0, 3.0, 9.0, 6.0]


def write_config(tiny: Make, tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(tiny(**options).model_dump_json())
    return path


@pytest.mark.parametrize(
    "option",
    [
        LINE,
        {"weight": LINE},
        {"weight": WAVES},
        {**{k: v for k, v in WAVES.items() if k != "function"}, "schedule": "mine.waves"},
    ],
)
def test_every_spelling_is_the_same_schedule(tiny: Make, mine: Path, option: Any) -> None:
    config = tiny(train__loss__G_L1=option, train__generator__learning_rate__epochs=4)
    schedule = build_losses(config)["G_L1"].schedule
    assert [schedule.value_at(epoch) for epoch in range(1, 6)] == pytest.approx(EXPECTED)
    again = ConfigManager(json.loads(config.model_dump_json())).data
    assert again == config
    assert run_params(config)["loss.G_L1"] == "mine.waves 9→0 @ 1–5 period=3"


def test_reading_a_config_imports_nothing(tiny: Make, mine: Path) -> None:
    config = tiny(
        train__loss__G_L1=WAVES | {"schedule": None},
        train__generator__learning_rate__schedule="mine.waves 0.1",
    )
    assert dotted(config)["train.generator.learning_rate.schedule"] == "mine.waves 0.1"
    run_params(config)
    assert [s.is_imported for s in all_schedules(config, imports=False).values()].count(False) == 3
    assert not (mine / "imported").exists()
    with pytest.raises(ScheduleError, match=r"'mine\.waves' must be imported before"):
        config.train.generator.learning_rate.build().value_at(1)


def test_a_run_is_resumed_with_it(tiny: Make, mine: Path) -> None:
    """The weights and the learning rate are on record, those after the resumption as well; what
    only reads the run imports nothing."""
    rate = {"schedule": "mine.waves 0.002->0.001 @ 1-9 period=2", "epochs": 3, "epochs_decay": 0}
    run = Pix2pixTrainer(tiny(train__loss__G_L1=LINE, train__generator__learning_rate=rate)).train()
    forget(mine)
    result = call(train, "--resume", run, "--epochs", 5)
    assert result.exit_code == 0, result.output
    losses = pd.read_csv(run / "losses.csv")
    weights = losses[losses["loss"] == "G_L1"].groupby("epoch")["weight"].unique()
    assert [float(each) for (each,) in weights] == pytest.approx(EXPECTED)
    metrics = pd.read_csv(run / "metrics.csv")
    rates = metrics[metrics["metric"] == "lr/generator"]["value"]
    assert list(rates) == pytest.approx([0.002, 0.0015, 0.002, 0.0015, 0.002])

    forget(mine)
    for command in ("runs", "sync", "export-csv"):
        target = run.parent if command == "runs" else run
        output = ["-o", run.parent / "x.csv"] if command == "export-csv" else []
        assert call(main, command, target, *output).exit_code == 0
    assert not (mine / "imported").exists()

    # Drawing needs its values; the config of a run may be anybody's.
    picture = run.parent / "s.png"
    assert call(main, "schedule", run / "config.json", "-o", picture).exit_code == 0
    assert (mine / "imported").exists()
    forget(mine)
    (run / "functions.hmac").unlink()
    refused = call(main, "schedule", run / "config.json", "-o", picture)
    assert refused.exit_code == 2
    assert "names 'mine.waves'" in refused.stderr
    assert call(train, "--resume", run, "--epochs", 6).exit_code == 2
    assert not (mine / "imported").exists()
    assert call(main, "schedule", run / "config.json", "-o", picture, "--trust").exit_code == 0


def test_a_config_is_drawn_and_swept(tiny: Make, mine: Path, tmp_path: Path) -> None:
    config = write_config(tiny, tmp_path, train__loss__G_GAN=LINE)
    drawn = call(main, "schedule", config, "-o", tmp_path / "s.png")
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    sweep = "train.loss.G_L1=mine.waves 9->0 @ 1-5 period=2,mine.waves 4"
    result = call(train, "-c", config, "--sweep", sweep)
    assert result.exit_code == 0, result.output
    seen = []
    for number in (1, 2):
        losses = pd.read_csv(tmp_path / "runs" / f"tiny_v{number}" / "losses.csv")
        seen.append(list(losses[losses["loss"] == "G_L1"].groupby("epoch")["weight"].first()))
    assert seen == [[9.0, 4.5], [4.0, 4.0]]


def test_a_captured_step_follows_it(
    tiny: Make, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CpuGraphs()
    monkeypatch.setattr("nectargan.trainers.trainer.graph_obstacle", lambda *_: None)
    monkeypatch.setattr(pix2pix_trainer, "CudaGraphs", lambda device: backend)
    options = {"train__loss__G_L1": f"{LINE} interval=step", "dataloader__batch_size": 1}
    run = Pix2pixTrainer(tiny(**options, train__generator__learning_rate__epochs=2)).train()
    assert backend.captures == 1
    losses = pd.read_csv(run / "losses.csv")
    weights = losses[losses["loss"] == "G_L1"]["weight"]
    epochs = [step / 6 for step in range(1, 19)]
    assert list(weights) == pytest.approx([9 * (1 - (e - 1) % 3 / 3) for e in epochs], rel=1e-5)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("nowhere.waves 1", "schedule of train.loss.G_L1 is 'nowhere.waves', .*No module named"),
        ("mine.wave 1", "is 'mine.wave', which cannot be imported: .*'wave'"),
        ("mine.number 1", "is 'mine.number', which is no function"),
        ("mine.waves 1 period=0", "period is 0; it must be a whole number >= 1 and <= 9"),
        ("mine.waves 1 perid=3", "takes no perid .*Did you mean 'period'"),
        ("mine.with_a_memory 1", "its value must depend on the epoch alone"),
        ("mine.of_words 1", "returned 'much' for epoch 1; it must return a finite number"),
        ("mine.failing 1", "'mine.failing' fails in epoch 1: no table for it"),
    ],
)
def test_schedules_that_cannot_be_used(tiny: Make, mine: Path, option: str, sentence: str) -> None:
    config = tiny(train__loss__G_L1=option)
    for build in (build_losses, all_schedules):
        with pytest.raises(NectarGANError, match=sentence) as caught:
            build(config)
        assert "\n" not in str(caught.value)


def test_a_learning_rate_of_ones_own_is_never_negative(tiny: Make, mine: Path) -> None:
    config = tiny(train__generator__learning_rate__schedule="mine.below")
    with pytest.raises(ConfigError, match=r"generator.* returned -0\.5 for epoch 2; at least 0"):
        lr_schedules(config)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"function": "a.b", "schedule": "linear"}, "not both"),
        ({}, "it needs a .schedule. by name or a .function. of your own"),
        ({"schedule": "linear", "arguments": {"power": 3}}, "arguments are for a function"),
        ({"function": "a.b", "power": 3.0}, "give power to the function, in its arguments"),
        ({"function": "lonely"}, '"lonely" is not package.module.name'),
        ({"function": "a.b", "initial_value": "x"}, "initial_value .* valid number"),
        ({"function": "a.b", "period": 3}, "period .* is not a known key"),
    ],
)
def test_sections_that_contradict_themselves(option: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.loss\.G_L1\.weight.*{sentence}"):
        ConfigManager({"train": {"loss": {"G_L1": {"weight": option}}}})


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8)


@given(
    arguments=st.dictionaries(
        st.sampled_from(["period", "gain", "mode", "x1"]),
        st.one_of(
            st.integers(-(10**6), 10**6),
            st.booleans(),
            st.none(),
            WORDS,
            st.lists(st.integers(-9, 9) | WORDS, max_size=3),
        ),
    ),
    ends=st.none() | st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
)
def test_notation_of_ones_own_there_and_back(arguments: dict[str, Any], ends: Any) -> None:
    values = {} if ends is None else {"initial_value": ends[0], "target_value": ends[1]}
    end = {} if ends is None else {"end_epoch": 7}
    schedule = Schedule("a.b", **values, **end, arguments=arguments)
    assert Schedule(**parse_notation(notation_of(schedule))) == schedule
