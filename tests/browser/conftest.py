"""Two real runs, a real MLflow server and a real TensorBoard on them, and a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from nectargan.config.config_manager import ConfigManager
from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer
from tests.processes import PATIENCE

CHROMIUM = os.environ.get("NECTARGAN_CHROMIUM") or shutil.which("chromium")
# As root Chromium has no sandbox; and it is to ask nobody outside for anything.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCHEDULE = "linear 100->10 @ 1-4"
CONFIG: dict[str, Any] = {
    "common": {"experiment_name": "fronts", "device": "cpu"},
    "dataloader": {"batch_size": 4, "load": {"load_size": 68, "crop_size": 64}},
    "train": {
        "generator": {
            "features": 12,
            "n_downs": 3,
            "learning_rate": {"epochs": 3, "epochs_decay": 2, "initial": 0.002},
        },
        "discriminator": {"base_channels": 8, "n_layers": 1},
    },
    "save": {"num_examples": 3},
    "logging": {
        "loss_map_every_n_epochs": 1,
        "histogram_every_n_epochs": 1,
        "tensorboard": {"every_n_steps": 1},
        "mlflow": {"every_n_steps": 1, "register_model": "fronts"},
    },
}


class Servers(NamedTuple):
    """Where the pages are."""

    mlflow: str
    tensorboard: str
    pages: dict[str, str]  # the links that are printed, by what they show


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def _no_process_is_left() -> None:
    """In place of the check after each test: a browser starts helpers when it likes. They end with
    it, and the servers, at the end of the session."""


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory with two runs: one with a constant weight of L1, one with a schedule."""
    if CHROMIUM is None:
        pytest.skip("no Chromium; name one in NECTARGAN_CHROMIUM")
    from nectargan.dataset.synthetic import synthesize

    root = tmp_path_factory.mktemp("pages")
    synthesize(root / "fronts", train=12, val=4, test=0, size=64, seed=0)
    for weight in (100.0, SCHEDULE):
        options = [
            ("dataloader.dataroot", str(root / "fronts")),
            ("common.output_directory", str(root / "runs")),
            ("train.loss.G_L1", weight),
        ]
        Pix2pixTrainer(ConfigManager(CONFIG, options).data).train()
    return root / "runs"


@pytest.fixture(scope="session")
def servers(output: Path) -> Iterator[Servers]:
    """`nectargan ui` on that directory."""
    ports = free_port(), free_port()
    with subprocess.Popen(
        [
            *(sys.executable, "-c", "from nectargan.cli.main import main; main()", "ui", output),
            *("--mlflow-port", str(ports[0]), "--tensorboard-port", str(ports[1])),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as ui:
        pages: dict[str, str] = {}
        try:
            assert ui.stdout is not None
            while not (line := ui.stdout.readline()).startswith("Ctrl-C"):
                assert line, "it ended"
                if line.startswith("  "):
                    title, _, url = line.strip().partition(": ")
                    pages[title] = url
            yield Servers(*(f"http://127.0.0.1:{port}" for port in ports), pages)
        finally:
            ui.send_signal(signal.SIGINT)
            ui.wait(PATIENCE)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(servers: Servers, chromium: Any) -> Iterator[Any]:
    """A page of a browser that has never been used, and reaches this machine alone."""
    context = chromium.new_context(viewport={"width": 1500, "height": 940})
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    here = ("http://127.0.0.1", "data:", "blob:")
    page.route(lambda url: not url.startswith(here), lambda route: route.abort())
    yield page
    context.close()


@pytest.fixture
def screenshot(page: Any, tmp_path: Path) -> Callable[[str], Path]:
    """Takes a picture of the page, into NECTARGAN_SCREENSHOTS if that is set."""
    folder = Path(os.environ.get("NECTARGAN_SCREENSHOTS", tmp_path)).resolve()

    def take(name: str) -> Path:
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(128).save(path, optimize=True)
        assert path.stat().st_size < 300_000
        return path

    return take
