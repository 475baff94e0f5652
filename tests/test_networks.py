"""Networks that a config names: built-in ones by name, own ones by their import path."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from nectargan import load_config
from nectargan.build import build_discriminator, build_generator, build_optimizer
from nectargan.cli.train import train
from nectargan.config.network_options import SECTIONS
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, NectarGANError, RunError
from nectargan.inference.mlflow_model import save_model
from nectargan.models.registry import DISCRIMINATORS, GENERATORS
from nectargan.runs.checkpoint import load_generator
from nectargan.trainers.memory import needed_memory
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.documents import ROOT, blocks_of, run_blocks

Make = Callable[..., Config]

OWN = """
from pathlib import Path
import torch
from torch import nn

Path(__file__).with_name("imported").touch()

class Net(nn.Module):
    def __init__(self, input_nc, output_nc, width=4):
        super().__init__()
        self.width = width
        self.frozen = nn.Conv2d(input_nc, input_nc, 1).requires_grad_(False)
        self.norm = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(input_nc, width, 3, padding=1)
        self.last = nn.Conv2d(width, output_nc, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.last(torch.relu(self.norm(self.first(self.frozen(x))))))

class Judge(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 1, 4, 2)

    def forward(self, x, y):
        logits = self.convolution(torch.cat((x, y), 1))
        return logits, logits[..., ::2, ::2]

class Smaller(Net):
    def forward(self, x):
        return super().forward(x)[..., ::2]

class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach()

class Nothing(nn.Module):
    def forward(self, *images):
        return images[0]

class Words(Judge):
    def forward(self, x, y):
        return "real"

class Picky(Net):
    def forward(self, x):
        raise RuntimeError("not today")

def function(x):
    return x
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with networks; a file beside it shows that it was imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("own_networks", None)


def forget(module: Path) -> None:
    sys.modules.pop("own_networks", None)
    (module / "imported").unlink(missing_ok=True)


# --- built in ----------------------------------------------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"features": 2, "n_downs": 1},
    "resnet": {"features": 2, "n_blocks": 2},
    "pix2pixhd": {"features": 2, "n_downs": 3, "n_blocks": 1},
    "patchgan": {"base_channels": 2, "n_layers": 1},
    "pixel": {"base_channels": 2},
    "multiscale": {"base_channels": 2, "n_layers": 1, "n_scales": 2},
}


@pytest.mark.parametrize(
    ("place", "registry"), [("generator", GENERATORS), ("discriminator", DISCRIMINATORS)]
)
def test_sections_and_networks_agree(place: str, registry: dict[str, type]) -> None:
    """By name, by option and by default, so that neither can be extended without the other."""
    assert [*SECTIONS[place]] == [*registry, "function"]
    for name, network in registry.items():
        defaults = {
            parameter.name: parameter.default
            for parameter in inspect.signature(network).parameters.values()
            if parameter.name not in ("input_nc", "output_nc", "in_channels")
        }
        assert SECTIONS[place][name](name=name).options() == defaults


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
def test_every_network_trains_against_every_other(
    tiny: Make, generator: str, discriminator: str
) -> None:
    config = tiny(
        train__generator={"name": generator, **SMALL[generator]},
        train__discriminator={"name": discriminator, **SMALL[discriminator]},
        train__generator__learning_rate={"epochs": 1, "epochs_decay": 0},
    )
    trainer = Pix2pixTrainer(config)
    before = {name: parameters(trainer, name) for name in ("generator", "discriminator")}
    run = trainer.train()
    rows = pd.read_csv(run / "losses.csv")
    assert len(rows) == 3 * 4
    assert rows["raw"].notna().all()
    for name, old in before.items():
        assert not torch.equal(old, parameters(trainer, name))
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_generator(run)(x), trainer.generator.eval()(x))


