from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from nectargan.config.schema import Config
from nectargan.record.histogram_file import load_histograms
from nectargan.trainers.histograms import (
    IMAGE_EDGES,
    PARAMETER_EDGES,
    histogram,
    training_histograms,
)
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from nectargan.trainers.validation import evaluating, generate_examples

Make = Callable[..., Config]


@pytest.mark.parametrize("edges", [IMAGE_EDGES, PARAMETER_EDGES])
def test_counts_and_moments_are_those_of_numpy(edges: np.ndarray) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).clamp(-1, 1) for shape in ((40, 50), (7,))]
    # On the edges as well, the last one included.
    tensors.append(torch.from_numpy(edges[np.abs(edges) <= 1]))
    values = torch.cat([t.flatten() for t in tensors]).numpy()
    found = histogram(tensors, edges)
    assert found is not None
    counts = np.histogram(values, bins=edges)[0]
    first, last = np.flatnonzero(counts)[[0, -1]]
    assert np.array_equal(found.counts, counts[first : last + 1])
    assert np.array_equal(found.edges, edges[first : last + 2])
    wide = values.astype(np.float64)
    expected = [wide.min(), wide.max(), wide.sum(), (wide**2).sum()]
    assert found.moments == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_only_finite_values_count_and_none_is_lost() -> None:
    found = histogram([torch.tensor([float("nan"), float("inf"), -3.0, 0.0, 5.0])], IMAGE_EDGES)
    assert found is not None
    assert found.counts[[0, 32, -1]].tolist() == [1, 1, 1]
    assert found.counts.sum() == 3
    assert found.moments.tolist() == [-3.0, 5.0, 2.0, 34.0]
    assert histogram([torch.tensor([float("nan")]), torch.empty(0)], IMAGE_EDGES) is None
    assert histogram([], IMAGE_EDGES) is None


def test_a_network_that_was_not_updated_has_no_gradients() -> None:
    network = nn.Linear(2, 3)
    found = training_histograms({"g": network}, [torch.zeros(3, 4, 4)])
    assert list(found) == ["output/generator", "weights/g"]
    assert found["weights/g"].counts.sum() == 9
    network.bias.grad = torch.tensor([0.0, 0.0, 1e-7])
    gradients = training_histograms({"g": network}, [])["gradients/g"]
    assert gradients.counts[[0, -1]].tolist() == [2, 1]
    assert gradients.edges[0] == 0.0
    assert gradients.edges[-2] <= np.float32(1e-7) < gradients.edges[-1]


def test_a_run_keeps_those_of_its_epochs(tiny: Make) -> None:
    """Weights as they are, gradients of the last update of both networks, generated examples."""
    lr = {"epochs": 3, "epochs_decay": 0}
    options = {"logging__histogram_every_n_epochs": 2, "train__generator__learning_rate": lr}
    trainer = Pix2pixTrainer(tiny(**options))
    run = trainer.train()
    names = sorted(path.name for path in (run / "histograms").iterdir())
    # Before training, every second epoch, and the last one.
    assert [name[:10] for name in names] == ["epoch_0000", "epoch_0002", "epoch_0003"]
    found = load_histograms(run / "histograms" / names[-1])
    with evaluating(trainer.generator), torch.no_grad():
        generated = generate_examples(trainer.generate, trainer.data.examples, trainer.device)
    expected = {"output/generator": (IMAGE_EDGES, generated)}
    for name in ("generator", "discriminator"):
        parameters = list(getattr(trainer, name).parameters())
        assert all(p.grad is not None for p in parameters)
        expected[f"weights/{name}"] = (PARAMETER_EDGES, parameters)
        expected[f"gradients/{name}"] = (PARAMETER_EDGES, [p.grad for p in parameters])
    assert found.keys() == expected.keys()
    for name, (edges, tensors) in expected.items():
        values = torch.cat([t.detach().flatten() for t in tensors]).numpy()
        counts = np.histogram(values, bins=edges)[0]
        assert np.array_equal(found[name].counts, np.trim_zeros(counts)), name
        assert found[name].counts.sum() == values.size
    # D learns from its own loss alone; frozen for G's update, it keeps these gradients.
    assert found["gradients/discriminator"].moments[3] > 0
