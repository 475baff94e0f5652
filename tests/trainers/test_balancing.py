"""Weights that follow from gradients, in whole runs: eager, captured and resumed."""

from __future__ import annotations

import copy
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from nectargan.config.schema import Config
from nectargan.dataset.synthetic import synthesize
from nectargan.errors import CheckpointError, ConfigError, LossError
from nectargan.losses.balancing import Balancer
from nectargan.losses.lm_data import LossEvent
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_last
from nectargan.runs.resume import resumption_of
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.graph_stand_in import CpuGraphs

Make = Callable[..., Config]

RATE = {"epochs": 1, "epochs_decay": 2, "initial": 0.002}
QUICK = {
    "train__objective": "extended",
    "train__generator__learning_rate": RATE,
    "validation__metrics": [],
    "save__save_examples": False,
}
EXACT = "share {} smoothing=0"
RULES: dict[str, dict[str, object]] = {
    "share": {"train__loss": {"G_GAN": "share 0.2 smoothing=0"}},
    "smoothed": {"train__loss": {"G_GAN": "share 0.2", "G_LAP": "share 0.1 smoothing=0.9"}},
    "scheduled": {"train__loss": {"G_GAN": "share linear 0->0.5 @ 1-3 smoothing=0 interval=step"}},
    "vqgan": {"train__balancer": "vqgan"},
    "softadapt": {"train__balancer": {"name": "softadapt", "arguments": {"every_n_steps": 2}}},
    "relobralo": {"train__balancer": "relobralo"},
    "dwa": {"train__balancer": {"name": "dwa", "arguments": {"every_n_steps": 2}}},
    "own": {"train__balancer": "tests.trainers.test_balancing.Inverse"},
}


class Inverse(Balancer):
    """A rule of one's own: inverse norms, which move slowly."""

    last: Tensor

    def __init__(self, losses: list[str]) -> None:
        super().__init__(losses)
        self.register_buffer("last", torch.ones(len(losses)))

    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """See `Balancer.weights`."""
        self.last.lerp_(1 / (1 + norms + gramian.diagonal() / step), 0.5)
        return self.last.clone()


class Thousandfold(nn.Module):
    """The L1 loss, a thousand times as large."""

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        return 1000 * nn.functional.l1_loss(generated, target)


def losses_of(run: RunDirectory) -> pd.DataFrame:
    return pd.read_csv(run / "losses.csv").drop(columns="time")


def gradients_of(run: RunDirectory) -> pd.DataFrame:
    return pd.read_csv(run / "gradients.csv").drop(columns="time")


def assert_same(one: Pix2pixTrainer, other: Pix2pixTrainer) -> None:
    assert losses_of(one.directory).equals(losses_of(other.directory))
    assert gradients_of(one.directory).equals(gradients_of(other.directory))
    for name, network in one.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, other.networks[name].state_dict()[key]), (name, key)


@pytest.mark.parametrize("rule", RULES)
def test_a_captured_run_equals_an_eager_one(tiny: Make, rule: str) -> None:
    options = {**QUICK, **RULES[rule], "dataloader__batch_size": 4}
    graphs = CpuGraphs()
    plain = Pix2pixTrainer(tiny(**options), graphs=CpuGraphs())
    plain.graph_obstacle = "for comparison"
    captured = Pix2pixTrainer(tiny(**options), graphs=graphs)
    weights: list[LossEvent] = []
    captured.losses.register_hook(weights.append)
    plain.train()
    captured.train()
    assert graphs.captures == 1
    assert captured.graph_obstacle is None
    assert_same(captured, plain)
    recorded = losses_of(captured.directory)
    # What a hook keeps is not changed by the next replay.
    assert [float(e.weight) for e in weights] == pytest.approx(recorded.weight.tolist())
    assert np.allclose(recorded.weighted, recorded.raw * recorded.weight, rtol=1e-5)
    moving = recorded[recorded.loss.str.startswith("G_")].groupby("loss").weight.nunique()
    assert moving.max() > 1


