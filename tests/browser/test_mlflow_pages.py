"""What MLflow shows of two runs, in a browser that has never been used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import Servers

pytestmark = pytest.mark.browser

EXPERIMENT = "/#/experiments/1/runs?workflowType=machine_learning"


def close_assistant(page: Any) -> None:
    page.get_by_role("button", name="Close", exact=True).click()


def card(page: Any, section: str, title: str) -> Any:
    """The chart with this title; charts are drawn when their section comes into view."""
    headers = page.get_by_test_id("experiment-view-compare-runs-section-header")
    headers.filter(has_text=section).first.scroll_into_view_if_needed()
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    found = cards.filter(has=page.get_by_text(title, exact=True))
    found.scroll_into_view_if_needed()
    return found


def test_the_table_shows_both_runs_with_their_params(
    page: Any, servers: Servers, screenshot: Callable[[str], Any]
) -> None:
    page.set_viewport_size({"width": 2000, "height": 600})
    page.goto(servers.mlflow + EXPERIMENT)
    close_assistant(page)
    for name in ("fronts_v1", "fronts_v2"):
        page.get_by_role("link", name=name).wait_for()
    page.get_by_role("button", name="Columns").click()
    page.get_by_placeholder("Search columns").fill("G_L1.")
    page.get_by_text("Parameters (2)").click()
    page.get_by_placeholder("Search columns").fill("best/ssim")
    page.get_by_text("Metrics (2)").click()
    page.keyboard.press("Escape")
    page.get_by_role("gridcell").get_by_text("linear 100→10 @ 1–4", exact=True).wait_for()
    page.get_by_role("gridcell").get_by_text("100.0", exact=True).wait_for()
    screenshot("mlflow_runs")


def test_three_clicks_lead_to_a_chart_of_l1_and_its_weight_in_both_runs(
    page: Any, servers: Servers, screenshot: Callable[[str], Any]
) -> None:
    page.set_viewport_size({"width": 1500, "height": 1500})
    page.goto(servers.mlflow)
    page.get_by_text("Model training", exact=True).click()  # 1
    page.get_by_role("link", name="fronts", exact=True).first.click()  # 2
    page.locator("label").filter(has=page.locator("input[value=CHART]")).click()  # 3
    for section, series in (("loss/G_L1", "loss/G_L1/raw"), ("weight", "weight/G_L1")):
        chart = card(page, section, series)
        for run in ("fronts_v1", "fronts_v2"):
            chart.get_by_text(f"{run} ({series})").wait_for()
        chart.locator(".scatterlayer .trace").nth(1).wait_for(state="attached")
        colours = chart.locator(".scatterlayer .trace path.js-line").evaluate_all(
            "lines => [...new Set(lines.map(line => line.style.stroke))]"
        )
        assert len(colours) == 2  # a line of each run
    # For the picture, these charts alone.
    close_assistant(page)
    page.get_by_placeholder("Search metric charts").fill("/G_L1")
    card(page, "weight", "weight/G_L1").locator(".scatterlayer .trace").nth(1).wait_for(
        state="attached"
    )
    screenshot("mlflow_compare")


def test_the_image_view_shows_the_grids_step_by_step(
    page: Any, servers: Servers, screenshot: Callable[[str], Any]
) -> None:
    page.goto(f"{servers.mlflow}{EXPERIMENT}&compareRunsMode=CHART")
    close_assistant(page)
    page.get_by_placeholder("Search metric charts").fill("examples")
    card(page, "Model metrics", "examples").get_by_role("button").first.click()
    grid = page.get_by_role("dialog")
    slider = grid.get_by_role("slider")
    steps = []
    for _ in range(2):
        slider.press("ArrowRight")
        grid.locator("img").nth(1).wait_for()
        steps.append(slider.get_attribute("aria-valuenow"))
    assert steps == ["3", "6"]
    grid.get_by_role("spinbutton").fill("15")
    page.keyboard.press("Tab")
    images = grid.locator("img")
    images.nth(1).wait_for()
    sizes = images.evaluate_all(
        "all => Promise.all(all.map(async each => { await each.decode();"
        " return [each.naturalWidth, each.naturalHeight]; }))"
    )
    # Three pairs of three images of 64 pixels, with gaps of 2.
    assert sizes == [[196, 196], [196, 196]]
    images.first.scroll_into_view_if_needed()
    screenshot("mlflow_images")


def test_the_page_of_the_model_shows_its_signature(
    page: Any, servers: Servers, screenshot: Callable[[str], Any]
) -> None:
    page.goto(f"{servers.mlflow}/#/models/fronts/versions/2")
    close_assistant(page)
    for row in ("Inputs (1)", "Outputs (1)"):
        page.get_by_text(row).click()
    page.get_by_text("Tensor (dtype: float32, shape: [-1,3,64,64])").nth(1).wait_for()
    page.get_by_text("fronts_v2").first.wait_for()
    screenshot("mlflow_model")
