"""What several tests need: small images, and a config that trains on them in a second."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from nectargan import credentials
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config
from tests import processes

SIDE = 32

processes.handle_signals_by_default()
processes.adopt_orphans()

# The same examples each time: what is green stays green. HYPOTHESIS_PROFILE=random looks for more.
# No deadline: seconds say nothing on a busy machine.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", print_blob=True, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


# They run the guides, command by command. A worker that got one of them last would work alone.
LONGEST = ("test_readme.py", "test_docs.py", "test_networks.py", "test_benchmarks.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, and the tests of a file in one group, so that one
    worker runs them and shares their fixtures; but for tests that have a group of their own."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Sums come out the same on every machine, and parallel test workers do not fight.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_process_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends what a test started, even if it failed; one that leaves something behind fails."""
    before = processes.children()
    failures = request.session.testsfailed
    yield
    has_failed = request.session.testsfailed > failures
    if processes.children() - before:
        # The traceback of an error that was expected holds a loader, and so its workers.
        gc.collect()
    left = processes.end(processes.started_since(before), grace=0 if has_failed else 30)
    assert has_failed or not left, f"processes were left: {left}"


@pytest.fixture(autouse=True)
def _default_algorithms() -> Any:
    yield
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _nothing_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("NECTARGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        # Set first, so that what MLflow sets in the test is deleted after it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of an address are hidden for the rest of a process."""
    monkeypatch.setattr(credentials, "_known", {})
    monkeypatch.setattr(credentials, "_secret_words", set())


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, which take seconds to make."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def draw_pairs(root: Path, split: str, count: int, side: int = SIDE) -> None:
    """Smooth A|B images: B is the negative of A, which a network can learn."""
    folder = root / split
    folder.mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng((len(split), index))
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        a = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        Image.fromarray(np.concatenate([a, 255 - a], axis=1)).save(folder / f"{index}.png")


@pytest.fixture(scope="session")
def pairs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 6 training and 3 validation pairs of 32 x 32 pixels."""
    root = tmp_path_factory.mktemp("pairs")
    draw_pairs(root, "train", 6)
    draw_pairs(root, "val", 3)
    return root


TINY: dict[str, Any] = {
    "common": {"deterministic": True, "device": "cpu", "experiment_name": "tiny"},
    "dataloader": {"batch_size": 2, "load": {"load_size": 36, "crop_size": 32}},
    "train": {
        "generator": {
            "features": 4,
            "n_downs": 1,
            "learning_rate": {"epochs": 1, "epochs_decay": 1},
        },
        "discriminator": {"base_channels": 4, "n_layers": 1},
    },
    "save": {"num_examples": 2},
    "logging": {"tensorboard": {"enable": False}, "mlflow": {"enable": False}},
}


@pytest.fixture
def tiny(pairs_root: Path, tmp_path: Path) -> Callable[..., Config]:
    """Makes the config of a run of two epochs of three steps, without sinks.

    Options are overridden by keyword, with "__" for the dots.
    """

    def make(**options: Any) -> Config:
        overrides = [
            ("dataloader.dataroot", str(pairs_root)),
            ("common.output_directory", str(tmp_path / "runs")),
            *((key.replace("__", "."), value) for key, value in options.items()),
        ]
        return ConfigManager(TINY, overrides).data

    return make
