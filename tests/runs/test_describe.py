"""What MLflow knows of a run besides its points, seen through MLflow's own client."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from nectargan.config.schema import Config
from nectargan.dataset.data_check import check_data
from nectargan.errors import ConfigError
from nectargan.record import tracker
from nectargan.runs.checkpoint import load_checkpoint, load_generator
from nectargan.runs.describe import describe_datasets
from nectargan.runs.sinks import synchronize
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import draw_pairs
from tests.processes import PATIENCE

Make = Callable[..., Config]


@pytest.fixture
def default_store() -> Iterator[Callable[[str], None]]:
    """Sets MLflow's default store, as a user does, for the time of the test."""
    before: Any = mlflow.get_tracking_uri()
    yield mlflow.set_tracking_uri
    mlflow.set_tracking_uri(before)


def run_data_name(run: Path) -> str:
    config = json.loads((run / "config.json").read_text())
    return Path(config["dataloader"]["dataroot"]).name


def told_experiment(uri: str) -> str:
    return str(MlflowClient(uri).get_experiment_by_name("tiny").experiment_id)


def test_the_best_generator_is_a_model_from_images_to_images(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, default_store: Callable[[str], None]
) -> None:
    values = iter([0.2, 0.9, 0.4])
    monkeypatch.setattr(
        "nectargan.trainers.pix2pix_trainer.validate", lambda *_: {"val/ssim": next(values)}
    )
    config = tiny(
        train__generator__learning_rate={"epochs": 3, "epochs_decay": 0},
        logging__mlflow={"enable": True, "register_model": "negatives"},
        logging__drain_seconds=PATIENCE,
    )
    before = mlflow.get_tracking_uri()
    run = Pix2pixTrainer(config).train()
    assert mlflow.get_tracking_uri() == before
    uri = f"sqlite:///{run.parent / 'mlflow.db'}"
    (mlrun,) = MlflowClient(uri).search_runs([told_experiment(uri)])
    assert mlrun.data.tags["model_step"] == "6"
    assert {tag for tag in mlrun.data.tags if "nectargan." in tag} == {"nectargan.version"}
    # Once more, and once as earlier versions left it: nothing is logged or registered twice.
    for earlier_name in (None, "nectargan.model_step"):
        if earlier_name is not None:
            MlflowClient(uri).delete_tag(mlrun.info.run_id, "model_step")
            MlflowClient(uri).set_tag(mlrun.info.run_id, earlier_name, "6")
        MlflowClient(uri).set_terminated(mlrun.info.run_id, "KILLED")
        assert synchronize(run)["MLflow"]

    default_store(uri)
    (told,) = MlflowClient(uri).search_model_versions("name = 'negatives'")
    assert told.version == "1" or told.version == 1
    # What makes MLflow's page of the model link to that version.
    (model,) = MlflowClient(uri).search_logged_models([told_experiment(uri)])
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "negatives", "version": "1"}]
    assert model.name == "tiny_v1"
    assert model.params == {"step": "6", "checkpoint": "best.pt"}
    shown = {(m.key, m.value, m.step, m.dataset_name) for m in model.metrics}
    assert shown == {("val/ssim", 0.9, 6, run_data_name(run))}
    # The code block of the description works as it stands, also that of the version.
    assert told.description == model.tags["mlflow.note.content"]
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", told.description, re.DOTALL)
    exec(compile(code, "description", "exec"), names)  # noqa: S102 - what we wrote ourselves
    assert names["generated"].shape == (1, 3, 32, 32)
    frame = mlflow.search_runs(experiment_names=["tiny"])
    assert isinstance(frame, pd.DataFrame)
    assert frame["metrics.best/ssim"].tolist() == [0.9]
    assert frame["metrics.best/ssim_epoch"].tolist() == [2.0]
    assert frame["tags.objective"].tolist() == ["basic"]

    assert load_checkpoint(run / "checkpoints" / "best.pt")["epoch"] == 2
    generator = load_generator(run / "checkpoints" / "best.pt")
    images = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        expected = generator(images * 2 - 1) / 2 + 0.5
    for source in ("models:/negatives/1", f"runs:/{frame['run_id'][0]}/tiny_v1"):
        model = mlflow.pytorch.load_model(source)
        with torch.no_grad():
            generated = model(images)
        assert torch.allclose(generated, expected, atol=1e-5)
        assert 0 <= generated.min() <= generated.max() <= 1
        # Any size that the network takes, down to the smallest.
        for height, width in ((8, 8), (24, 8), (16, 40)):
            other = torch.rand(1, 3, height, width)
            with torch.no_grad():
                wanted = generator(other * 2 - 1) / 2 + 0.5
                assert torch.allclose(model(other), wanted, atol=1e-5)
    served = mlflow.pyfunc.load_model("models:/negatives/1")
    (spec,) = served.metadata.signature.inputs
    assert (spec.shape, spec.type) == ((-1, 3, -1, -1), np.dtype("float32"))
    example = served.input_example
    assert example.shape == (2, 3, 32, 32)
    assert np.allclose(served.predict(example).shape, example.shape)


def test_only_a_finished_run_has_a_model(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # Making a database takes longer on a busy machine than an interrupted run waits for.
    monkeypatch.setattr(tracker, "_PATIENCE", PATIENCE)

    class Stop:
        start = step = lambda self, *_: None

        def epoch_end(self, epoch: int, metrics: object) -> None:
            raise KeyboardInterrupt

        def stop(self) -> None: ...

    options = {"logging__mlflow": {"enable": True}, "logging__drain_seconds": PATIENCE}
    trainer = Pix2pixTrainer(tiny(**options))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(Stop())
    client = MlflowClient(f"sqlite:///{trainer.directory.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    assert list(client.search_logged_models([experiment.experiment_id])) == []
    assert run.data.tags["cuda.version"] == (torch.version.cuda or "none")
    assert "nectargan-train -c" in run.data.tags["mlflow.note.content"]
    contexts = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}
    assert contexts.keys() == {"training", "validation"}
    assert contexts["training"].digest != contexts["validation"].digest


def test_a_model_cannot_be_registered_that_is_not_made(tiny: Make) -> None:
    for option in ({"log_model": False}, {"enable": False}):
        with pytest.raises(ConfigError, match=r"register_model needs"):
            tiny(logging__mlflow={"enable": True, "register_model": "x"} | option)


def test_the_digest_notices_names_and_sizes(tmp_path: Path) -> None:
    def digest(name: str) -> str:
        (dataset,) = describe_datasets(str(tmp_path / name), check_data(str(tmp_path / name)))
        assert (dataset.name, dataset.context, dataset.profile["pairs"]) == (name, "training", 3)
        assert len(dataset.digest) <= 36
        return dataset.digest

    for name in ("one", "same", "renamed", "changed"):
        draw_pairs(tmp_path / name, "train", 3)
    (tmp_path / "renamed" / "train" / "0.png").rename(tmp_path / "renamed" / "train" / "9.png")
    with (tmp_path / "changed" / "train" / "0.png").open("ab") as file:
        file.write(b"\0")
    digests = {name: digest(name) for name in ("one", "same", "renamed", "changed")}
    assert digests["one"] == digests["same"]
    assert len(set(digests.values())) == 3
