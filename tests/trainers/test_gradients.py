"""The trainer's step with gradients on record is the step of a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from nectargan.config.schema import Config
from nectargan.losses.lm_data import GradientEvent
from nectargan.losses.losses import FeatureMatchingLoss
from nectargan.trainers.devices import autocast
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.losses.test_vgg import state, weights  # noqa: F401 - fixtures

Make = Callable[..., Config]

FEATURES = {
    "train__loss": {"G_FM": 10.0},
    "train__discriminator": {"name": "multiscale", "base_channels": 4, "n_layers": 1},
}
FEATURES_TOO = {**FEATURES, "train__objective": "extended"}


def batch_of(trainer: Pix2pixTrainer) -> tuple[Tensor, Tensor]:
    source, target = next(trainer.data.train.epoch(1))
    return source, target


def weighted_losses(
    trainer: Pix2pixTrainer, fake: Tensor, source: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """The weighted losses of G, written down once more."""
    with autocast(trainer.device, trainer.precision):
        d = trainer.discriminator
        if isinstance(d, nn.Module) and hasattr(d, "features"):
            of_fake, of_real = d.features(source, fake), d.features(source, target)
            logits = [maps[-1] for maps in of_fake]
    losses = {}
    for name, loss in trainer.losses.get_registered_losses(["G"]).items():
        if name == "G_GAN":
            raw = loss.function(*[each.float() for each in logits])
        elif isinstance(loss.function, FeatureMatchingLoss):
            raw = loss.function(of_fake, of_real)
        else:
            raw = loss.function(fake, target)
        losses[name] = loss.loss_weight * raw
    return losses


def gradients(network: nn.Module) -> Tensor:
    found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    network.zero_grad()
    return found


def assert_the_step_is_plain(config: Config, relative: float) -> None:
    """Compares gradients of parameters with those of a plain loop, and the measures with those of
    one backward pass for each loss."""
    trainer = Pix2pixTrainer(config)
    source, target = batch_of(trainer)
    # A scale that does not overflow, and no dropout, which would draw anew in every pass.
    scaler = GradScaler("cpu", init_scale=2.0**8, enabled=trainer.scaler.is_enabled())
    generator = trainer.generator
    trainer.discriminator.requires_grad_(False)

    def generate() -> Tensor:
        with autocast(trainer.device, trainer.precision):
            generated: Tensor = generator(source)
        return generated.float()

    fake = generate()
    losses = weighted_losses(trainer, fake, source, target)
    scaler.scale(sum(losses.values(), torch.zeros(()))).backward()
    expected = gradients(generator)
    assert expected.isfinite().all()
    assert expected.norm() > 0

    events: list[GradientEvent] = []
    trainer.losses.register_gradient_hook(events.append)
    trainer.losses.start_step(1, 1)
    with trainer.losses.gradients_at(generate(), scaler=scaler) as fake:
        trainer._compute_generator_losses(source, fake, target)
    found = gradients(generator)
    assert (found - expected).norm() <= relative * expected.norm()

    (event,) = events
    assert set(event.losses) == set(losses)
    image = generate().detach().requires_grad_()
    vectors = {}
    for name in event.losses:
        loss = weighted_losses(trainer, image, source, target)[name]
        (gradient,) = torch.autograd.grad(scaler.scale(loss), image)
        vectors[name] = gradient.double().flatten(1).numpy() / scaler.get_scale()
    norms = [np.mean(np.linalg.norm(each, axis=1)) for each in vectors.values()]
    np.testing.assert_allclose(event.norms.numpy(), norms, rtol=1e-5)
    np.testing.assert_allclose(event.shares.numpy(), np.array(norms) / sum(norms), rtol=1e-5)
    total = sum(vectors.values())
    for cosine, own in zip(event.cosines.tolist(), vectors.values(), strict=True):
        others = total - own
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(others, axis=1)
        assert cosine == pytest.approx(np.mean((own * others).sum(axis=1) / lengths), abs=1e-4)


# The gradients of the losses are added in float32 at the image. In 16 bits the generator's own
# backward pass may round equal sums differently.
@pytest.mark.parametrize(
    ("precision", "relative"), [("fp32", 1e-6), ("bf16", 1e-3), ("fp16", 1e-3)]
)
@pytest.mark.parametrize("gan_mode", ["vanilla", "lsgan", "hinge"])
@pytest.mark.parametrize(
    "options",
    [{}, {"train__objective": "extended"}, FEATURES_TOO],
    ids=["basic", "extended", "features"],
)
def test_the_parameters_get_the_gradients_of_a_plain_loop(
    tiny: Make, options: dict[str, Any], gan_mode: str, precision: str, relative: float
) -> None:
    if options is FEATURES_TOO and precision == "bf16":
        # Two losses go back through D one by one, and bfloat16 rounds each to 8 bits.
        relative = 1e-2
    given = {"train__gan_mode": gan_mode, "common__precision": precision}
    assert_the_step_is_plain(tiny(**options, **given, train__generator__dropout=0.0), relative)


@pytest.mark.parametrize(("precision", "relative"), [("fp32", 1e-6), ("bf16", 1e-2)])
def test_so_do_they_with_the_perceptual_loss(
    tiny: Make,
    weights: Path,  # noqa: F811 - the fixture
    precision: str,
    relative: float,
) -> None:
    config = tiny(
        train__objective="extended+vgg",
        train__vgg_weights=str(weights),
        train__generator__dropout=0.0,
        common__precision=precision,
    )
    assert_the_step_is_plain(config, relative)


def test_a_run_with_gradients_on_record_is_the_run_without(tiny: Make) -> None:
    """Dropout, batch norm, D: all but the last digits of the numbers are the same."""
    options = {"train__objective": "extended", "train__generator__norm": "batch"}
    runs = [
        Pix2pixTrainer(tiny(**options, logging__gradients=wanted)).train(display=None)
        for wanted in ("on", "off", 2)
    ]
    tables = [pd.read_csv(run / "losses.csv").drop(columns="time") for run in runs]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-4)
    assert not (runs[1] / "gradients.csv").exists()
    one, other = (pd.read_csv(runs[i] / "gradients.csv") for i in (0, 2))
    assert other["step"].unique().tolist() == [1, 2, 4, 6]
    kept = one[one["step"].isin([1, 2, 4, 6])].reset_index(drop=True)
    columns = ["step", "epoch", "loss", "norm", "share", "cosine"]
    pd.testing.assert_frame_equal(other[columns], kept[columns], rtol=1e-3)


def test_the_balance_of_d_is_on_record(tiny: Make) -> None:
    """Mean outputs and accuracy of each window of steps, by hand from the logits of each step."""
    trainer = Pix2pixTrainer(
        tiny(
            train__gan_mode="lsgan",
            train__discriminator=FEATURES["train__discriminator"],
            logging__window_steps=2,
        )
    )
    seen: list[dict[str, float]] = []
    given = trainer._log_balance

    def note(on_real: list[Tensor], on_fake: list[Tensor]) -> None:
        real, fake = (torch.cat([x.flatten() for x in on]).double() for on in (on_real, on_fake))
        right = ((real > 0.5).double().mean() + (fake <= 0.5).double().mean()) / 2
        seen.append(
            {"real": real.mean().item(), "fake": fake.mean().item(), "accuracy": right.item()}
        )
        given(on_real, on_fake)

    trainer._log_balance = note  # type: ignore[method-assign]
    run = trainer.train(display=None)
    metrics = pd.read_csv(run / "metrics.csv")
    # Windows of two steps, which an epoch of three steps ends early.
    windows = {2: seen[0:2], 3: seen[2:3], 4: seen[3:4], 6: seen[4:6]}
    for name in ("real", "fake", "accuracy"):
        rows = metrics[metrics["metric"] == f"discriminator/{name}"]
        assert rows["step"].tolist() == list(windows)
        assert rows["epoch"].tolist() == [1, 1, 2, 2]
        expected = [float(np.mean([each[name] for each in w])) for w in windows.values()]
        assert rows["value"].tolist() == pytest.approx(expected, rel=1e-5)


def test_pairwise_cosines_are_on_record_once_an_epoch(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny(train__objective="extended"))
    cosines: dict[int, list[Tensor]] = {}

    def note(event: GradientEvent) -> None:
        assert event.losses == names
        cosines.setdefault(event.epoch, []).append(event.pairwise_cosines)

    names = tuple(n for n in trainer.losses.get_registered_losses() if n.startswith("G"))
    trainer.losses.register_gradient_hook(note)
    metrics = pd.read_csv(trainer.train(display=None) / "metrics.csv")
    rows = metrics[metrics["metric"].str.startswith("gradient/")]
    found = {(r.metric, r.step): r.value for r in rows.itertuples()}
    expected = {
        (f"gradient/cosine/{names[i]} vs {names[j]}", 3 * epoch): torch.stack(each)[:, i, j].mean()
        for epoch, each in cosines.items()
        for i in range(5)
        for j in range(i + 1, 5)
    }
    assert len(expected) == 20
    assert found == pytest.approx({key: value.item() for key, value in expected.items()}, abs=1e-5)
