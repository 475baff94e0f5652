"""A captured step is the eager step: same updates, same losses, same events in the same order."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from nectargan.config.schema import Config
from nectargan.distributed import World
from nectargan.distributed.processes import Processes
from nectargan.errors import ConfigError, RunError
from nectargan.losses.lm_data import GradientEvent, LossEvent
from nectargan.losses.loss_manager import LossManager
from nectargan.runs.open import open_run
from nectargan.scheduling.data import Schedule
from nectargan.trainers import captured_step
from nectargan.trainers.captured_step import CapturedStep, graph_obstacle
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.graph_stand_in import CpuGraphs

Make = Callable[..., Config]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

RAMP = {
    "schedule": "linear",
    "start_epoch": 1,
    "end_epoch": 5,
    "initial_value": 100.0,
    "target_value": 20.0,
}
SCHEDULED = {"train__loss": {"G_L1": RAMP, "G_GAN": {**RAMP, "interval": "step"}}}


@pytest.fixture
def graphs() -> CpuGraphs:
    """What captures a step on the CPU."""
    return CpuGraphs()


def eager(config: Config) -> Pix2pixTrainer:
    """A trainer that could capture its step, and does not."""
    trainer = Pix2pixTrainer(config, graphs=CpuGraphs())
    trainer.graph_obstacle = "for comparison"
    return trainer


def train(trainer: Pix2pixTrainer) -> list[tuple[object, ...]]:
    """What a run tells its hooks."""
    seen: list[tuple[object, ...]] = []
    kept: list[tuple[Tensor, Tensor]] = []

    def note(event: LossEvent) -> None:
        seen.append((event.step, event.epoch, event.name, event.tags, event.weight))
        kept.append((event.raw, event.weighted))

    trainer.losses.register_hook(note)
    trainer.train()
    # Read at the very end: what a hook keeps must not change with the next replay.
    pairs = [(raw.item(), weighted.item()) for raw, weighted in kept]
    return [(*what, *values) for what, values in zip(seen, pairs, strict=True)]


def assert_equal(one: Pix2pixTrainer, other: Pix2pixTrainer) -> None:
    for name in ("generator", "discriminator"):
        states = [getattr(trainer, name).state_dict() for trainer in (one, other)]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            assert torch.equal(value, states[1][key]), key
        adams = [trainer.optimizers[name].state_dict()["state"] for trainer in (one, other)]
        for index, state in adams[0].items():
            for key, value in state.items():
                assert torch.equal(value, adams[1][index][key]), (index, key)


@pytest.mark.parametrize("objective", ["basic", "extended"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_captured_and_eager_runs_are_equal(
    tiny: Make, graphs: CpuGraphs, objective: str, norm: str
) -> None:
    """Five epochs of weights and learning rates that move, dropout, and a smaller last batch."""
    options = {
        **SCHEDULED,
        "train__objective": objective,
        "train__generator__norm": norm,
        "train__discriminator__norm": norm,
        "train__generator__learning_rate": {"epochs": 2, "epochs_decay": 3, "initial": 0.002},
        "dataloader__batch_size": 4,
    }
    plain, captured = eager(tiny(**options)), Pix2pixTrainer(tiny(**options), graphs=graphs)
    expected = train(plain)
    assert train(captured) == expected
    assert graphs.captures == 1
    assert len({weight for _, _, name, _, weight, *_ in expected if name == "G_L1"}) == 5
    assert len({weight for _, _, name, _, weight, *_ in expected if name == "G_GAN"}) == 9
    assert_equal(captured, plain)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipped_gradients_are_those_of_the_eager_step(
    tiny: Make, graphs: CpuGraphs, precision: str
) -> None:
    options = {
        "common__precision": precision,
        "train__generator__optimizer__clip_norm": 0.5,
        "train__discriminator__optimizer__clip_norm": 0.01,
        "dataloader__batch_size": 4,
    }
    plain, captured = eager(tiny(**options)), Pix2pixTrainer(tiny(**options), graphs=graphs)
    runs = [trainer.train() for trainer in (plain, captured)]
    assert graphs.captures == 1
    assert_equal(captured, plain)
    norms = [
        pd.read_csv(run.metrics).query("metric.str.startswith('gradient_norm/')") for run in runs
    ]
    assert set(norms[0]["metric"]) == {"gradient_norm/generator", "gradient_norm/discriminator"}
    pd.testing.assert_frame_equal(
        norms[0].drop(columns="time"), norms[1].drop(columns="time"), check_exact=True
    )


@pytest.mark.parametrize(
    ("generator", "discriminator"),
    [
        ({"name": "resnet", "features": 2, "n_blocks": 1}, "patchgan"),
        (
            {
                "function": "nectargan.models.resnet.ResnetGenerator",
                "arguments": {"features": 2, "n_blocks": 1},
            },
            "multiscale",
        ),
    ],
    ids=["built in", "own"],
)
def test_feature_matching_and_spectral_norm_are_captured(
    tiny: Make, graphs: CpuGraphs, generator: dict[str, object], discriminator: str
) -> None:
    """Each pass refines the estimate of the norm in place, in replays as well."""
    options = {
        "train__loss": {"G_FM": {**RAMP, "interval": "step"}},
        "train__discriminator": {
            "name": discriminator,
            "base_channels": 2,
            "n_layers": 1,
            "spectral_norm": True,
        },
        "train__generator": generator,
        "train__generator__learning_rate": {"epochs": 1, "epochs_decay": 1, "initial": 0.002},
    }
    plain, captured = eager(tiny(**options)), Pix2pixTrainer(tiny(**options), graphs=graphs)
    expected = train(plain)
    assert train(captured) == expected
    assert graphs.captures == 1
    # All of the first epoch has the initial weight; then each of three steps has its own.
    assert len({weight for _, _, name, _, weight, *_ in expected if name == "G_FM"}) == 4
    assert_equal(captured, plain)


def test_fp16_is_captured_with_its_scale(tiny: Make, graphs: CpuGraphs) -> None:
    """It overflows at first: steps are skipped and the scale is halved, in replays as well."""
    plain = eager(tiny(common__precision="fp16", **SCHEDULED))
    captured = Pix2pixTrainer(tiny(common__precision="fp16", **SCHEDULED), graphs=graphs)
    assert train(captured) == train(plain)
    assert graphs.captures == 1
    assert captured.scaler.state_dict() == plain.scaler.state_dict()
    assert captured.scaler.get_scale() < 2**16
    steps = {state["step"].item() for state in plain.optimizers["generator"].state.values()}
    assert len(steps) == 1
    assert 0 < steps.pop() < captured.step, "some steps were skipped, and not all"
    assert_equal(captured, plain)


def test_a_run_that_gives_up_says_so_in_its_tags(tiny: Make, graphs: CpuGraphs) -> None:
    trainer = Pix2pixTrainer(tiny(), graphs=graphs)
    trainer.losses.get_registered_losses()["G_L1"].function = waits
    directory = trainer.train()
    tags = json.loads((directory / "metadata.json").read_text())["tags"]
    assert tags["cuda_graph"] == "off"
    assert "_local_scalar_dense" in str(trainer.graph_obstacle)
    other = Pix2pixTrainer(tiny(), graphs=graphs).train()
    assert json.loads((other / "metadata.json").read_text())["tags"]["cuda_graph"] == "on"


def test_parameters_have_the_gradients_of_the_last_update(tiny: Make, graphs: CpuGraphs) -> None:
    """Whether that was captured, as all steps but the third, or eager."""
    options = {**SCHEDULED, "dataloader__batch_size": 4}
    trainers = [eager(tiny(**options)), Pix2pixTrainer(tiny(**options), graphs=graphs)]
    steps = [trainer.make_step() for trainer in trainers]
    whole, rest = trainers[0].data.train.epoch(1)
    for number, batch in enumerate([whole, whole, rest, whole, whole], start=1):
        gradients = []
        for trainer, step in zip(trainers, steps, strict=True):
            torch.manual_seed(number)
            trainer.losses.start_step(1, number)
            step(*batch)
            gradients.append([p.grad for n in trainer.networks.values() for p in n.parameters()])
        for ours, theirs in zip(*gradients, strict=True):
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours, theirs), number
    assert graphs.captures == 1


def test_the_whole_step_is_captured(tiny: Make, graphs: CpuGraphs) -> None:
    Pix2pixTrainer(tiny(), graphs=graphs).train()
    assert graphs.names.count("_fused_adam_") == 2
    assert "convolution_backward" in graphs.names
    assert graphs.names[-1] == "cat", "the gather of losses, metrics and gradients"


class Small:
    """One linear layer, trained by every loss of its manager."""

    def __init__(self, required: bool = False, **losses: Callable[..., Tensor]) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(3, 3)
        self.optimizer = torch.optim.Adam(self.network.parameters(), fused=True)
        self.losses = LossManager()
        for name, function in (losses or {"L1": nn.L1Loss()}).items():
            self.losses.register_loss_fn(name, function)
        self.graphs = CpuGraphs()
        self.reasons: list[str] = []
        self.events: list[LossEvent] = []
        self.handle = self.losses.register_hook(self.events.append)
        self.step = CapturedStep(
            self.eager,
            self.losses,
            [self.network],
            [self.optimizer],
            torch.amp.GradScaler("cpu", enabled=False),
            batch_size=2,
            backend=self.graphs,
            required=required,
            on_give_up=self.reasons.append,
        )
        self.count = 0

    def eager(self, source: Tensor, target: Tensor) -> None:
        generated = self.network(source)
        names = self.losses.get_registered_losses()
        loss = torch.stack([self.losses.compute_loss(n, generated, target) for n in names]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def __call__(self, size: int = 2) -> list[str]:
        """Makes a step; returns the losses that its hooks were told."""
        self.count += 1
        self.losses.start_step(1, self.count)
        self.events.clear()
        generator = torch.Generator().manual_seed(self.count)
        source, target = torch.rand(2, size, 3, generator=generator).unbind()
        self.step(source, target)
        return [event.name for event in self.events]


def test_batches_of_another_size_are_not_captured() -> None:
    small = Small()
    assert [small(2), small(1), small(2), small(1)] == [["L1"]] * 4
    assert small.graphs.captures == 1
    plain = Small()
    plain.step = plain.eager
    for size in (2, 1, 2, 1):
        plain(size)
    assert torch.equal(small.network.weight, plain.network.weight)


def test_a_loss_registered_after_the_capture_is_captured_too() -> None:
    small = Small()
    assert small() == ["L1"]
    small.losses.register_loss_fn("L2", nn.MSELoss())
    assert small() == ["L1", "L2"]
    assert small() == ["L1", "L2"]
    assert small.graphs.captures == 2


def test_a_function_replaced_after_the_capture_is_captured_again() -> None:
    small = Small()
    small()
    small.losses.get_registered_losses()["L1"].function = lambda x, y: x.sum() * 0 + 7.0
    small()
    assert small.events[0].raw == 7.0
    assert small.graphs.captures == 2


def test_hooks_come_and_go_without_a_new_capture() -> None:
    small = Small()
    small()
    late: list[LossEvent] = []
    handle = small.losses.register_hook(late.append)
    small.handle.remove()
    small()
    assert [event.step for event in late] == [2]
    assert small.events == []
    handle.remove()
    small()
    assert len(late) == 1
    assert small.graphs.captures == 1


def test_a_weight_changed_by_hand_is_in_force_in_the_next_step() -> None:
    small = Small()
    small()
    small.losses.get_registered_losses()["L1"].schedule.current_value = 3.0
    small()
    (event,) = small.events
    assert event.weight == 3.0
    assert event.weighted == event.raw * 3


def test_what_the_manager_remembers_is_of_the_last_step() -> None:
    small = Small(map=lambda x, y: (x - y).abs().mean(dim=1))
    small.eager = lambda source, target: small.losses.compute_loss("map", source, target)
    small.step._step = small.eager
    for _ in range(2):
        small()
        generator = torch.Generator().manual_seed(small.count)
        source, target = torch.rand(2, 2, 3, generator=generator).unbind()
        expected = (source - target).abs().mean(dim=1)
        assert torch.equal(small.losses.get_loss_tensors()["map"], expected)
        assert small.losses.get_loss_values()["map"] == small.events[0].raw == expected.mean()


def test_losses_that_share_a_schedule_have_the_weight_of_their_own_keywords_on_record() -> None:
    def scaled(schedule: Schedule, epoch: float, factor: float = 1.0) -> float:
        return schedule.initial_value * factor * epoch

    def with_losses() -> Small:
        small = Small()
        shared = Schedule(scaled, initial_value=0.5)
        for name in ("a", "b"):
            small.losses.register_loss_fn(name, nn.L1Loss(), schedule=shared)

        def step(source: Tensor, target: Tensor) -> None:
            generated, compute = small.network(source), small.losses.compute_loss
            loss = compute("a", generated, target, loss_kwargs={"weight_kwargs": {"factor": 2.0}})
            loss = loss + compute(
                "b", generated, target, loss_kwargs={"weight_kwargs": {"factor": 3.0}}
            )
            # Once more in the same step, under a weight of its own.
            loss = loss + compute(
                "a", generated, target, loss_kwargs={"weight_kwargs": {"factor": 5.0}}
            )
            small.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            small.optimizer.step()

        small.step._step = step
        return small

    captured, plain = with_losses(), with_losses()
    plain.step = plain.step._step
    for number in (1, 2, 3):
        for each in (captured, plain):
            assert each() == ["a", "b", "a"]
            expected = [factor * 0.5 for factor in (2.0, 3.0, 5.0)]
            assert [event.weight for event in each.events] == expected
            for event in each.events:
                assert event.weighted == event.raw * event.weight
            assert each.losses.get_loss_weights() == {"L1": 1.0, "a": 2.5, "b": 1.5}
        ours, theirs = ([event.raw for event in each.events] for each in (captured, plain))
        assert ours == theirs, number
    assert captured.graphs.captures == 1
    assert torch.equal(captured.network.weight, plain.network.weight)


def waits(x: Tensor, y: Tensor) -> Tensor:
    loss = (x - y).abs().mean()
    return loss if loss.item() > -1 else -loss


def test_a_loss_that_waits_for_the_device_makes_the_step_eager_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small, plain = Small(L1=waits), Small(L1=waits)
    plain.step = plain.eager
    with caplog.at_level(logging.WARNING, "nectargan"):
        for each in (small, plain):
            assert [each() for _ in range(3)] == [["L1"]] * 3
    (record,) = caplog.records
    assert "cannot be captured and is run eagerly" in record.message
    assert "_local_scalar_dense" in record.message
    (reason,) = small.reasons
    assert reason in record.message
    assert torch.equal(small.network.weight, plain.network.weight)


def test_a_step_that_does_not_compute_every_loss_each_time_is_run_eagerly() -> None:
    small, plain = Small(), Small()
    for each in (small, plain):
        each.losses.register_loss_fn("rare", nn.MSELoss())
        calls = iter(range(100))

        def eager(
            source: Tensor, target: Tensor, each: Small = each, calls: object = calls
        ) -> None:
            generated = each.network(source)
            loss = each.losses.compute_loss("L1", generated, target)
            if next(calls) % 2:  # type: ignore[call-overload]
                loss = loss + each.losses.compute_loss("rare", generated, target)
            each.optimizer.zero_grad()
            loss.backward()
            each.optimizer.step()

        each.step._step = eager
    small()
    assert "'rare' is not computed in every step" in small.reasons[0]
    assert small.graphs.captures == 0


def test_a_first_replay_with_other_results_is_undone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A copy from memory of the host that is gone can be captured, and is replayed as garbage."""
    host: list[Tensor] = []

    def reads_the_host(x: Tensor, y: Tensor) -> Tensor:
        host.append(torch.from_numpy(np.ones((), np.float32)))
        return (x - y).abs().mean() * host[-1]

    small, plain = Small(L1=reads_the_host), Small(L1=reads_the_host)
    plain.step = plain.eager
    capture = small.graphs.capture

    def and_then_the_memory_is_gone(work: Callable[[], object]) -> Callable[[], object]:
        replay = capture(work)
        host[-1].numpy()[...] = 1e6
        return replay

    small.graphs.capture = and_then_the_memory_is_gone
    for each in (small, plain):
        each()
        each()
    assert small.reasons == [
        "a replay computes another L1 than the step itself, which may read memory of the host that "
        "is gone by then"
    ]
    assert torch.equal(small.network.weight, plain.network.weight)
    for state, expected in zip(
        small.optimizer.state.values(), plain.optimizer.state.values(), strict=True
    ):
        for key, value in state.items():
            assert torch.equal(value, expected[key])


