"""Code of one's own that a config names: no place in the package knows of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nectargan import track
from nectargan.analysis import plots
from nectargan.analysis.compare import best_in, compare_runs
from nectargan.analysis.frames import load_runs
from nectargan.build import build_losses
from nectargan.build_data import build_augmentation
from nectargan.cli.main import main
from nectargan.cli.train import train
from nectargan.config.config_manager import ConfigManager
from nectargan.config.dotted import dotted
from nectargan.config.run_schedules import all_schedules, lr_schedules
from nectargan.config.schema import Config
from nectargan.dataset.built_in_augmentations import ON_BOTH, ON_INPUT
from nectargan.errors import ConfigError, DataError, NectarGANError, ScheduleError
from nectargan.losses.loss_manager import LossManager
from nectargan.runs.checkpoint import load_generator
from nectargan.runs.params import run_params
from nectargan.scheduling.data import Schedule
from nectargan.scheduling.notation import notation_of, parse_notation
from nectargan.sweeps.axes import parse_axes
from nectargan.sweeps.search import Search
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.graph_stand_in import CpuGraphs

Make = Callable[..., Config]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module ``mine``; a file "imported" beside it shows that it was imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("own_code.py"), folder / "mine.py")
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


def test_a_captured_step_follows_it(tiny: Make, mine: Path) -> None:
    backend = CpuGraphs()
    options = {"train__loss__G_L1": f"{LINE} interval=step", "dataloader__batch_size": 1}
    config = tiny(**options, train__generator__learning_rate__epochs=2)
    run = Pix2pixTrainer(config, graphs=backend).train()
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
        ("mine.number 1", "is 'mine.number', which is not a function"),
        ("mine.waves 1 period=0", "period is 0; it must be a whole number >= 1 and <= 9"),
        ("mine.waves 1 perid=3", "has no argument perid .*Did you mean 'period'"),
        ("mine.with_a_memory 1", "its value must depend only on the epoch"),
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
        (
            {"function": "a.b", "schedule": "linear"},
            "it needs either a .schedule. .a built-in name. or a .function. .an import path.",
        ),
        ({}, "it needs either a .schedule. .a built-in name. or a .function. .an import path."),
        ({"schedule": "linear", "arguments": {"power": 3}}, "arguments are only for a function"),
        ({"function": "a.b", "power": 3.0}, "power of a function must be given in arguments"),
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
def test_the_notation_of_custom_functions_round_trips(arguments: dict[str, Any], ends: Any) -> None:
    values = {} if ends is None else {"initial_value": ends[0], "target_value": ends[1]}
    end = {} if ends is None else {"end_epoch": 7}
    schedule = Schedule("a.b", **values, **end, arguments=arguments)
    assert Schedule(**parse_notation(notation_of(schedule))) == schedule


# --- metrics -------------------------------------------------------------------------------------

ERROR = {"function": "mine.error", "arguments": {"power": 1.0}, "higher_is_better": False}
SCALED = {
    "function": "mine.Scaled",
    "arguments": {"scale": -1.0},
    "name": "minus-l1",
}


def values_of(run: Path, metric: str) -> list[float]:
    metrics = pd.read_csv(run / "metrics.csv")
    return list(metrics[metrics["metric"] == metric]["value"])


def test_custom_metrics(tiny: Make, mine: Path) -> None:
    """They are measured, kept the best by and shown, in both directions."""
    config = tiny(
        validation__metrics=["l1", ERROR, "mine.likeness", SCALED],
        save__keep_best="val/error",
        train__generator__learning_rate__epochs=3,
    )
    run = Pix2pixTrainer(config).train()
    l1 = values_of(run, "val/l1")
    assert len(l1) == 4
    assert values_of(run, "val/error") == pytest.approx(l1)
    assert values_of(run, "val/likeness") == pytest.approx([1 - each for each in l1])
    assert values_of(run, "val/minus-l1") == pytest.approx([-each for each in l1])
    assert values_of(run, "val/ssim") == []
    best = l1.index(min(l1)) + 1
    for metric in ("l1", "error", "likeness", "minus-l1"):
        assert values_of(run, f"best/{metric}_epoch")[-1] == best, metric
    kept = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    assert kept["epoch"] == best


def test_runs_are_compared_by_them(
    tiny: Make, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads the record knows the direction from the config, and imports nothing."""
    runs = []
    for seed in (1, 2, 3):
        config = tiny(common__seed=seed, validation__metrics=[ERROR, "mine.likeness"])
        runs.append(Pix2pixTrainer(config).train())
    forget(mine)
    frame = compare_runs([str(run) for run in runs], sort="error")
    assert list(frame["best/error"]) == sorted(frame["best/error"])
    assert best_in(frame, "best/error").tolist() == [True, False, False]
    by_likeness = compare_runs([str(run) for run in runs], sort="likeness")
    assert list(by_likeness["best/likeness"]) == sorted(frame["best/likeness"], reverse=True)
    for run, best in zip(runs, load_runs([str(run) for run in runs])["best/error"], strict=True):
        assert best == pytest.approx(min(values_of(run, "val/error")))

    # More runs than there are colors are told apart by the first metric, the best one in front.
    labels: list[str] = []
    monkeypatch.setattr(plots, "_MOST_COLORS", 2)
    monkeypatch.setattr(plots, "_add_runs", lambda _, looks: labels.extend(looks))
    plots.plot_comparison([str(run) for run in runs], tmp_path / "p.png")
    assert labels == list(frame.index)
    assert not (mine / "imported").exists()


