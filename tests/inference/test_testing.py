"""`nectargan test`: values of each image, intervals, comparisons, and where they go."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from nectargan import load_metrics, load_runs
from nectargan.analysis.compare import compare_runs
from nectargan.analysis.report.pictures import rows_of
from nectargan.cli.main import main
from nectargan.config.config_manager import ConfigManager
from nectargan.inference.bootstrap import counts_of, difference, draw_samples, interval, means_of
from nectargan.metrics import METRICS
from nectargan.metrics.networks import NETWORKS
from nectargan.metrics.weights import VARIABLE
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import read_tests
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.conftest import TINY
from tests.metrics.test_networks import random_state

PLAIN = "l1,psnr,ssim"


def run_test(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["test", *map(str, arguments)])


@pytest.fixture
def run(trained: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(trained.path, tmp_path / "mine_v1"))


@pytest.fixture(autouse=True)
def _no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of which nothing can be had, and an empty cache."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name, network in NETWORKS.items():
        absent = network.file._replace(url=(tmp_path / "absent").as_uri())
        monkeypatch.setitem(NETWORKS, name, network._replace(file=absent))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with random weights of all networks."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, network in list(NETWORKS.items()):
        path = folder / name
        torch.save(random_state(network.make()), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = network.file._replace(name=f"{name}-{digest[:8]}.pth")
        path.rename(folder / file.name)
        monkeypatch.setitem(NETWORKS, name, network._replace(file=file))
    return folder


def test_values_of_images_are_those_of_validation(run: RunDirectory, pairs_root: Path) -> None:
    done = run_test(
        run, "-d", pairs_root, "--split", "val", "--metrics", PLAIN, "--checkpoint", "last"
    )
    assert done.exit_code == 0, done.output
    table = pd.read_csv(run.test_values("val"))
    assert list(table.columns) == ["image", "l1", "psnr", "ssim"]
    assert list(table["image"].astype(str)) == ["0", "1", "2"]
    assert [path.name for path in sorted(run.test_images("val").iterdir())] == [
        run.test_image("val", row).name for row in range(3)
    ]
    with Image.open(run.test_image("val", 1)) as grid:
        _, made, target = rows_of(np.asarray(grid), (32, 32))[0]
    difference = np.abs(made.astype(float) - target).mean() / 255
    assert difference == pytest.approx(table["l1"][1], abs=1 / 255)
    (record,) = read_tests(run)
    history = load_metrics(run)
    for name in ("l1", "psnr", "ssim"):
        wanted = history[history["metric"] == f"val/{name}"]["value"].iloc[-1]
        measured = record.metrics[name]
        assert table[name].mean() == pytest.approx(measured.value, rel=1e-6)
        assert measured.value == pytest.approx(float(wanted), rel=1e-5)
        low, high = interval(means_of(table[name].to_numpy(), draw_samples(3)))
        assert (measured.low, measured.high) == pytest.approx((low, high), rel=1e-6)
        assert low < measured.value < high
    assert (record.n, record.size, record.dropout) == (3, (32, 32), False)
    assert record.resizer == "bicubic (Pillow)"
    assert record.epoch == 2
    assert max(map(len, done.output.splitlines()[:-1])) <= 80


def test_all_metrics_with_their_networks(
    run: RunDirectory, pairs_root: Path, weights: Path
) -> None:
    words = (run, "-d", pairs_root, "--split", "val", "--size", 176, "--weights", weights)
    done = run_test(*words, "--metrics", ",".join(METRICS))
    assert done.exit_code == 0, done.output
    (record,) = read_tests(run)
    assert set(record.metrics) == set(METRICS)
    assert list(pd.read_csv(run.test_values("val")).columns)[1:] == [
        name for name, metric in METRICS.items() if not metric.of_set
    ]
    for path in weights.iterdir():
        assert record.weights[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "FID of 3 images is biased" in record.warnings[0]
    assert "FID of 3 images is biased" in done.output
    assert record.metrics["kid"].low is not None
    assert record.metrics["fid"].low is None
    assert "299 x 299" in record.resizer
    assert all(np.isfinite(each.value) for each in record.metrics.values())


def test_missing_values_are_left_out(run: RunDirectory, pairs_root: Path) -> None:
    done = run_test(run, "-d", pairs_root, "--split", "val")
    assert done.exit_code == 0, done.output
    (record,) = read_tests(run)
    assert set(record.metrics) == {"l1", "psnr", "ssim"}
    for name, file in {
        "lpips": "alexnet-owt-7be5be79.pth (SHA-256 7be5be79...)",
        "dists": "vgg16-397923af.pth (SHA-256 397923af...)",
        "fid": "pt_inception-2015-12-05-6726825d.pth (SHA-256 6726825d...)",
        "kid": "pt_inception-2015-12-05-6726825d.pth",
    }.items():
        assert f"{name} is left out: {file}" in done.output
    assert "ms_ssim is left out: it needs images of at least 176 x 176" in done.output
    none = run_test(run, "-d", pairs_root, "--split", "val", "--metrics", "lpips")
    assert none.exit_code == 2
    assert "Nothing can be measured. lpips is left out" in none.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--metrics", "lpisp"), "'lpisp' is neither a metric nor an import path. Did you mean 'l"),
        (("--metrics", "l1,l1"), "--metrics: 'l1' is measured twice."),
        (("--metrics", "nowhere.l3"), "The metric 'l3' of --metrics"),
        (("--metrics", "torch.pi"), "which is neither a function nor a class with callable"),
        (("--metrics", "numpy.psnr"), "a metric of your own needs a name other than 'psnr'."),
        (("--metrics", "[1"), "--metrics: it is not a JSON list."),
        (("--metrics", '[{"name": "a"}]'), "--metrics: function: Field required."),
        (("--metrics", ","), "contains no metric"),
        (("--size", "0"), "--size is '0'"),
        (("--size", "100000"), "--size is '100000'; allowed: 1 to 99999 pixels"),
        (("--weights", "nowhere"), "--weights is 'nowhere', which is not a directory."),
        (("--size", "8", "--protocol", "pix2pix"), "leave out --size"),
        (("--split", "test"), "'test' is missing"),
    ],
)
def test_bad_input_is_one_sentence(
    run: RunDirectory, pairs_root: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = run_test(run, "-d", pairs_root, "--split", "val", *words)
    assert done.exit_code == 2, done.output
    assert sentence in done.output
    assert not run.tests.exists()


def test_custom_metrics(
    run: RunDirectory, pairs_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_test_metrics.py").write_text(
        "def worst(x, y, power=1):\n"
        "    return (x - y).abs().amax(dim=(1, 2, 3)) ** power\n\n"
        "worst.higher_is_better = False\n\n"
        "def error(x, y):\n"
        "    return (x - y).abs().mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = [
        "l1",
        {"function": "own_test_metrics.error", "higher_is_better": False},
        "own_test_metrics.worst",
        {"function": "own_test_metrics.worst", "name": "squared", "arguments": {"power": 2}},
    ]
    words = ("-d", pairs_root, "--split", "val", "--metrics", json.dumps(names))
    done = run_test(run, *words)
    assert done.exit_code == 0, done.output
    (record,) = read_tests(run)
    assert list(record.metrics) == ["l1", "error", "worst", "squared"]
    assert not any(each.higher_is_better for each in record.metrics.values())
    table = pd.read_csv(run.test_values("val"))
    assert list(table["squared"]) == pytest.approx(list(table["worst"] ** 2))
    assert (table["worst"] > table["l1"]).all()
    assert record.metrics["error"].value == pytest.approx(record.metrics["l1"].value)
    assert "worst" in done.output
    compared = run_test(run, run.checkpoint(1), *words[:-1], "l1,own_test_metrics.worst")
    assert compared.exit_code == 0, compared.output
    assert compared.stdout.count("vs best") == 2
    wrong = {"function": "own_test_metrics.worst", "higher_is_better": True}
    done = run_test(run, *words[:-1], json.dumps([wrong]))
    assert done.exit_code == 2
    assert "has higher_is_better True, but 'own_test_metrics.worst' says False" in done.output


def test_dropout_is_seeded_and_the_protocol_has_it(run: RunDirectory, pairs_root: Path) -> None:
    words = (run, "-d", pairs_root, "--split", "val", "--metrics", "l1", "--format", "json")

    def found(*more: object) -> dict[str, Any]:
        done = run_test(*words, *more)
        assert done.exit_code == 0, done.output
        (record,) = json.loads(done.stdout)
        return dict(record)

    on = found("--protocol", "pix2pix", "--seed", 1)
    assert (on["size"], on["dropout"], on["protocol"]) == ([256, 256], True, "pix2pix")
    assert found("--protocol", "pix2pix", "--seed", 1)["metrics"] == on["metrics"]
    assert found("--size", 256)["metrics"] == found("--size", 256)["metrics"]


def test_models_are_compared_on_the_same_images(run: RunDirectory, pairs_root: Path) -> None:
    first, last = (run.checkpoint(epoch) for epoch in (1, 2))
    words = ("-d", pairs_root, "--split", "val", "--metrics", "l1,psnr")
    done = run_test(first, last, *words)
    assert done.exit_code == 0, done.output
    assert "vs best" in done.output
    assert max(map(len, done.stdout.splitlines())) <= 80, done.output
    # Which of both would test/val.csv be of?
    assert "was named more than once" in done.stderr
    assert not run.tests.exists()


def test_the_bootstrap_is_paired() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0, 10, 200)
    better = base + 0.1 + rng.normal(0, 0.01, 200)
    samples = draw_samples(200)
    mine, other = ((v.mean(), means_of(v, samples)) for v in (better, base))
    # Apart by far less than either varies.
    assert interval(mine[1])[0] < other[0]
    found = difference(mine, other, higher_is_better=True)
    assert found.value == pytest.approx(0.1, abs=0.01)
    assert 0.09 < found.low < found.value < found.high < 0.11
    assert found.chance == 1.0
    assert difference(mine, other, higher_is_better=False).chance == 0.0
    same = difference(mine, mine, higher_is_better=True)
    assert (same.value, same.low, same.high, same.chance) == (0.0, 0.0, 0.0, 0.5)
    # The interval of a mean is that of the normal law.
    low, high = interval(other[1])
    assert (high - low) / 2 == pytest.approx(1.96 * base.std() / 200**0.5, rel=0.1)
    counts = counts_of(samples)
    assert (counts.sum(1) == 200).all()
    assert counts @ base / 200 == pytest.approx(other[1])
    endless = np.array([1.0, np.inf, 2.0])
    assert interval(means_of(endless, draw_samples(3)))[1] == np.inf


def test_tests_are_in_mlflow_and_in_tables(
    pairs_root: Path, tmp_path: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    overrides = [
        ("dataloader.dataroot", str(pairs_root)),
        ("common.output_directory", str(tmp_path)),
        ("save.model_save_rate", 2),
        ("logging.mlflow.enable", True),
        ("logging.mlflow.log_model", False),
        ("logging.mlflow.tracking_uri", f"sqlite:///{tmp_path / 'mlflow.db'}"),
    ]
    run = Pix2pixTrainer(ConfigManager(TINY, overrides).data).train(display=None)
    from mlflow.entities import LoggedModelOutput
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_id = json.loads(run.mlflow_run.read_text("utf-8"))["run_id"]
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, "generator", source_run_id=run_id)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 6)])
    copy = RunDirectory(shutil.copytree(run.path, tmp_path / "copy_v1"))
    shutil.copytree(pairs_root / "val", tmp_path / "data" / "test")
    done = run_test(run, "-d", tmp_path / "data", "--metrics", "l1,psnr")
    assert done.exit_code == 0, done.output
    (record,) = read_tests(run)

    (point,) = client.get_metric_history(run_id, "test/l1")
    assert point.value == pytest.approx(record.metrics["l1"].value)
    shown = client.get_logged_model(model.model_id).metrics
    assert {each.key for each in shown} == {"test/l1", "test/psnr"}
    assert {(each.step, each.run_id) for each in shown} == {(6, run_id)}
    assert {(each.dataset_name, each.dataset_digest) for each in shown} == {("data", record.digest)}
    assert {each.path for each in client.list_artifacts(run_id, "test")} == {
        "test/test.csv",
        "test/test.json",
    }

    frame = load_runs([run, copy])
    assert frame["test/l1"].tolist() == pytest.approx(
        [record.metrics["l1"].value, float("nan")], nan_ok=True
    )
    mlflow = load_runs(f"mlflow:{run_id}", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert mlflow["test/l1"].item() == pytest.approx(record.metrics["l1"].value)
    assert next(iter(compare_runs([copy, run], sort="test/l1").index)) == run.name
    assert "test/psnr" in compare_runs([copy, run]).columns