def test_a_capture_that_is_required_fails_in_one_sentence() -> None:
    small = Small(required=True, L1=waits)
    with pytest.raises(RunError, match="cuda_graph is 'on', but the step cannot be captured"):
        small()


def test_auto_captures_where_it_can() -> None:
    assert graph_obstacle("auto", CUDA, "bf16") is None
    assert graph_obstacle("auto", CUDA, "fp32") is None
    assert graph_obstacle("auto", CUDA, "fp16") is None
    assert graph_obstacle("on", CUDA, "fp32") is None


@pytest.mark.parametrize(
    ("device", "precision", "reason"),
    [
        (CPU, "fp32", "the device is cpu, not CUDA"),
        (torch.device("mps"), "fp32", "the device is mps, not CUDA"),
    ],
)
def test_where_it_cannot_it_says_why(device: torch.device, precision: str, reason: str) -> None:
    assert reason in str(graph_obstacle("auto", device, precision))
    assert graph_obstacle("off", device, precision) == "train.cuda_graph is 'off'"
    with pytest.raises(ConfigError, match=f"cuda_graph is 'on', but {reason}"):
        graph_obstacle("on", device, precision)


def test_several_processes_capture_only_where_that_is_proved_or_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    world = World()
    world.size = 2
    assert "not proved on several GPUs yet" in str(graph_obstacle("auto", CUDA, "bf16", world))
    assert graph_obstacle("on", CUDA, "bf16", world) is None
    monkeypatch.setattr(captured_step, "PROVED_WITH_SEVERAL", frozenset({"a GPU"}))
    assert graph_obstacle("auto", CUDA, "bf16", world) is None
    world.can_capture = False
    with pytest.raises(ConfigError, match="'on', but several processes train on one GPU"):
        graph_obstacle("on", CUDA, "bf16", world)


