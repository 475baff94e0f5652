"""The page of `nectargan report`, opened from disk in a browser: values, pictures, keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nectargan.analysis.report.page import write_report
from tests.analysis.report.conftest import grey, make_run_with_pictures, test_grey, test_values
from tests.browser.conftest import CHROMIUM
from tests.processes import PATIENCE, wait_until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; name one in NECTARGAN_CHROMIUM"),
]

EVIL = "<script>window.hit=1<"
# The mean grey of a picture, or of a canvas.
GREY = """async (node) => {
  if (node.decode) await node.decode();
  const canvas = document.createElement("canvas");
  canvas.width = node.naturalWidth ?? node.width;
  canvas.height = node.naturalHeight ?? node.height;
  const context = canvas.getContext("2d");
  context.drawImage(node, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, value, i) => sum + (i % 4 < 3 ? value : 0), 0) / (data.length * 0.75);
}"""


def wait_for(page: Any, condition: str, arg: Any = None) -> None:
    """Waits until a JavaScript expression is true, or a function of ``arg``. Playwright's own
    waiting may need `eval`, which the policy of the page forbids."""
    wait_until(lambda: page.evaluate(condition, arg))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of them with a name that is HTML, and their page."""
    folder = tmp_path_factory.mktemp("report")
    for seed, name in enumerate(("a_v1", f"a_{EVIL}")):
        make_run_with_pictures(folder / name, seed)
    write_report(str(folder / "a_*"), folder / "report.html", sort="best/ssim")
    return folder


