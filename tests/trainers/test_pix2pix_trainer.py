from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from nectargan.losses.lm_data import LossEvent
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.checkpoint import load_generator
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.validation import validate

Make = Callable[..., Config]

SCHEDULED = {
    "G_L1": {
        "schedule": "linear",
        "start_epoch": 1,
        "end_epoch": 3,
        "initial_value": 100.0,
        "target_value": 0.0,
    }
}


def losses_of(run: RunDirectory) -> pd.DataFrame:
    return pd.read_csv(run / "losses.csv").drop(columns="time")


def test_the_record_equals_a_plain_loop(tiny: Make) -> None:
    """The whole trainer against the algorithm written down plainly, number by number."""
    trainer = Pix2pixTrainer(tiny(train__loss=SCHEDULED, train__generator__dropout=0.0))
    g, d = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    run = trainer.train()

    opt_g = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    rows = []
    step = 0
    for epoch, lr, weight in ((1, 2e-4, 100.0), (2, 1e-4, 50.0)):
        for group in opt_g.param_groups + opt_d.param_groups:
            group["lr"] = lr
        for x, y in trainer.data.train.epoch(epoch):
            step += 1
            fake = g(x)
            on_real, on_fake = d(x, y), d(x, fake.detach())
            d_real = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
            d_fake = F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
            opt_d.zero_grad()
            (0.5 * (d_real + d_fake)).backward()
            opt_d.step()
            on_fake = d(x, fake)
            g_gan = F.binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake))
            g_l1 = F.l1_loss(fake, y)
            opt_g.zero_grad()
            (g_gan + weight * g_l1).backward()
            opt_g.step()
            rows += [
                (step, epoch, "D_real", d_real.item(), 0.5),
                (step, epoch, "D_fake", d_fake.item(), 0.5),
                (step, epoch, "G_GAN", g_gan.item(), 1.0),
                (step, epoch, "G_L1", g_l1.item(), weight),
            ]
    expected = pd.DataFrame(rows, columns=["step", "epoch", "loss", "raw", "weight"])
    got = losses_of(run)
    pd.testing.assert_frame_equal(got[list(expected.columns)], expected, rtol=2e-4)
    pd.testing.assert_series_equal(
        got["weighted"], got["raw"] * got["weight"], check_names=False, rtol=1e-6
    )
    for ours, plain in ((trainer.generator, g), (trainer.discriminator, d)):
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_deterministic_runs_are_equal_to_the_bit(tiny: Make) -> None:
    runs = [Pix2pixTrainer(tiny(train__objective="extended")) for _ in range(2)]
    tables = [losses_of(trainer.train()) for trainer in runs]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    for a, b in zip(runs[0].generator.parameters(), runs[1].generator.parameters(), strict=True):
        assert torch.equal(a, b)
    other = losses_of(Pix2pixTrainer(tiny(train__objective="extended", common__seed=1)).train())
    assert not np.isclose(other["raw"], tables[0]["raw"]).all()