def test_the_run_says_which_step_it_takes_and_why(tiny: Make) -> None:
    line = Pix2pixTrainer(tiny()).describe()
    assert "eager step (the device is cpu, not CUDA), images in RAM" in line
    with pytest.raises(ConfigError, match="'on', but the device is cpu"):
        Pix2pixTrainer(tiny(train__cuda_graph="on"))


# An eager step takes a rate in float64, a captured one in float32: these are exact in both.
EXACT_RATE = {"epochs": 1, "epochs_decay": 31, "initial": 2**-11}


def test_the_rates_of_the_comparison_on_a_gpu_are_exact(tiny: Make) -> None:
    rates = tiny(train__generator__learning_rate=EXACT_RATE).train.generator.learning_rate.build()
    values = [rates.value_at(epoch) for epoch in range(1, 33)]
    assert len(set(values)) == 32
    assert all(np.float32(value) == value for value in values)


# --- gradients and metrics -----------------------------------------------------------------------

FEATURES = {
    "train__loss": {"G_FM": 10.0},
    "train__discriminator": {"name": "multiscale", "base_channels": 2, "n_layers": 1},
}


def record(trainer: Pix2pixTrainer) -> dict[str, pd.DataFrame]:
    """The ledgers of gradients and metrics of a run, without times."""
    run = trainer.train(display=None)
    tables = {name: pd.read_csv(run / f"{name}.csv") for name in ("gradients", "metrics")}
    metrics = tables["metrics"]
    tables["metrics"] = metrics[~metrics["metric"].str.startswith("time/")].reset_index(drop=True)
    return {name: table.drop(columns="time") for name, table in tables.items()}