class Stopping(Pix2pixTrainer):
    """Is interrupted after step 4, the first of the second epoch, as by Ctrl-C."""

    def train_step(self, source: Tensor, target: Tensor) -> None:
        """See `Pix2pixTrainer`."""
        super().train_step(source, target)
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)  # kept back until the step is done


@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_equals_an_uninterrupted_one(tiny: Make, rule: str) -> None:
    config = tiny(**QUICK, **RULES[rule])
    whole, first = Pix2pixTrainer(config), Stopping(config)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        first.train()
    checkpoint = load_last(first.directory)
    wanted = Config.model_validate(checkpoint["config"])
    resumption = resumption_of(first.directory, checkpoint, wanted)
    resumed = Pix2pixTrainer(resumption.config, resumption)
    resumed.train()
    assert_same(resumed, whole)
    one, other = resumed.losses.balancer, whole.losses.balancer
    assert one is not None
    assert other is not None
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.fixture
def stopped(tiny: Make) -> tuple[RunDirectory, dict[str, Any]]:
    """A run that was interrupted after step 4, and its checkpoint."""
    trainer = Stopping(tiny(**QUICK, **RULES["smoothed"]))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer.directory, load_last(trainer.directory)


@pytest.mark.parametrize(
    "losses",
    [{"G_GAN": "share 0.5", "G_LAP": "share 0.1"}, {"G_GAN": "share 0.5"}],
    ids=["same losses", "other losses"],
)
def test_shares_may_change_when_a_run_is_resumed(
    stopped: tuple[RunDirectory, dict[str, Any]], losses: dict[str, str]
) -> None:
    directory, checkpoint = stopped
    config = copy.deepcopy(checkpoint["config"])
    config["train"]["loss"].update({"G_LAP": 1.0, **losses})
    resumption = resumption_of(directory, checkpoint, Config.model_validate(config))
    rows = gradients_of(Pix2pixTrainer(resumption.config, resumption).train())
    shares = rows[rows.loss == "G_GAN"].set_index("step").share
    assert shares[4] == pytest.approx(0.2, abs=0.1)
    assert shares[5:].to_numpy() == pytest.approx(0.5, abs=0.1)


def test_the_state_of_an_earlier_version_is_read(
    stopped: tuple[RunDirectory, dict[str, Any]], tmp_path: Path
) -> None:
    """It has no factors that correct what smoothing leaves: they begin at 1."""
    directory, checkpoint = stopped
    found = []
    for name in ("old", "zero", "other"):
        copied = RunDirectory(shutil.copytree(directory.path, tmp_path / name / directory.name))
        content = copy.deepcopy(checkpoint)
        state = content["training"]["balancer"]["state"]
        correction = state.pop("correction")
        if name != "old":
            state["correction"] = correction * 0 if name == "zero" else correction + 1
        resumption = resumption_of(copied, content, Config.model_validate(content["config"]))
        found.append(losses_of(Pix2pixTrainer(resumption.config, resumption).train()))
    assert found[0].equals(found[1])
    assert not found[0].equals(found[2])


def test_a_damaged_state_is_refused(stopped: tuple[RunDirectory, dict[str, Any]]) -> None:
    directory, checkpoint = stopped
    checkpoint["training"]["balancer"]["state"]["last"] = torch.ones(2)
    wanted = Config.model_validate(checkpoint["config"])
    resumption = resumption_of(directory, checkpoint, wanted)
    with pytest.raises(CheckpointError, match="'last' of its balancer is"):
        Pix2pixTrainer(resumption.config, resumption).train()


def test_the_share_on_record_is_the_share_that_was_asked_for(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny(**QUICK, **RULES["scheduled"]))
    rows = gradients_of(trainer.train())
    shares = rows[rows.loss == "G_GAN"].set_index("step").share
    # 3 steps an epoch, in 3 epochs: from 0 at the end of the first to 0.5 at that of the last.
    expected = [max(0.0, (step / 3 - 1) / 2 / 2) for step in shares.index]
    assert shares.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "hinge"])