def test_neither_workers_nor_a_cache_change_a_run(tiny: Make) -> None:
    augment = {"both": {"h_flip_chance": 0.5}, "input": {"colorjitter_chance": 0.5}}
    tables = [
        losses_of(
            Pix2pixTrainer(
                tiny(
                    dataloader__num_workers=workers,
                    dataloader__cache=cache,
                    dataloader__augmentations=augment,
                )
            ).train()
        )
        for workers, cache in ((0, "ram"), (0, "off"), (2, "off"))
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    pd.testing.assert_frame_equal(tables[0], tables[2], check_exact=True)


def test_no_gradient_is_spent_on_a_frozen_discriminator(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny())
    seen: dict[str, list[bool]] = {}

    def look(event: LossEvent) -> None:
        trainable = [p.requires_grad for p in trainer.discriminator.parameters()]
        assert len(set(trainable)) == 1
        seen.setdefault(event.name, []).append(trainable[0])

    trainer.losses.register_hook(look)
    trainer.train()
    assert set(seen["D_real"]) == set(seen["D_fake"]) == {True}
    assert set(seen["G_GAN"]) == set(seen["G_L1"]) == {False}


def test_the_generators_update_leaves_the_discriminator_alone(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny(train__loss={"D_real": 0.0, "D_fake": 0.0}))
    before = copy.deepcopy(trainer.discriminator.state_dict())
    trainer.train()
    for name, value in trainer.discriminator.state_dict().items():
        assert torch.equal(value, before[name])


def test_learning_rates_are_constant_then_fall_to_a_target_one_epoch_after_the_last(
    tiny: Make,
) -> None:
    lr = {"epochs": 2, "epochs_decay": 3, "initial": 0.004, "target": 0.0}
    run = Pix2pixTrainer(tiny(train__generator__learning_rate=lr)).train()
    metrics = pd.read_csv(run / "metrics.csv").set_index("metric")
    expected = [0.004, 0.004, 0.003, 0.002, 0.001]
    for network in ("generator", "discriminator"):
        assert metrics.loc[f"lr/{network}", "value"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gradient_is_scaled_to_the_largest_norm_and_its_norm_is_on_record(
    tiny: Make, precision: str
) -> None:
    """One step, against a plain one whose gradients are scaled by hand."""
    options = {
        "train__generator__dropout": 0.0,
        "train__generator__optimizer__clip_norm": 0.5,
        "train__generator__learning_rate": {"epochs": 1, "epochs_decay": 0},
        "train__discriminator__optimizer__clip_norm": 1000.0,
        "train__label_smoothing": 0.2,
        "dataloader__batch_size": 6,
        "common__precision": precision,
    }
    trainer = Pix2pixTrainer(tiny(**options))
    if precision == "fp16":  # whose usual first scale is too large for the first step
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    g, d = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    run = trainer.train()
    (x, y) = next(iter(trainer.data.train.epoch(1)))
    fake = g(x)
    on_real, on_fake = d(x, y), d(x, fake.detach())
    d_real = F.binary_cross_entropy_with_logits(on_real, torch.full_like(on_real, 0.8))
    d_fake = F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
    norms = {}
    for name, network in (("discriminator", d), ("generator", g)):
        if name == "discriminator":
            (0.5 * (d_real + d_fake)).backward()
        else:
            on_fake = d(x, fake)
            g_gan = F.binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake))
            (g_gan + 100 * F.l1_loss(fake, y)).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norms[name] = torch.cat([each.flatten() for each in gradients]).norm().item()
        if name == "generator":
            for each in gradients:
                each *= 0.5 / norms[name]
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)).step()
    assert norms["generator"] > 5
    found = pd.read_csv(run / "metrics.csv").set_index("metric")["value"]
    rough = 1e-4 if precision == "fp32" else 0.02
    for name, norm in norms.items():
        assert found[f"gradient_norm/{name}"] == pytest.approx(norm, rel=rough)
    assert losses_of(run).set_index("loss").loc["D_real", "raw"] == pytest.approx(
        d_real.item(), rel=rough
    )
    if precision == "fp32":
        for ours, plain in ((trainer.generator, g), (trainer.discriminator, d)):
            for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_on_cpu(tiny: Make, precision: str) -> None:
    full = losses_of(Pix2pixTrainer(tiny()).train())
    low = losses_of(Pix2pixTrainer(tiny(common__precision=precision)).train())
    # Close, for it is the same run; not equal, for it is rounded.
    np.testing.assert_allclose(low["raw"], full["raw"], rtol=0.1)
    assert (low["raw"] != full["raw"]).any()


def test_fp16_scales_the_gradients(tiny: Make) -> None:
    assert Pix2pixTrainer(tiny(common__precision="fp16")).scaler.is_enabled()
    assert not Pix2pixTrainer(tiny(common__precision="bf16")).scaler.is_enabled()


@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "hinge"])
def test_every_adversarial_mode_and_objective_is_on_record(tiny: Make, mode: str) -> None:
    config = tiny(train__objective="extended", train__gan_mode=mode)
    table = losses_of(Pix2pixTrainer(config).train())
    counts = table["loss"].value_counts()
    assert dict(counts) == dict.fromkeys(
        ["D_real", "D_fake", "G_GAN", "G_L1", "G_L2", "G_SOBEL", "G_LAP"], 6
    )
    assert np.isfinite(table["raw"]).all()