@pytest.fixture
def sheet(request: pytest.FixtureRequest, folder: Path, chromium: Any) -> Iterator[Any]:
    """The page in a browser; it must ask for nothing, and nothing may go wrong in it."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=getattr(request, "param", "light")
    )
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    address = (folder / "report.html").as_uri()
    page.goto(address)
    yield page
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [address]
    assert wrong == []
    assert page.evaluate("window.hit") is None
    context.close()


def chart(page: Any, label: str) -> Any:
    """A chart, once it is drawn."""
    found = page.get_by_role("figure", name=label, exact=True)
    found.scroll_into_view_if_needed()
    found.locator(".main-svg").first.wait_for()
    return found


def traces(found: Any) -> list[dict[str, Any]]:
    code = "(node) => node.data.map(({x, y, name, meta}) => ({x: [...x], y: [...y], name, meta}))"
    return list(found.evaluate(code))


def picture(page: Any, label: str) -> Any:
    button = page.get_by_role("button", name=label, exact=True)
    button.scroll_into_view_if_needed()
    shown = button.locator("img, canvas")
    shown.wait_for()
    return shown


def test_the_values_of_the_charts_are_those_of_the_ledgers(sheet: Any, folder: Path) -> None:
    runs = {"&lt;script>window.hit=1&lt;": f"a_{EVIL}", "v1": "a_v1"}
    for group, column in (("Losses, raw", "raw"), ("Weights", "weight")):
        for loss in ("G_L1", "D_real"):
            found = traces(chart(sheet, f"{group}: {loss}"))
            assert [trace["name"] for trace in found] == list(runs)
            for trace in found:
                rows = pd.read_csv(folder / runs[trace["name"]] / "losses.csv")
                rows = rows[rows["loss"] == loss]
                assert trace["x"] == list(rows["step"])
                assert np.array_equal(np.float32(trace["y"]), rows[column].astype("float32"))
    ssim = [trace["y"] for trace in traces(chart(sheet, "Validation: ssim"))]
    assert np.allclose(ssim, [[0.1, 0.31], [0.1, 0.3]])


def test_charts_are_smoothed_zoomed_and_their_runs_chosen(sheet: Any, folder: Path) -> None:
    # Charts that are out of sight are drawn later, so nothing may have to be scrolled to.
    sheet.set_viewport_size({"width": 1280, "height": 6000})
    found = chart(sheet, "Losses, raw: G_L1")
    raw = traces(found)[0]["y"]
    sheet.locator("#smoothing").fill("0.5")
    values, smooth = traces(found)[:2]
    assert (values["meta"], smooth["meta"]) == ("value", "smooth")
    assert values["y"] == raw
    weights = 0.5 ** np.arange(20)[::-1]
    assert smooth["y"][-1] == pytest.approx(np.average(raw, weights=weights), rel=1e-5)
    sheet.locator("#smoothing").fill("0")

    sheet.locator("#x").select_option("epoch")
    assert np.allclose(traces(found)[0]["x"], np.arange(1, 21) / 10)
    sheet.locator("#x").select_option("step")
    found.focus()
    low, high = found.evaluate("(node) => node.layout.xaxis.range")
    found.press("+")
    wait_for(
        sheet,
        "([node, width]) => node.layout.xaxis.range[1] - node.layout.xaxis.range[0] < width * 0.6",
        arg=[found.element_handle(), high - low],
    )
    found.press("0")
    wait_for(
        sheet,
        "([node, high]) => node.layout.xaxis.range[1] === high",
        arg=[found.element_handle(), high],
    )
    weight = chart(sheet, "Weights: G_L1")
    sheet.locator("#log").check()
    wait_for(sheet, "(node) => node.layout.yaxis.type === 'log'", arg=weight.element_handle())
    assert found.evaluate("(node) => node.layout.yaxis.type") == "linear", "not all is positive"
    toggle = sheet.locator("#legend button").first
    toggle.press("Enter")
    assert toggle.get_attribute("aria-pressed") == "false"
    assert [trace["name"] for trace in traces(chart(sheet, "Weights: G_L1"))] == ["v1"]


def test_ten_runs_are_seen_at_once(sheet: Any) -> None:
    grid = sheet.locator("#grid")
    columns = grid.evaluate("node => node.style.getPropertyValue('--columns')")
    assert int(columns) == grid.locator("tr").first.locator("th").count()
    button = grid.locator("button").first
    wide = button.evaluate("node => node.getBoundingClientRect().width")
    grid.evaluate("node => node.style.setProperty('--columns', 12)")
    narrow = button.evaluate("node => node.getBoundingClientRect().width")
    assert wide == 170
    assert 12 * (narrow + 10) <= sheet.locator("section .scroll").first.evaluate(
        "node => node.clientWidth"
    )
    assert narrow >= 88


def test_the_epoch_slider_changes_the_pictures(sheet: Any) -> None:
    # The second run is the first in the order of the page; its seed is 1.
    for epoch, key in ((2, None), (1, "ArrowLeft"), (0, "ArrowLeft"), (2, "End")):
        if key:
            sheet.locator("#epoch").press(key)
        assert sheet.locator("#epoch-shown").inner_text() == str(epoch)
        for seed, name in ((1, EVIL), (0, "v1")):
            shown = picture(sheet, f"Pair 2, {name}, epoch {epoch}")
            assert shown.evaluate(GREY) == pytest.approx(grey(seed, epoch, 1), abs=2)
    assert picture(sheet, "Pair 2, target").evaluate(GREY) == pytest.approx(201, abs=2)
    sheet.locator("#show").select_option("difference")
    canvas = sheet.get_by_role("button", name="Pair 1, v1, epoch 2", exact=True).locator("canvas")
    canvas.wait_for()
    assert canvas.evaluate(GREY) == pytest.approx(min(255, 2 * (200 - grey(0, 2, 0))), abs=6)


def test_a_picture_is_enlarged_compared_and_closed_with_the_keyboard(sheet: Any) -> None:
    picture(sheet, "Pair 1, v1, epoch 2")
    first = sheet.get_by_role("button", name="Pair 1, input", exact=True)
    first.focus()
    first.press("ArrowRight")
    sheet.keyboard.press("ArrowRight")
    sheet.keyboard.press("ArrowDown")
    sheet.keyboard.press("ArrowUp")
    assert sheet.evaluate("document.activeElement.ariaLabel") == "Pair 1, v1, epoch 2"
    sheet.keyboard.press("Enter")
    dialog = sheet.get_by_role("dialog")
    dialog.wait_for()
    # Before is the target and after what was generated; the divider has the focus.
    left, right = sheet.locator("#left-image"), sheet.locator("#right-image")
    assert left.evaluate(GREY) == pytest.approx(200, abs=2)
    assert right.evaluate(GREY) == pytest.approx(grey(0, 2, 0), abs=2)
    clip = "(node) => getComputedStyle(node).clipPath"
    before = left.evaluate(clip)
    sheet.keyboard.press("ArrowRight")
    assert (before, left.evaluate(clip)) == ("inset(0px 50% 0px 0px)", "inset(0px 49% 0px 0px)")
    sheet.locator("#left").select_option(label="v1, epoch 0")
    assert left.evaluate(GREY) == pytest.approx(grey(0, 0, 0), abs=2)
    sheet.locator("#differs").check()
    sheet.locator("#difference").wait_for()
    wait_for(sheet, "document.getElementById('difference').width === 32")
    assert sheet.locator("#difference").evaluate(GREY) == pytest.approx(2 * 16, abs=4)
    sheet.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert sheet.evaluate("document.activeElement.ariaLabel") == "Pair 1, v1, epoch 2"


def test_the_best_and_the_worst_images_and_their_values(sheet: Any) -> None:
    spread = sheet.locator("#spread")
    spread.scroll_into_view_if_needed()
    found = spread.evaluate("(node) => node.data.map(({y, text}) => [[...y], text])")
    for seed, (values, names) in zip((1, 0), found, strict=True):
        assert values == pytest.approx(test_values(seed), rel=1e-8)
        assert names == ["a", "b", "c", "d"]
    # Of the lowest L1, row 1, to the highest, row 0.
    row = sheet.locator("#images tr").nth(2)
    captions = row.locator("figcaption").all_inner_texts()
    assert captions[:4] == ["b: 0.1000", "d: 0.2000", "c: 0.3000", "a: 0.4000"]
    shown = row.locator("img").first
    shown.wait_for()
    assert shown.evaluate(GREY) == pytest.approx(test_grey(0, 1), abs=2)
    row.locator("button").first.click()
    assert sheet.locator("#large-title").inner_text() == "b: 0.1000"


@pytest.mark.parametrize("sheet", ["light", "dark"], indirect=True)
def test_colours_follow_the_scheme_and_nothing_is_wider_than_a_phone(
    sheet: Any, request: pytest.FixtureRequest
) -> None:
    is_dark = "dark" in request.node.name
    colour = sheet.evaluate("getComputedStyle(document.body).backgroundColor")
    values = [int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    assert (max(values) < 60) == is_dark
    sheet.set_viewport_size({"width": 420, "height": 900})
    assert sheet.evaluate("document.documentElement.scrollWidth") <= 420
    chart(sheet, "Weights: G_L1")


@pytest.mark.slow
def test_a_picture_for_the_guide(output: Path, tmp_path: Path, chromium: Any) -> None:
    write_report(str(output / "*"), tmp_path / "report.html")
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.goto((tmp_path / "report.html").as_uri())
    chart(page, "Losses, weighted: G_L1")
    page.locator("#pictures-section").evaluate("(node) => node.scrollIntoView()")
    picture(page, "Pair 1, v2, epoch 5")
    wait_for(page, "document.querySelectorAll('#grid img').length >= 8")
    path = Path(os.environ.get("NECTARGAN_SCREENSHOTS", tmp_path)).resolve() / "report.png"
    page.screenshot(path=path)
    page.close()
    with Image.open(path) as shot:
        shot.convert("RGB").quantize(128).save(path, optimize=True)
    assert path.stat().st_size < 200_000