def test_the_share_is_held_in_all_modes(tiny: Make, mode: str) -> None:
    options = {**QUICK, "train__loss": {"G_GAN": EXACT.format(0.2), "G_SOBEL": EXACT.format(0.3)}}
    rows = gradients_of(Pix2pixTrainer(tiny(**options, train__gan_mode=mode)).train())
    for loss, share in (("G_GAN", 0.2), ("G_SOBEL", 0.3)):
        assert rows[rows.loss == loss].share.to_numpy() == pytest.approx(share, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "hinge"])
@pytest.mark.parametrize("share", ["share 0.2", "share 0.2 smoothing=0.5", "share 0.2 smoothing=0"])
def test_the_share_after_the_first_hundred_steps(
    tiny: Make, tmp_path: Path, mode: str, share: str
) -> None:
    """On drawn fronts, and with a norm that grows severalfold in the first two hundred steps."""
    synthesize(tmp_path / "fronts", 20, 1, size=32)
    config = tiny(
        dataloader__dataroot=str(tmp_path / "fronts"),
        dataloader__batch_size=1,
        train__gan_mode=mode,
        train__loss={"G_GAN": share},
        train__generator__learning_rate={"epochs": 20, "epochs_decay": 0},
    )
    rows = gradients_of(Pix2pixTrainer(config).train(display=None))
    shares = rows[(rows.loss == "G_GAN") & (rows.step > 100)].share
    assert len(shares) == 300
    assert shares.mean() == pytest.approx(0.2, rel=0.02)


def test_where_every_loss_has_a_share_the_pull_stays(tiny: Make) -> None:
    options = {"train__loss": {"G_GAN": EXACT.format(0.3), "G_L1": EXACT.format(0.7)}}
    trainer = Pix2pixTrainer(tiny(**options, train__generator__learning_rate=RATE))
    rows = gradients_of(trainer.train())
    assert rows[rows.loss == "G_GAN"].share.to_numpy() == pytest.approx(0.3, rel=1e-4)
    pulls = rows.groupby("step").norm.sum()
    assert pulls.to_numpy() == pytest.approx(pulls.iloc[0], rel=1e-4)


def test_a_loss_function_times_1000_changes_nothing_but_its_weight(tiny: Make) -> None:
    function = "tests.trainers.test_balancing.Thousandfold"

    def run(term: object) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        trainer = Pix2pixTrainer(
            tiny(train__loss={"G_L1": term}, train__generator__learning_rate=RATE)
        )
        rows = losses_of(trainer.train()).set_index(["step", "loss"])
        return rows, copy.deepcopy(trainer.generator.state_dict())

    share, weight = "share 0.8", 50.0
    (rows, state), (large_rows, large_state) = (
        run(term) for term in (share, {"function": function, "weight": share})
    )
    ratios = (large_rows / rows).xs("G_L1", level="loss")
    assert ratios.raw.to_numpy() == pytest.approx(1000, rel=1e-3)
    assert ratios.weight.to_numpy() == pytest.approx(1 / 1000, rel=1e-3)
    assert ratios.weighted.to_numpy() == pytest.approx(1, rel=1e-3)
    for key, value in state.items():
        torch.testing.assert_close(large_state[key], value, rtol=1e-3, atol=1e-5)

    (plain, plain_state), (other, other_state) = (
        run(term) for term in (weight, {"function": function, "weight": weight})
    )
    assert (other / plain).xs("G_L1", level="loss").weighted.iloc[0] == pytest.approx(1000)
    assert any(not torch.allclose(other_state[k], v, rtol=1e-2) for k, v in plain_state.items())


def test_sinks_have_the_weight_that_was_applied(tiny: Make) -> None:
    # Where the tests on a GPU are run, there may be no TensorBoard.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sinks = {"logging__tensorboard": {"enable": True, "every_n_steps": 1}}
    trainer = Pix2pixTrainer(tiny(**QUICK, **RULES["share"], **sinks))
    events: list[LossEvent] = []
    trainer.losses.register_hook(events.append, query="pixel")
    run = trainer.train()
    # The weight of the anchor is a number, to the last digit.
    assert {event.weight for event in events} == {100.0, 10.0}
    rows = losses_of(run)
    weights = rows[rows.loss == "G_GAN"].set_index("step").weight
    assert trainer.losses.get_loss_weights()["G_GAN"] == pytest.approx(weights.iloc[-1])
    shown = EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    points = {e.step: e.value for e in shown.Scalars("loss/G_GAN/weight")}
    assert points == pytest.approx(weights.to_dict())