def test_validation_is_that_of_the_saved_generator(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny())
    run = trainer.train()
    metrics = pd.read_csv(run / "metrics.csv")
    last = metrics[metrics["epoch"] == 2].set_index("metric")["value"]
    assert trainer.data.val is not None
    again = validate(load_generator(run), trainer.data.val.epoch(), torch.device("cpu"))
    for name, value in again.items():
        assert last[name] == pytest.approx(value, rel=1e-6)


def test_training_continues_in_train_mode_after_validation(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny())
    trainer.train()
    assert trainer.generator.training


def test_the_example_grids_show_the_same_pairs_each_time(tiny: Make) -> None:
    trainer = Pix2pixTrainer(
        tiny(
            save__example_save_rate=2,
            train__generator__learning_rate={
                "epochs": 3,
                "epochs_decay": 0,
            },
        )
    )
    run = trainer.train()
    names = sorted(path.name for path in (run / "examples").iterdir())
    # Before training, every second epoch, and the last one.
    assert names == [f"epoch_{e:04d}_step_{3 * e:08d}.png" for e in (0, 2, 3)]
    grids = [np.asarray(Image.open(run / "examples" / name)).astype(int) for name in names]
    generated = slice(32 + 2, 2 * 32 + 2)
    for grid in grids:
        source, target = grid[:32, :32], grid[:32, -32:]
        assert np.abs(source + target - 255).max() <= 1
    for one, next_one in pairwise(grids):
        assert np.array_equal(np.delete(one, generated, 1), np.delete(next_one, generated, 1))
        assert not np.array_equal(one[:, generated], next_one[:, generated])


def test_checkpoints_come_every_so_often_and_at_the_end(tiny: Make) -> None:
    lr = {"epochs": 5, "epochs_decay": 0}
    run = Pix2pixTrainer(tiny(save__model_save_rate=2, train__generator__learning_rate=lr)).train()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["epoch_0002.pt", "epoch_0004.pt", "epoch_0005.pt", "last.pt"]
    assert (run / "checkpoints" / "last.pt").samefile(run / "checkpoints" / "epoch_0005.pt")


def test_nothing_is_saved_that_was_not_asked_for(tiny: Make) -> None:
    run = Pix2pixTrainer(tiny(save__save_model=False, save__save_examples=False)).train()
    own = {".lock", "config.json", "status.json", "metadata.json"}
    record = {"losses.csv", "losses.json", "metrics.csv", "gradients.csv"}
    assert {path.name for path in run.path.iterdir()} == own | record