def test_a_sweep_is_judged_by_one(tiny: Make, mine: Path, tmp_path: Path) -> None:
    config = write_config(tiny, tmp_path, validation__metrics=["psnr", ERROR])
    options = ["-c", config, "--sweep", "train.loss.G_L1=0,100", "--metric", "val/error"]
    result = call(train, *options)
    assert result.exit_code == 0, result.output
    runs = [tmp_path / "runs" / f"tiny_v{number}" for number in (1, 2)]
    best = min(runs, key=lambda run: min(values_of(run, "val/error")))
    assert f"Best: {best}" in result.stdout.replace("\n", "")
    assert "best val/error" in result.stdout
    wrong = call(train, *options[:-1], "val/eror")
    assert wrong.exit_code == 2
    assert "--metric val/eror is not measured. Did you mean 'val/error'?" in wrong.stderr


@pytest.mark.parametrize("metric", ["val/error", "val/likeness"])
def test_a_search_goes_the_right_way(tiny: Make, mine: Path, metric: str) -> None:
    import optuna

    def resolve(overrides: Any) -> Config:
        config = tiny(validation__metrics=[ERROR, "mine.likeness"])
        return ConfigManager(config.model_dump(mode="json"), overrides).data

    search = Search(parse_axes(["train.loss.G_L1=1..100"]), resolve, metric)
    search.open()
    (study,) = optuna.get_all_study_summaries(search.storage)
    assert (study.direction.name == "MINIMIZE") == (metric == "val/error")


def test_a_resumed_run_may_measure_something_else(tiny: Make, mine: Path) -> None:
    run = Pix2pixTrainer(tiny(validation__metrics=["mine.likeness"])).train()
    forget(mine)
    change = ["--set", 'validation.metrics=["l1", "mine.likeness"]']
    result = call(train, "--resume", run, "--epochs", 3, *change)
    assert result.exit_code == 0, result.output
    assert len(values_of(run, "val/likeness")) == 3
    assert len(values_of(run, "val/l1")) == 1
    forget(mine)
    (run / "functions.hmac").unlink()
    refused = call(train, "--resume", run, "--epochs", 4)
    assert refused.exit_code == 2
    assert "names 'mine.likeness'" in refused.stderr
    assert not (mine / "imported").exists()