@pytest.mark.parametrize(
    "options",
    [
        {**SCHEDULED, "dataloader__batch_size": 4, "logging__window_steps": 2},
        {**FEATURES, "train__objective": "extended"},
        {**SCHEDULED, "common__precision": "fp16"},
        {"logging__gradients": 2},
        {"logging__gradients": "off"},
    ],
    ids=["smaller last batch", "features", "fp16", "every second", "off"],
)
def test_gradients_and_metrics_of_a_captured_run_are_those_of_the_eager_one(
    tiny: Make, graphs: CpuGraphs, options: dict[str, Any]
) -> None:
    config = tiny(**options)
    trainers = [eager(config), Pix2pixTrainer(config, graphs=graphs)]
    if options.get("logging__gradients") == "off":
        for trainer in trainers:
            run = trainer.train(display=None)
            assert not (run / "gradients.csv").exists()
        assert graphs.names.count("bmm") == 0
        assert_equal(*trainers)
        return
    expected, found = map(record, trainers)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)
    assert graphs.captures == 1
    gradients = found["gradients"]
    steps = (
        [1, 2, 4, 6] if options.get("logging__gradients") == 2 else range(1, trainers[0].step + 1)
    )
    assert gradients["step"].unique().tolist() == list(steps)
    names = [name for name in trainers[0].losses.get_registered_losses() if name[0] == "G"]
    assert gradients["loss"].tolist() == names * len(steps)
    shares = gradients.groupby("step")["share"].sum(min_count=len(names))
    # At a step that overflows in fp16 the gradient of a loss is infinite, and so is the sum.
    assert shares.notna().all() == (config.common.precision != "fp16")
    assert shares.notna().sum() > 2
    assert shares.dropna().to_numpy() == pytest.approx(1.0)
    assert {"discriminator/real", "discriminator/fake", "discriminator/accuracy"} < set(
        found["metrics"]["metric"]
    )


