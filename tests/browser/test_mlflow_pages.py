"""What MLflow shows of two runs, in a browser that has never been used."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nectargan.analysis import load_runs
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


def lines_of(chart: Any) -> list[str]:
    """The colours of the lines of a chart, once it has two."""
    chart.locator(".scatterlayer .trace").nth(1).wait_for(state="attached")
    return list(
        chart.locator(".scatterlayer .trace path.js-line").evaluate_all(
            "lines => [...new Set(lines.map(line => line.style.stroke))]"
        )
    )


def test_three_clicks_lead_to_a_chart_of_l1_and_its_weight_in_both_runs(
    page: Any, servers: Servers
) -> None:
    page.set_viewport_size({"width": 1500, "height": 1500})
    page.goto(servers.mlflow)
    page.get_by_text("Model training", exact=True).click()  # 1
    page.get_by_role("link", name="fronts", exact=True).first.click()  # 2
    page.locator("label").filter(has=page.locator("input[value=CHART]")).click()  # 3
    for series in ("loss/G_L1/raw", "loss/G_L1/weight"):
        chart = card(page, "loss/G_L1", series)
        for run in ("fronts_v1", "fronts_v2"):
            chart.get_by_text(f"{run} ({series})").wait_for()
        assert len(lines_of(chart)) == 2, "a line of each run"


def test_a_link_leads_to_the_losses_and_their_weights(
    page: Any, servers: Servers, screenshot: Callable[[str], Any]
) -> None:
    page.set_viewport_size({"width": 1900, "height": 1500})
    page.goto(servers.pages["fronts, losses of G and their weights"])
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    cards.first.wait_for()
    close_assistant(page)
    headers = page.get_by_test_id("experiment-view-compare-runs-section-header")
    titles = [text.split("(")[0].strip() for text in headers.all_inner_texts()]
    assert titles[:2] == ["loss/G_GAN", "loss/G_L1"]
    assert not [title for title in titles if title.startswith(("loss/D_", "val", "epoch"))]
    for series in ("loss/G_L1/raw", "loss/G_L1/weight", "loss/G_L1/weighted"):
        chart = card(page, "loss/G_L1", series)
        for run in ("fronts_v1", "fronts_v2"):
            chart.get_by_text(f"{run} ({series})").wait_for()
        assert len(lines_of(chart)) == 2, "a line of each run"
    screenshot("mlflow_compare")


def test_a_link_leads_to_the_table_with_the_best_run_first(
    page: Any, servers: Servers, output: Path, screenshot: Callable[[str], Any]
) -> None:
    page.set_viewport_size({"width": 2000, "height": 600})
    page.goto(servers.pages["fronts, table of runs"])
    page.get_by_role("link", name="fronts_v1").wait_for()
    close_assistant(page)
    runs = load_runs(f"{output}/*").sort_values("best/ssim", ascending=False)
    names = page.get_by_role("link", name=re.compile(r"^fronts_v\d$")).all_inner_texts()
    assert names == list(runs.index)
    page.get_by_role("columnheader", name="best/ssim").first.wait_for()
    page.get_by_role("gridcell").get_by_text("linear 100→10 @ 1–4", exact=True).wait_for()
    screenshot("mlflow_runs")


def test_the_image_view_shows_the_grids_step_by_step(
    page: Any, servers: Servers, screenshot: Callable[[str], Any]
) -> None:
    page.goto(f"{servers.mlflow}{EXPERIMENT}&compareRunsMode=CHART")
    close_assistant(page)
    page.get_by_placeholder("Search metric charts").fill("examples")
    card(page, "Model metrics", "examples").get_by_role("button").first.click()
    grid = page.get_by_role("dialog")
    # A picture of each run is there before anything is touched.
    grid.locator("img").nth(1).wait_for()
    slider = grid.get_by_role("slider")
    steps = [slider.get_attribute("aria-valuenow")]
    for _ in range(2):
        slider.press("ArrowRight")
        grid.locator("img").nth(1).wait_for()
        steps.append(slider.get_attribute("aria-valuenow"))
    assert steps == ["0", "3", "6"]
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
    page.get_by_text("Tensor (dtype: float32, shape: [-1,3,-1,-1])").nth(1).wait_for()
    page.get_by_text("fronts_v2").first.wait_for()
    screenshot("mlflow_model")