def test_what_they_draw_does_not_change_the_training(tiny: Make, mine: Path) -> None:
    with (mine / "mine.py").open("a") as file:
        file.write("import torch\nclass Drawing(torch.nn.Linear):\n")
        file.write("    def forward(self, generated, target): return generated.mean()\n")
    drawing = {"function": "mine.Drawing", "arguments": {"in_features": 3, "out_features": 4}}
    plain, other = (
        Pix2pixTrainer(tiny(validation__metrics=metrics)).train()
        for metrics in (["l1"], ["l1", drawing])
    )
    assert values_of(plain, "val/l1") == values_of(other, "val/l1")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("nowhere.metric", "The metric 'metric' of validation.metrics is 'nowhere.metric', which"),
        ("mine.number", "is 'mine.number', which is neither a function nor a class"),
        ("mine.Scaled", r"arguments of metric 'Scaled' .* are \{\}, which 'mine.Scaled' refuses"),
        ("mine.distance", r"higher_is_better True in the config, but 'mine.distance' says False; "),
        ("mine.a_map", r"returns \(2, 3, 32, 32\) for 2 images; it must return a tensor \(2,\)"),
        ("mine.no_tensor", "returns float for 2 images"),
        ("mine.broken", r"fails on two tensors of shape \(2, 3, 32, 32\): no table for it"),
        ({"function": "mine.error", "arguments": {"p": 1}}, "fails on two tensors .*'p'"),
    ],
)
def test_metrics_that_cannot_be_used(tiny: Make, mine: Path, option: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        Pix2pixTrainer(tiny(validation__metrics=[option]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (["ssin"], r"'ssin' is neither a metric nor an import path\. Did you mean 'ssim'"),
        (["l1", "l1"], "'l1' is measured twice"),
        (["a.b", "c.b"], "'b' is measured twice"),
        (["a.ssim"], "needs a name other than 'ssim'"),
        ([5], "it must be a name, an import path, or a section with a function"),
        ([{"name": "x"}], r"metrics\.0\.function .* is missing"),
        ([{"function": "x"}], r"metrics\.0\.function .* must have the form package.module.Name"),
        ([{"function": "a.b", "name": "a,b"}], "the name 'a,b' must be 1 to 60 letters"),
        ([{"function": "a.b", "higher": True}], r"metrics\.0\.higher .* is not a known key"),
        ("[1", "it is not a JSON list"),
    ],
)
def test_lists_of_metrics_that_say_nothing(metrics: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ConfigManager({"validation": {"metrics": metrics}})


def test_the_best_is_measured() -> None:
    sentence = r"keep_best is 'val/error', which is not in validation.metrics\. "
    with pytest.raises(ConfigError, match=sentence):
        ConfigManager({"save": {"keep_best": "val/error"}})
    with pytest.raises(ConfigError, match="register_model needs at least one metric in validation"):
        ConfigManager(
            {"validation": {"metrics": []}, "logging": {"mlflow": {"register_model": "m"}}}
        )
    text = ConfigManager(None, [("validation.metrics", "l1, a.b")]).data.validation
    assert text.series == ["val/l1", "val/b"]


# --- augmentations -------------------------------------------------------------------------------


def own_on(side: str, function: str, chance: float = 1.0, **arguments: Any) -> dict[str, Any]:
    term = {"function": function, "arguments": arguments, "chance": chance}
    return {f"dataloader__augmentations__{side}__own__mine": term}


def test_a_custom_augmentation(tiny: Make, mine: Path) -> None:
    """On both images of a pair it does the same, on one alone it leaves the other."""
    a, b = (torch.rand(4, 3, 32, 32) * 1.8 - 0.9 for _ in range(2))

    def black(images: Tensor) -> Tensor:
        return (images == -1).all(dim=3).all(dim=1)

    both = build_augmentation(tiny(**own_on("both", "mine.Stripes", count=5)))
    one, other = both(a, b)
    assert torch.equal(black(one), black(other))
    assert 1 <= black(one).sum(dim=1).min() <= black(one).sum(dim=1).max() <= 5
    assert len({tuple(rows.tolist()) for rows in black(one)}) > 1, "not the same in all pairs"
    for side, changed in (("input", 0), ("target", 1)):
        augment = build_augmentation(tiny(**own_on(side, "mine.Stripes")))
        results = augment(a, b)
        assert black(results[changed]).any()
        assert results[1 - changed] is (a, b)[1 - changed]
    never = build_augmentation(tiny(**own_on("both", "mine.Stripes", chance=0.0)))
    assert not never.enabled


def test_a_run_is_trained_and_resumed_with_it(tiny: Make, mine: Path) -> None:
    """A run that was stopped equals one that was not."""
    options = own_on("input", "mine.Stripes", chance=0.5)
    config = tiny(**options, train__generator__learning_rate={"epochs": 3, "epochs_decay": 0})
    whole = Pix2pixTrainer(config).train()
    half = Pix2pixTrainer(
        tiny(**options, train__generator__learning_rate={"epochs": 2, "epochs_decay": 0})
    ).train()
    plain = Pix2pixTrainer(tiny()).train()
    forget(mine)
    assert call(train, "--resume", half, "--epochs", 3).exit_code == 0
    paths = [run / "checkpoints" / "last.pt" for run in (whole, half)]
    one, other = (load_generator(path).state_dict() for path in paths)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    assert values_of(plain, "val/l1") != values_of(whole, "val/l1")[:2]
    assert run_params(config)["augmentation.input.mine"] == 0.5
    (half / "functions.hmac").unlink()
    assert "names 'mine.Stripes'" in call(train, "--resume", half, "--epochs", 4).stderr


@pytest.mark.parametrize(
    ("side", "function", "arguments", "sentence"),
    [
        ("both", "nowhere.It", {}, "function is 'nowhere.It', which cannot be imported"),
        ("both", "mine.error", {}, "is not a subclass of nectargan.dataset.augmentation"),
        ("input", "mine.Stripes", {"cout": 3}, "which 'mine.Stripes' refuses: .*'cout'"),
        ("input", "mine.Declared", {"low_max": 2}, "refuses: needs 0 <= low_min <= low_max <= 1"),
        ("input", "mine.Declared", {"low_max": 0.1}, "got low_min = 0.2, low_max = 0.1"),
        ("input", "mine.Declared", {"kind": "c"}, "has the kind 'c', allowed: a, b"),
        (
            "target",
            "mine.Halving",
            {},
            r"returns \(2, 3, 16, 32\) for images of shape \(2, 3, 32, "
            r"32\); it must return a tensor of the same shape",
        ),
        ("target", "mine.Failing", {}, "fails on images .*: no table for it"),
    ],
)
def test_augmentations_that_cannot_be_used(
    tiny: Make, mine: Path, side: str, function: str, arguments: Any, sentence: str
) -> None:
    config = tiny(**own_on(side, function, **arguments))
    place = rf"^dataloader\.augmentations\.{side}\.own\.mine"
    with pytest.raises(ConfigError, match=f"{place}.*{sentence}") as caught:
        Pix2pixTrainer(config)
    assert "\n" not in str(caught.value)


def test_an_augmentation_that_needs_three_channels(tiny: Make, mine: Path) -> None:
    grey = tiny(**own_on("both", "mine.Declared"), dataloader__load__output_nc=1)
    with pytest.raises(ConfigError, match="needs images with 3 channels, but an image has 1"):
        build_augmentation(grey)
    build_augmentation(tiny(**own_on("input", "mine.Declared"), dataloader__load__output_nc=1))


def test_every_bound_is_that_of_the_class() -> None:
    """The config refuses what the class refuses, and takes what it takes."""
    for side, kinds in (("both", ON_BOTH), ("input", ON_INPUT)):
        for kind in kinds:
            for name, parameter in kind.parameters().items():
                key = f"dataloader.augmentations.{side}.{kind.name}_{name}"
                for bound, outside in (("ge", -1), ("le", 1)):
                    if bound in parameter.bounds:
                        limit = parameter.bounds[bound]
                        at = parameter.type(limit)
                        partner = name.replace("min", "max")
                        partner = name.replace("max", "min") if partner == name else partner
                        other = f"dataloader.augmentations.{side}.{kind.name}_{partner}"
                        ConfigManager(None, [(key, at), (other, at)])
                        kind(**{name: at, partner: at})
                        beyond = at + outside
                        with pytest.raises(ConfigError):
                            ConfigManager(None, [(key, beyond), (other, beyond)])
                        with pytest.raises(DataError):
                            kind(**{name: beyond, partner: beyond})


# --- sinks ---------------------------------------------------------------------------------------

LINES = {"function": "mine.Lines", "every_n_steps": 2, "arguments": {"fails_at": 1}}


def lines_of(run: Path, first: str = "") -> list[list[str]]:
    lines = (run / "lines.txt").read_text().splitlines()
    return [line.split() for line in lines if line.startswith(first)]


def steps_of(run: Path, series: str) -> list[int]:
    return [int(line[2]) for line in lines_of(run, f"point {series} ")]


def test_a_custom_sink_follows_the_ledger(tiny: Make, mine: Path) -> None:
    run = Pix2pixTrainer(tiny(logging__sinks__mine=LINES)).train()
    lines = lines_of(run)
    assert lines[0] == ["open", "0", "mine", "2"]
    assert lines[-1] == ["close", "FINISHED"]
    assert steps_of(run, "loss/G_L1/raw") == [1, 2, 4, 6]
    losses = pd.read_csv(run / "losses.csv")
    g_l1 = losses[losses["loss"] == "G_L1"].set_index("step")["raw"]
    for _, _, step, value in lines_of(run, "point loss/G_L1/raw"):
        assert float(value) == pytest.approx(g_l1[int(step)])
    values = [float(line[3]) for line in lines_of(run, "point val/ssim")]
    assert values == pytest.approx(values_of(run, "val/ssim"))
    assert [line[1] for line in lines_of(run, "file")].count("examples") >= 2
    assert (run / "sinks" / "mine.json").exists()


def test_it_catches_up_when_it_is_back(
    tiny: Make, mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails all the time: the training does not mind, and sync sends the rest, once."""
    config = tiny(logging__sinks__mine=LINES, logging__drain_seconds=0.2)
    away = Path(config.common.output_directory) / "tiny_v1" / "away"
    trainer = Pix2pixTrainer(config)
    trainer.losses.register_hook(lambda event: away.touch())
    run = trainer.train()
    assert "mine is behind: the line is dead" in caplog.text
    assert steps_of(run, "loss/G_L1/raw") == []
    forget(mine)
    listed = call(main, "runs", run.parent)
    assert "mine" in listed.stdout
    assert not (mine / "imported").exists()
    failed = call(main, "sync", run)
    assert failed.exit_code == 2
    assert "mine did not get everything: the line is dead." in failed.stderr
    away.unlink()
    forget(mine)
    (run / "functions.hmac").rename(run / "hidden")
    refused = call(main, "sync", run)
    assert refused.exit_code == 2
    assert "names 'mine.Lines'" in refused.stderr
    assert "then add --trust." in refused.stderr
    assert not (mine / "imported").exists()
    (run / "hidden").rename(run / "functions.hmac")
    assert "mine: has everything now." in call(main, "sync", run).stdout
    assert steps_of(run, "loss/G_L1/raw") == [1, 2, 4, 6]
    assert "mine: had everything." in call(main, "sync", run).stdout
    assert steps_of(run, "loss/G_L1/raw") == [1, 2, 4, 6]


def test_a_resumed_run_continues_with_it(tiny: Make, mine: Path) -> None:
    run = Pix2pixTrainer(tiny(logging__sinks__mine=LINES)).train()
    forget(mine)
    assert call(train, "--resume", run, "--epochs", 3).exit_code == 0
    assert [line[1] for line in lines_of(run, "open")] == ["0", "7"]
    assert steps_of(run, "loss/G_L1/raw") == [1, 2, 4, 6, 8]
    assert lines_of(run)[-1] == ["close", "FINISHED"]


@pytest.mark.parametrize("as_object", [True, False])
def test_track_takes_it_as_well(mine: Path, tmp_path: Path, as_object: bool) -> None:
    losses = LossManager()
    losses.register_loss_fn("a", torch.nn.L1Loss(), loss_weight=3.0)
    if as_object:
        import mine as module  # type: ignore[import-not-found]

        sinks: dict[str, Any] = {"mine": module.Lines()}
    else:
        sinks = {"mine": {"function": "mine.Lines", "every_n_steps": 3}}
    with track(losses, tmp_path / "run", sinks=sinks) as tracker:
        for step in range(1, 8):
            losses.start_step(1, step)
            losses.compute_loss_xy("a", torch.zeros(2), torch.ones(2))
        tracker.log_metrics(7, 1, {"val/x": 0.5})
    wanted = list(range(1, 8)) if as_object else [1, 3, 6]
    assert steps_of(tmp_path / "run", "loss/a/weighted") == wanted
    assert lines_of(tmp_path / "run", "point val/x") == [["point", "val/x", "7", "0.5"]]
    assert lines_of(tmp_path / "run")[-1] == ["close", "FINISHED"]


@pytest.mark.parametrize(
    ("sink", "sentence"),
    [
        ({"function": "nowhere.It"}, r"sinks\.one\.function is 'nowhere.It', which cannot be im"),
        (
            {"function": "mine.Lines", "arguments": {"fiel": "x"}},
            "'mine.Lines' refuses: .*fiel",
        ),
        ({"function": "mine.Half"}, "a Half without the methods of a sink: add_file, close"),
        ({"function": "builtins.object"}, "a object without the methods of a sink: open, write"),
    ],
)
def test_sinks_that_cannot_be_used(
    tiny: Make, mine: Path, tmp_path: Path, sink: Any, sentence: str
) -> None:
    """They are found before there is a run directory."""
    with pytest.raises(ConfigError, match=rf"^logging\..*{sentence}") as caught:
        Pix2pixTrainer(tiny(logging__sinks__one=sink)).train()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "runs").glob("*"))
    with pytest.raises(ConfigError, match=r"^sinks"):
        track(LossManager(), tmp_path / "run", sinks={"one": sink})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("logging", "sentence"),
    [
        ({"sinks": {"MLflow": LINES}}, "and not tensorboard or mlflow"),
        ({"sinks": {"a b": LINES}}, "1 to 60 letters, digits or '_'"),
        ({"sinks": {"a": LINES, "A": LINES}}, "differ only in upper and lower case"),
        ({"sinks": {"a": {**LINES, "every_n_steps": 0}}}, "every_n_steps .*equal to 1"),
        ({"sinks": {"a": {"every_n_steps": 1}}}, r"sinks\.a\.function .* is missing"),
        ({"sinks": {"a": {**LINES, "every": 1}}}, r"sinks\.a\.every .* is not a known key"),
        ({"sinks": {"a": "mine.Lines"}}, "it must be a section of options"),
        (
            {
                "csv": False,
                "mlflow": {"enable": False},
                "tensorboard": {"enable": False},
                "sinks": {"a": LINES},
            },
            "csv is false, but sinks read the CSV files",
        ),
    ],
)
def test_sinks_that_contradict_themselves(logging: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ConfigManager({"logging": logging})


@pytest.mark.parametrize(
    ("sinks", "sentence"),
    [
        ({"tensorboard": {"function": "a.b"}}, "and not tensorboard or mlflow"),
        ({"one": {"function": "mine.Lines", "every": 2}}, "has the key 'every'. Allowed: arg"),
        ({"one": {}}, "needs a 'function', an import path"),
        ({"one": {"function": "mine.Lines", "every_n_steps": 0}}, "must be a whole number, 1 or"),
        ({"one": {"function": "mine.Lines", "arguments": 5}}, "are 5; give a dictionary"),
        ({"one": 5}, "is a int without the methods of a sink"),
    ],
)
def test_what_track_cannot_use(mine: Path, tmp_path: Path, sinks: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        track(LossManager(), tmp_path / "run", sinks=sinks)