def test_a_run_in_five_lines(tiny: Make, tmp_path: Path) -> None:
    tiny().model_copy()
    ConfigManager(tiny().model_dump(mode="json")).save(tmp_path / "my.json")

    config = ConfigManager(tmp_path / "my.json").data
    trainer = Pix2pixTrainer(config)
    run = trainer.train()
    generator = load_generator(run)

    assert generator(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_all_sinks_have_the_values_of_the_csv(tiny: Make) -> None:
    """The whole record: TensorBoard and MLflow agree with the CSV at every step they have, MLflow
    in means."""
    from mlflow.tracking import MlflowClient

    trainer = Pix2pixTrainer(
        tiny(
            train__loss=SCHEDULED,
            logging__tensorboard={"enable": True, "every_n_steps": 1},
            logging__mlflow={"enable": True, "every_n_steps": 2},
        )
    )
    run = trainer.train()
    losses = pd.read_csv(run / "losses.csv")
    metrics = pd.read_csv(run / "metrics.csv")
    expected = {(f"loss/{r.loss}/raw", r.step): r.raw for r in losses.itertuples()}
    expected |= {(f"loss/{r.loss}/weighted", r.step): r.weighted for r in losses.itertuples()}
    expected |= {(f"loss/{r.loss}/weight", r.step): r.weight for r in losses.itertuples()}
    of_metrics = {(r.metric, r.step): r.value for r in metrics.itertuples()}
    of_gradients = {
        (f"gradient/{row.loss}/{measure}", row.step): getattr(row, measure)
        for row in pd.read_csv(run / "gradients.csv").itertuples()
        for measure in ("norm", "share", "cosine")
    }

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    shown = {
        (tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)
    }
    everything = expected | of_metrics | of_gradients
    assert shown.keys() == everything.keys()
    for key, value in everything.items():
        assert np.float32(shown[key]) == np.float32(value), key
    assert [e.step for e in events.Images("examples")] == [0, 3, 6]

    client = MlflowClient(f"sqlite:///{run.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (mlrun,) = client.search_runs([experiment.experiment_id])
    assert mlrun.info.status == "FINISHED"
    assert mlrun.info.run_name == "tiny_v1"
    sent = {
        (key, m.step): m.value
        for key in mlrun.data.metrics
        for m in client.get_metric_history(mlrun.info.run_id, key)
    }
    # MLflow has the mean of every two steps, which begin anew with the epoch of three.
    windows = {2: (1, 2), 3: (3,), 4: (4,), 6: (5, 6)}
    means = {
        (series, end): float(np.mean([expected[series, step] for step in steps]))
        for series in {series for series, _ in expected}
        for end, steps in windows.items()
    }
    means |= {
        (series, end): float(np.mean([of_gradients[series, step] for step in epoch]))
        for series in {series for series, _ in of_gradients}
        for end, epoch in {3: (1, 2, 3), 6: (4, 5, 6)}.items()
    }
    assert sent == pytest.approx(means | of_metrics, rel=1e-12)
    assert mlrun.data.params["generator.features"] == "4"
    assert mlrun.data.tags["torch.version"] == torch.__version__
    assert mlrun.data.tags["objective"] == "basic"
    files = {a.path for a in client.list_artifacts(mlrun.info.run_id)}
    own = {
        "config.json",
        "losses.csv",
        "metrics.csv",
        "images",
        "schedules.png",
        "losses.png",
        "gradients.png",
    }
    assert files == own | {"losses.json", "gradients.csv"}
    images = [a.path for a in client.list_artifacts(mlrun.info.run_id, "images")]
    steps = sorted(int(path.split("+")[2]) for path in images if path.endswith(".webp"))
    assert steps == [0, 3, 6]
    assert len(images) == 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles with a C++ compiler")
def test_a_compiled_run_is_the_same_run(tiny: Make) -> None:
    # Six images in batches of four: the last one is not compiled. Dropout draws otherwise.
    options = {"dataloader__batch_size": 4, "train__generator__dropout": 0.0}
    plain = losses_of(Pix2pixTrainer(tiny(**options)).train())
    compiled = losses_of(Pix2pixTrainer(tiny(train__compile="default", **options)).train())
    pd.testing.assert_frame_equal(compiled, plain, rtol=1e-4)


EVERYTHING = {"logging__loss_map_every_n_epochs": 1, "logging__histogram_every_n_epochs": 1}


def test_maps_and_histograms_change_no_number_of_the_run(tiny: Make) -> None:
    plain, watched = Pix2pixTrainer(tiny()), Pix2pixTrainer(tiny(**EVERYTHING))
    tables = [losses_of(trainer.train()) for trainer in (plain, watched)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    for a, b in zip(plain.generator.parameters(), watched.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not (plain.directory / "loss_maps").exists()
    assert not (plain.directory / "histograms").exists()


def test_tensorboard_has_what_the_run_directory_has(tiny: Make) -> None:
    trainer = Pix2pixTrainer(tiny(logging__tensorboard={"enable": True}, **EVERYTHING))
    run = trainer.train()
    everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    events = EventAccumulator(str(run / "tensorboard"), size_guidance=everything)
    events.Reload()
    for kind in ("examples", "loss_maps"):
        assert [e.step for e in events.Images(kind)] == [0, 3, 6]
    names = [
        f"histograms/{name}"
        for name in (
            "output/generator",
            "weights/generator",
            "weights/discriminator",
            "gradients/generator",
            "gradients/discriminator",
        )
    ]
    assert events.Tags()["histograms"] == names
    count = sum(p.numel() for p in trainer.discriminator.parameters())
    for name in names[2::2]:
        shown = events.Histograms(name)
        # Before training there are no gradients.
        steps = [0, 3, 6] if "/weights/" in name else [3, 6]
        assert [(e.step, e.histogram_value.num) for e in shown] == [(s, count) for s in steps]
    # The epoch has the step axis of the losses.
    assert [(e.step, e.value) for e in events.Scalars("epoch")] == [(1, 1.0), (4, 2.0)]
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert "_hparams_/session_start_info" in events.Tags()["tensors"]
