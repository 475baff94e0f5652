"""What a run logged to MLflow is loaded from there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from nectargan import load_model
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, RunError
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.inference.test_apply import apply
from tests.processes import PATIENCE


@pytest.mark.slow
def test_a_run_and_a_registered_model(
    tiny: Callable[..., Config],
    tmp_path: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "mlflow.db"
    shutil.copy(empty_store, store)
    uri = f"sqlite:///{store}"
    config = tiny(
        logging__mlflow={
            **{"enable": True, "tracking_uri": uri, "register_model": "negatives"},
            "system_metrics": False,
        },
        logging__drain_seconds=PATIENCE,
    )
    run = Pix2pixTrainer(config).train(display=None)
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (experiment,) = MlflowClient(uri).search_experiments(filter_string="name = 'tiny'")
    (mlrun,) = MlflowClient(uri).search_runs([experiment.experiment_id])
    (logged,) = MlflowClient(uri).search_logged_models([experiment.experiment_id])
    images = torch.rand(2, 3, 30, 41) * 2 - 1
    expected = load_model(run).generate(images)
    for source, name in (
        (f"mlflow:{mlrun.info.run_id}", "tiny_v1"),
        ("models:/negatives/1", "negatives/1"),
        (f"models:/{logged.model_id}", logged.model_id),
    ):
        model = load_model(source)
        assert (model.name, model.run, model.epoch) == (name, None, None)
        assert model.config.train == config.train
        assert torch.allclose(model.generate(images), expected, atol=1e-5)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    made = {}
    for source in (run, "models:/negatives/1"):
        result = apply(source, tmp_path / "a.png", "-o", tmp_path / "b.png", "--overwrite")
        assert result.exit_code == 0, result.output
        made[str(source)] = np.asarray(Image.open(tmp_path / "b.png")).astype(int)
    first, second = made.values()
    assert np.abs(first - second).max() <= 1
    for source, told in (
        ("mlflow:none", "it has no run 'none'"),
        ("models:/negatives/7", "cannot be found in MLflow"),
        ("models:/other", "cannot be found in MLflow"),
    ):
        with pytest.raises(RunError, match=told):
            load_model(source)
    with pytest.raises(ConfigError, match="is an exported model"):
        load_model("models:/negatives/1", dropout=True)
    assert mlflow.get_tracking_uri() in (before, uri)