def test_shares_need_no_record_of_gradients(tiny: Make) -> None:
    """The weights are the same if gradients are written seldom, or not at all."""
    runs = {}
    for gradients in ("on", "off", 5):
        config = tiny(**QUICK, **RULES["smoothed"], logging__gradients=gradients)
        runs[gradients] = Pix2pixTrainer(config).train()
    assert not (runs["off"] / "gradients.csv").exists()
    for run in runs.values():
        assert losses_of(run).equals(losses_of(runs["on"]))


def test_the_first_step_of_a_balanced_loss_is_that_of_the_objective(tiny: Make) -> None:
    """A rule that multiplies by 1 changes nothing."""
    plain, balanced = (
        Pix2pixTrainer(tiny(**QUICK, **options))
        for options in ({}, {"train__balancer": "tests.trainers.test_balancing.Ones"})
    )
    plain.train()
    balanced.train()
    assert_same(balanced, plain)


class Ones(Balancer):
    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """See `Balancer.weights`."""
        return torch.ones_like(norms)


class Three(Balancer):
    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """See `Balancer.weights`."""
        return torch.ones(3)


class Nan(Balancer):
    def weights(self, norms: Tensor, gramian: Tensor, step: Tensor) -> Tensor:
        """See `Balancer.weights`."""
        return norms * torch.nan


@pytest.mark.parametrize(
    ("balancer", "told"),
    [
        ("tests.trainers.test_balancing.Three", r"returned a tensor \(3,\); it must return a tens"),
        ("tests.trainers.test_balancing.Nan", "it returns the weight nan for G_GAN"),
        ("tests.trainers.test_balancing.Thousandfold", "is not a class derived from"),
        ("tests.trainers.test_balancing.Missing", "cannot be imported"),
        ({"name": "dwa", "arguments": {"heat": 1}}, "'dwa' refuses: .*heat"),
        ({"name": "dwa", "arguments": {"temperature": 0}}, "temperature is 0; it must be above 0"),
        ({"name": "vqgan", "arguments": {"loss": "G_LI"}}, "no loss 'G_LI' to have a share"),
        ({"name": "torchjd", "arguments": {"weighting": "X"}}, "torchjd"),
    ],
)
def test_rules_that_cannot_be_used_are_found_before_the_run(
    tiny: Make, balancer: object, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Pix2pixTrainer(tiny(train__balancer=balancer))


def test_a_share_of_a_loss_that_ignores_the_images_is_refused(tiny: Make) -> None:
    term = {"function": "tests.trainers.test_balancing.Blind", "weight": "share 0.2"}
    with pytest.raises(LossError, match="'G_X' has a share, but does not depend on the generated"):
        Pix2pixTrainer(tiny(train__loss={"G_X": term})).train()


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        return self.weight * target.mean()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("rule", ["share", "smoothed", "relobralo"])
def test_shares_in_a_cuda_graph(tiny: Make, rule: str, precision: str) -> None:
    options = {
        **QUICK,
        **RULES[rule],
        "common__device": "cuda",
        "common__precision": precision,
        "common__deterministic": False,
    }
    captured = Pix2pixTrainer(tiny(**options, train__cuda_graph="on"))
    eager = Pix2pixTrainer(tiny(**options, train__cuda_graph="off"))
    runs = [losses_of(trainer.train()) for trainer in (captured, eager)]
    assert captured.graph_obstacle is None
    assert (runs[0][["step", "loss"]] == runs[1][["step", "loss"]]).all(axis=None)
    first = [run[run.step == 1] for run in runs]
    tolerance = 1e-3 if precision == "fp32" else 0.05
    assert first[0].weight.to_numpy() == pytest.approx(first[1].weight.to_numpy(), rel=tolerance)
    assert np.isfinite(runs[0].weight).all()
    if rule == "share":
        rows = gradients_of(captured.directory)
        shares = rows[rows.loss == "G_GAN"].share.dropna()
        assert shares.to_numpy() == pytest.approx(0.2, rel=1e-3)