def test_a_gradient_hook_is_called_after_the_replay_and_may_come_later(
    tiny: Make, graphs: CpuGraphs
) -> None:
    trainer = Pix2pixTrainer(tiny(), graphs=graphs)
    step, losses = trainer.make_step(), trainer.losses
    source, target = next(trainer.data.train.epoch(1))
    events: list[GradientEvent] = []
    for number in range(1, 7):
        losses.start_step(1, number)
        if number == 3:
            handle = losses.register_gradient_hook(events.append, every_n_steps=2)
        if number == 6:
            handle.remove()
        step(source, target)
    assert graphs.captures == 3
    assert [event.step for event in events] == [4]
    # What a hook keeps does not change with the next replay.
    assert events[0].losses == ("G_GAN", "G_L1")
    kept = events[0].products.clone()
    step(source, target)
    assert torch.equal(events[0].products, kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gradients_of_a_graph_are_those_of_the_eager_step_on_a_gpu(
    tiny: Make, precision: str
) -> None:
    """12 steps; 16 bits and the fastest algorithms may add in any order."""
    options = {
        **FEATURES,
        "train__objective": "extended",
        "common__device": "cuda",
        "common__precision": precision,
        "common__deterministic": precision == "fp32",
        "train__generator__learning_rate": {**EXACT_RATE, "epochs_decay": 3},
    }
    eager_run, captured = (
        record(Pix2pixTrainer(tiny(train__cuda_graph=graph, **options))) for graph in ("off", "on")
    )
    exact = precision == "fp32"
    one, other = eager_run["gradients"], captured["gradients"]
    assert one[["step", "loss"]].equals(other[["step", "loss"]])
    assert len(one) == 12 * 6
    for column in ("norm", "share", "cosine"):
        tolerance = {"rtol": 1e-4, "atol": 1e-6} if exact else {"rtol": 0.1, "atol": 0.02}
        np.testing.assert_allclose(
            other[column], one[column], equal_nan=True, err_msg=column, **tolerance
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graph_and_eager_are_equal_on_a_gpu(tiny: Make) -> None:
    """64 steps of weights and learning rates that change every epoch, to 1e-5 relative."""
    options = {
        **SCHEDULED,
        "common__device": "cuda",
        "common__precision": "fp32",
        "dataloader__batch_size": 3,
        "train__generator__learning_rate": EXACT_RATE,
    }
    plain = Pix2pixTrainer(tiny(train__cuda_graph="off", **options))
    captured = Pix2pixTrainer(tiny(train__cuda_graph="on", **options))
    expected, found = train(plain), train(captured)
    assert len(expected) == 64 * 4
    assert [row[:5] for row in found] == [row[:5] for row in expected]
    torch.testing.assert_close(
        torch.tensor([row[5:] for row in found]),
        torch.tensor([row[5:] for row in expected]),
        rtol=1e-5,
        atol=1e-7,
    )
    for name in ("generator", "discriminator"):
        one, other = getattr(captured, name), getattr(plain, name)
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_default_path_on_a_gpu(tiny: Make, precision: str) -> None:
    """16 bits and whatever algorithms are fastest, which may add in any order: to 5 %."""
    options = {
        **SCHEDULED,
        "common__device": "cuda",
        "common__precision": precision,
        "common__deterministic": False,
        "train__generator__learning_rate": {**EXACT_RATE, "epochs_decay": 3},
    }
    plain = Pix2pixTrainer(tiny(train__cuda_graph="off", **options))
    captured = Pix2pixTrainer(tiny(train__cuda_graph="on", **options))
    expected, found = train(plain), train(captured)
    assert torch.backends.cudnn.benchmark
    assert len(expected) == 12 * 4
    assert [row[:5] for row in found] == [row[:5] for row in expected]
    torch.testing.assert_close(
        torch.tensor([row[5:] for row in found]),
        torch.tensor([row[5:] for row in expected]),
        rtol=0.05,
        atol=0.01,
    )
    assert captured.scaler.state_dict() == plain.scaler.state_dict()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("graph", ["on", "off"])
@pytest.mark.parametrize("cache", ["device", "ram"])
def test_100_recorded_steps_on_a_gpu_wait_for_nothing(tiny: Make, graph: str, cache: str) -> None:
    trainer = Pix2pixTrainer(
        tiny(
            common__device="cuda",
            common__deterministic=False,
            dataloader__cache=cache,
            train__cuda_graph=graph,
        )
    )
    step = trainer.make_step()
    with open_run(trainer.config, trainer.losses, {}, datasets=[]):
        number = 0
        for epoch in range(1, 36):
            if epoch == 2:
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            try:
                for source, target in trainer.data.train.epoch(epoch):
                    number += 1
                    trainer.losses.start_step(1, number)
                    step(source, target)
            except BaseException:
                torch.cuda.set_sync_debug_mode("default")
                raise
        torch.cuda.set_sync_debug_mode("default")
    assert number == 105


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_sum_over_processes_is_captured_on_a_gpu(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, connected by NCCL as several ones."""
    options = {
        "common__device": "cuda",
        "common__precision": "fp32",
        "common__deterministic": True,
        "dataloader__batch_size": 3,
        "train__objective": "extended",
        "train__loss": {"G_GAN": {"share": 0.3}},
    }
    expected = train(Pix2pixTrainer(tiny(train__cuda_graph="off", **options)))
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    world = Processes(timedelta(minutes=1))
    try:
        captured = Pix2pixTrainer(tiny(train__cuda_graph="on", **options), world=world)
        found = train(captured)
    finally:
        world.close()
    assert captured.graph_obstacle is None
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[:4] == theirs[:4]
        assert ours[5:] == pytest.approx(theirs[5:], rel=1e-3, abs=1e-5)
