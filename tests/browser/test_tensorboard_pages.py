"""What TensorBoard shows of two runs, without a click."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nectargan.analysis import load_metrics
from tests.browser.conftest import Servers

pytestmark = pytest.mark.browser


def test_custom_scalars_have_the_layout(
    page: Any, servers: Servers, screenshot: Callable[[str], Any]
) -> None:
    page.goto(servers.pages["charts"])
    for title in (
        "generator, raw",
        "generator, weighted",
        "discriminator, weighted",
        "D(real) against D(fake), raw",
        "weights",
        "learning rates",
    ):
        page.get_by_text(title, exact=True).first.wait_for()
    # Of two runs: two losses of G, and two of D.
    page.get_by_text("Matches (4)").nth(3).wait_for()
    for name in ("fronts_v1", "fronts_v2"):
        page.get_by_text(name, exact=True).first.wait_for()
    assert page.get_by_text("/tensorboard").count() == 0
    screenshot("tensorboard_scalars")


def test_images_are_shown(page: Any, servers: Servers, screenshot: Callable[[str], Any]) -> None:
    page.goto(servers.tensorboard + "/#images")
    for tag in ("examples", "loss_maps"):
        page.get_by_text(tag, exact=True).first.wait_for()
    page.locator("img#img, tf-image-loader img").first.wait_for()
    sizes = page.locator("tf-image-loader img").evaluate_all(
        "all => all.map(each => each.naturalWidth)"
    )
    assert 196 in sizes
    screenshot("tensorboard_images")


def test_hparams_compare_two_runs_and_no_more(
    page: Any, servers: Servers, output: Path, screenshot: Callable[[str], Any]
) -> None:
    page.goto(servers.tensorboard + "/#hparams")
    table = page.locator("tf-hparams-table-view")
    for name in ("fronts_v1", "fronts_v2"):
        table.get_by_text(name).first.wait_for()
        metrics = load_metrics(output / name)
        ssim = metrics[metrics["metric"] == "val/ssim"]["value"].iloc[-1]
        # As TensorBoard writes it: five digits that count.
        table.get_by_text(f"{ssim:#.5g}", exact=True).first.wait_for()
    assert table.get_by_role("checkbox").count() == 2  # one for each row
    # One column for the weight of one run and the schedule of the other.
    page.get_by_text("loss.G_L1", exact=True).first.wait_for()
    screenshot("tensorboard_hparams")