def parameters(trainer: Pix2pixTrainer, name: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in getattr(trainer, name).parameters()]).clone()


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_resumed_run_with_spectral_norm_equals_an_uninterrupted_one(
    tiny: Make, name: str
) -> None:
    options = {"name": name, **SMALL[name], "spectral_norm": True}
    make = {"train__discriminator": options}
    whole = Pix2pixTrainer(tiny(**make))
    whole.train()
    rates = {"epochs": 1, "epochs_decay": 0}
    first = Pix2pixTrainer(
        tiny(**make, train__generator__learning_rate=rates, common__experiment_name="half")
    ).train()
    result = CliRunner().invoke(
        train, ["--resume", str(first), "--set", "train.generator.learning_rate.epochs_decay=1"]
    )
    assert result.exit_code == 0, result.output
    tables = [
        pd.read_csv(run / "losses.csv").drop(columns="time") for run in (whole.directory, first)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_multiscale_loss_is_the_sum_over_the_scales(tiny: Make) -> None:
    trainer = Pix2pixTrainer(
        tiny(train__discriminator={"name": "multiscale", **SMALL["multiscale"]})
    )
    seen: dict[str, float] = {}
    trainer.losses.register_hook(lambda event: seen.setdefault(event.name, event.raw.item()))
    x, y = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
    with torch.no_grad():
        on_real = trainer.discriminator(x, y)
    trainer.train_step(x, y)
    assert len(on_real) == 2
    ones = [torch.nn.functional.softplus(-logits).mean().item() for logits in on_real]
    assert seen["D_real"] == pytest.approx(sum(ones), rel=1e-5)


def test_the_memory_of_all_networks_is_estimated_without_making_them(tiny: Make) -> None:
    small, large = (
        needed_memory(
            tiny(
                train__generator={"name": "pix2pixhd", "features": features, "n_downs": 3},
                train__discriminator={"name": "multiscale", "n_layers": 1, "spectral_norm": True},
            ),
            "fp32",
        )
        for features in (32, 64)
    )
    assert 60e6 > large.parameters > 3 * small.parameters > 10e6


# --- one's own ---------------------------------------------------------------------------------


def own(**options: Any) -> dict[str, Any]:
    return {
        "train__generator": {
            "function": "own_networks.Net",
            "learning_rate": {"epochs": 1, "epochs_decay": 1},
            **options,
        }
    }


def resume(run: Path, *options: str) -> Result:
    return CliRunner().invoke(train, ["--resume", str(run), "--epochs", "3", *options])


def test_an_own_network_from_training_to_its_export(
    tiny: Make, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(
        **own(arguments={"width": 5}), train__discriminator={"function": "own_networks.Judge"}
    )
    trainer = Pix2pixTrainer(config)
    frozen = trainer.generator.frozen.weight.clone()
    run = trainer.train()
    assert trainer.generator.width == 5
    assert torch.equal(trainer.generator.frozen.weight, frozen)
    assert not trainer.generator.frozen.weight.requires_grad

    x = torch.rand(1, 3, 17, 23)
    wanted = trainer.generator.eval()(x)
    assert torch.equal(load_generator(run)(x), wanted)
    (tmp_path / "export").mkdir()
    save_model(run, tmp_path / "export")
    import mlflow.pytorch

    model = mlflow.pytorch.load_model(str(tmp_path / "export" / "model"))
    exported = model(x * 0.5 + 0.5) * 2 - 1
    torch.testing.assert_close(exported, wanted, rtol=1e-4, atol=1e-4)

    # Another user imports it only if told to.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    forget(module)
    result = resume(run)
    assert result.exit_code == 2
    assert "names 'own_networks.Judge', 'own_networks.Net'" in result.stderr
    for call in (lambda: load_generator(run), lambda: save_model(run, tmp_path)):
        with pytest.raises(RunError, match=r"check it, then pass trust=True to load_generator"):
            call()
    assert not (module / "imported").exists()
    assert torch.equal(load_generator(run, trust=True)(x), wanted)
    assert resume(run, "--trust").exit_code == 0
    assert len(pd.read_csv(run / "losses.csv")) == 3 * 3 * 4


def test_a_resumed_own_network_equals_an_uninterrupted_one(tiny: Make, module: Path) -> None:
    whole = Pix2pixTrainer(tiny(**own())).train()
    rates = {"learning_rate": {"epochs": 1, "epochs_decay": 0}}
    half = Pix2pixTrainer(tiny(**own(**rates), common__experiment_name="half")).train()
    result = CliRunner().invoke(
        train, ["--resume", str(half), "--set", "train.generator.learning_rate.epochs_decay=1"]
    )
    assert result.exit_code == 0, result.output
    tables = [pd.read_csv(run / "losses.csv").drop(columns="time") for run in (whole, half)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_trying_a_network_changes_neither_it_nor_the_random_numbers(
    tiny: Make, module: Path
) -> None:
    config = tiny(**own())
    torch.manual_seed(0)
    generator = build_generator(config)
    after = torch.rand(3)
    assert generator.norm.num_batches_tracked == 0
    assert torch.equal(generator.norm.running_mean, torch.zeros(4))
    torch.manual_seed(0)
    from own_networks import Net  # type: ignore[import-not-found]

    Net(3, 3)
    assert torch.equal(torch.rand(3), after)


def test_frozen_parameters_are_not_given_to_the_optimiser(tiny: Make, module: Path) -> None:
    config = tiny(**own())
    generator = build_generator(config)
    adam = build_optimizer(generator, config.train.generator, 0.1)
    trained = {id(p) for group in adam.param_groups for p in group["params"]}
    assert trained == {id(p) for p in generator.parameters() if p.requires_grad}
    assert id(generator.frozen.weight) not in trained


@pytest.mark.parametrize(
    ("place", "function", "arguments", "sentence"),
    [
        ("generator", "own_networks.Nett", {}, "cannot be imported: .*no attribute 'Nett'"),
        ("generator", "no_such_module.Net", {}, "cannot be imported: No module named"),
        ("generator", "own_networks.function", {}, "is not a torch.nn.Module class"),
        ("generator", "own_networks.Net", {"depth": 3}, r"\{'depth': 3\}, which .* refuses"),
        ("generator", "own_networks.Smaller", {}, r"returns a tensor \(2, 3, 32, 16\) for images "
         r"\(2, 3, 32, 32\); it must return a tensor \(2, 3, 32, 32\)\.$"),
        ("generator", "own_networks.Detached", {}, r"return a tensor .* with a gradient\.$"),
        ("generator", "own_networks.Nothing", {}, "has no parameters to train"),
        ("generator", "own_networks.Picky", {}, "fails on 1 tensors of shape .*: not today"),
        ("discriminator", "own_networks.Words", {}, "returns str for images .* a tensor of logits"),
        ("discriminator", "own_networks.Net", {"output_nc": 1, "input_nc": 3},
         "fails on 2 tensors"),
        ("discriminator", "own_networks.Nothing", {}, "has no parameters to train"),
    ],
)  # fmt: skip
def test_unusable_input_is_one_sentence(
    tiny: Make, module: Path, place: str, function: str, arguments: dict[str, Any], sentence: str
) -> None:
    config = tiny(**{f"train__{place}": {"function": function, "arguments": arguments}})
    build = {"generator": build_generator, "discriminator": build_discriminator}[place]
    with pytest.raises(ConfigError, match=sentence) as caught:
        build(config)
    assert str(caught.value).startswith(f"train.{place}.")
    with pytest.raises(ConfigError, match=sentence):
        Pix2pixTrainer(config)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train__generator__name": "resnt"},
         "there is no built-in network of this name. Did you mean 'resnet'"),
        ({"train__generator": {"name": "resnet", "block_type": "UnetBlock"}},
         "train.generator.block_type .*is not a known key of 'resnet'"),
        ({"train__generator": {"function": "a.B", "features": 3}},
         "is not a known key beside 'function'; put the arguments of that class into"),
        ({"train__discriminator": {"name": "pixel", "n_layers": 2}}, "of 'pixel'"),
        ({"train__discriminator": {"name": "multiscale", "n_scales": 0}},
         r"train.discriminator.n_scales .*cannot be 0"),
    ],
)  # fmt: skip
def test_options_that_a_network_does_not_have(
    tiny: Make, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(NectarGANError, match=sentence):
        tiny(**options)


# --- the guide, and the configs ------------------------------------------------------------------


def test_the_page_about_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for language, code in blocks_of("docs/networks.md"):
        name = re.match(r"# (\w+\.\w+)\n", code)
        if name is not None:
            (tmp_path / name[1]).write_text(code, encoding="utf-8")
        elif language == "yaml":
            load_config(yaml.safe_load(code))
    try:
        ran, _ = run_blocks("docs/networks.md")
    finally:
        sys.modules.pop("my_networks", None)
    assert ran == 3
    rows = pd.read_csv("runs/small_v1/losses.csv")
    assert set(rows["epoch"]) == {1, 2, 3}
    assert (rows["loss"] == "G_FM").sum() == len(rows) / 5


def test_the_numbers_of_the_page() -> None:
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    with torch.device("meta"):
        for name, network in (GENERATORS | DISCRIMINATORS).items():
            count = sum(parameter.numel() for parameter in network().parameters())
            (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
            assert f"{count:,}" in row


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("resnet", {"train.generator.features": 2}),
        ("pix2pixhd", {"train.generator.features": 1, "train.generator.n_blocks": 2,
                       "train.discriminator.base_channels": 2}),
        ("pixelgan", {"train.generator.features": 1, "train.generator.n_downs": 2}),
    ],
)  # fmt: skip
def test_the_config_of_each_network_trains(
    name: str, smaller: dict[str, Any], pairs_root: Path, tmp_path: Path
) -> None:
    options = {
        "dataloader.dataroot": str(pairs_root),
        "dataloader.load.load_size": 100,
        "dataloader.load.crop_size": 96,
        "dataloader.num_workers": 0,
        "common.output_directory": str(tmp_path),
        "common.device": "cpu",
        "logging.tensorboard.enable": False,
        "logging.mlflow.enable": False,
        "train.generator.learning_rate": {"epochs": 1, "epochs_decay": 0},
        **smaller,
    }
    run = Pix2pixTrainer(load_config(name, options)).train()
    rows = pd.read_csv(run / "losses.csv")
    assert set(rows["loss"]) == {*load_config(name).train.loss, "D_real", "D_fake"}
    assert len(set(rows["step"])) == 6
